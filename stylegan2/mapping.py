"""The mapping network z → w, the running mean of w, and truncation.

Source: StyleGAN (arXiv 1812.04948), sections 2 and B.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from stylegan2.equalized import EqualizedLinear


class MappingNetwork(nn.Module):
    """z ∈ Z to w ∈ W: normalise, then `n_layers` linear layers with leaky ReLU, learning 100 times slower than the
    rest.

    Args:
        features: the size of z and of w.
        n_layers: 8 in the papers.
        decay: of the running mean of w that truncation pulls to.
    """

    mean_w: Tensor

    def __init__(self, features: int, n_layers: int, decay: float = 0.995):
        super().__init__()
        self.layers = nn.ModuleList(
            EqualizedLinear(features, features, gain=math.sqrt(2), lr_mul=0.01) for _ in range(n_layers))
        self.register_buffer("mean_w", torch.zeros(features))
        self.decay = decay

    def forward(self, z: Float[Tensor, "batch features"]) -> Float[Tensor, "batch features"]:
        w = z * torch.rsqrt(z.square().mean(dim=1, keepdim=True) + 1e-8)  # second moment 1, not length 1
        for layer in self.layers:
            w = F.leaky_relu(layer(w), 0.2)
        return w

    @torch.no_grad()
    def update_mean(self, w: Float[Tensor, "batch features"]) -> None:
        """Move the running mean a step of 1 − decay to this batch's mean (called once per training batch)."""
        self.mean_w.lerp_(w.float().mean(dim=0), 1 - self.decay)

    def truncate(self, w: Float[Tensor, "*batch features"], psi: float) -> Float[Tensor, "*batch features"]:
        """w̄ + ψ(w − w̄): ψ = 1 changes nothing, ψ = 0 gives the mean image. For a cutoff, truncate the first layers
        only.
        """
        return torch.lerp(self.mean_w.expand_as(w), w, psi)
