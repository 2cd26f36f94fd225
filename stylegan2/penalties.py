"""Losses that are made of gradients.

On a GPU that rounds float32 to TF32, compute the images or scores, the penalty and its backward pass inside
`stylegan2.precision.exact_float32()`, as the trainer does.

Sources: R1 and R2 from Mescheder et al. (arXiv 1801.04406), equation 9; WGAN-GP from Gulrajani et al. (arXiv
1704.00028), equation 3; path length from StyleGAN2 (arXiv 1912.04958), equation 4.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


class GradientPenalty(nn.Module):
    """R1 without its weight: E‖∇ₓD(x)‖² over real images (R2: over generated ones); the loss is γ/2 times this."""

    def forward(self, x: Float[Tensor, "batch channels h w"], d: Float[Tensor, "batch 1"]) -> Float[Tensor, ""]:
        """
        Args:
            x: images with `requires_grad`. γ counts in their units: [−1, 1] here.
            d: the scores of x.

        Raises:
            ValueError: x does not require a gradient.
        """
        return squared_gradient_norms(x, d).mean()


class WassersteinGradientPenalty(nn.Module):
    """WGAN-GP without its weight: E(‖∇ₓD(x̂)‖ − 1)² over `interpolates`; the loss is λ = 10 times this."""

    def forward(self, x: Float[Tensor, "batch channels h w"], d: Float[Tensor, "batch 1"]) -> Float[Tensor, ""]:
        """
        Args:
            x: `interpolates(real, fake)`.
            d: the scores of x.

        Raises:
            ValueError: x does not require a gradient.
        """
        return (root(squared_gradient_norms(x, d)) - 1).square().mean()


def interpolates(real: Float[Tensor, "batch channels h w"],
                 fake: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch channels h w"]:
    """x̂ = real + t·(fake − real), t ∈ [0, 1] drawn per sample: leaves that require a gradient."""
    t = torch.rand(len(real), 1, 1, 1, device=real.device, dtype=real.dtype)
    return torch.lerp(real.detach(), fake.detach(), t).requires_grad_()


def squared_gradient_norms(x: Float[Tensor, "batch channels h w"],
                           d: Float[Tensor, "batch 1"]) -> Float[Tensor, "batch"]:
    """‖∇ₓD(x)‖² per sample, differentiable."""
    if not x.requires_grad:
        raise ValueError("the images do not require a gradient: call x.requires_grad_() before the discriminator "
                         "sees them")
    # Samples do not see each other's score but through minibatch std, so the gradient of the sum is each one's own.
    gradient, = torch.autograd.grad(d.sum(), x, create_graph=True)  # [batch, channels, h, w]
    return gradient.square().sum(dim=(1, 2, 3))


def root(squares: Float[Tensor, "batch"]) -> Float[Tensor, "batch"]:
    """√, with the gradient 0 at 0, where that of `torch.sqrt` is infinite and makes NaN of any chain it is in."""
    zero = squares == 0
    return squares.masked_fill(zero, 1).sqrt().masked_fill(zero, 0)


class PathLengthPenalty(nn.Module):
    """E(‖Jᵀy‖ − a)²: a step in w should change the image by the same amount everywhere and in every direction.

    Args:
        beta: decay of a, the running mean of the lengths.
    """

    mean_length: Tensor

    def __init__(self, beta: float = 0.99):
        super().__init__()
        self.beta = beta
        self.register_buffer("mean_length", torch.zeros([]))

    def forward(self, w: Float[Tensor, "layers batch d_latent"],
                x: Float[Tensor, "batch channels h w"]) -> Float[Tensor, ""]:
        """
        Args:
            w: the w of every block or layer, from which x was generated.
            x: generated images.

        Returns:
            The penalty. Its gradient flows through the running mean too, by the share 1 − beta of this batch.
        """
        lengths = path_lengths(w, x)
        mean_length = torch.lerp(self.mean_length, lengths.mean(), 1 - self.beta)
        self.mean_length.copy_(mean_length.detach())
        return (lengths - mean_length).square().mean()


def path_lengths(w: Float[Tensor, "layers batch d_latent"], x: Float[Tensor, "batch channels h w"],
                 y: Float[Tensor, "batch channels h w"] | None = None) -> Float[Tensor, "batch"]:
    """‖Jᵀy‖ per sample, J = ∂x/∂w: squares are summed over d_latent, averaged over the layers.

    Args:
        w: the w of every block or layer, from which x was generated.
        x: generated images.
        y: random images N(0, 1/(h·w)); drawn when not given.

    Raises:
        ValueError: w does not require a gradient.
    """
    if not w.requires_grad:
        raise ValueError("w does not require a gradient: path lengths are gradients with respect to w")
    if y is None:
        y = torch.randn_like(x) / math.sqrt(x.shape[2] * x.shape[3])
    gradient, = torch.autograd.grad((x * y).sum(), w, create_graph=True)  # Jᵀy, [layers, batch, d_latent]
    return root(gradient.square().sum(dim=2).mean(dim=0))
