"""The mapping network z → w, with class labels where there are any, the running mean of w, and truncation.

Sources: StyleGAN (arXiv 1812.04948), sections 2 and B; labels as in StyleGAN2-ADA (arXiv 2006.06676).
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from stylegan2.equalized import EqualizedLinear


class MappingNetwork(nn.Module):
    """z ∈ Z to w ∈ W: normalise, then `n_layers` linear layers with leaky ReLU, learning 100 times slower than the
    rest. With classes, the normalised embedding of the label stands beside z.

    Args:
        features: the size of z and of w.
        n_layers: 8 in the papers; 0 only normalises z (Progressive GAN).
        decay: of the running mean of w that truncation pulls to.
        n_classes: how many labels there are, 0 for none.

    Raises:
        ValueError: a size is out of its range; there are classes and no layer that could merge label and z; (forward)
            z has another shape; labels are missing, not expected, or out of range.
    """

    mean_w: Tensor

    def __init__(self, features: int, n_layers: int, decay: float = 0.995, n_classes: int = 0):
        super().__init__()
        if features < 1 or n_layers < 0 or n_classes < 0:
            raise ValueError("a mapping network has 1 feature or more, and 0 layers and classes or more, not "
                             f"{features}, {n_layers} and {n_classes}")
        if n_classes and not n_layers:
            raise ValueError("n_layers is 0: labels need at least one layer, which merges them with z")
        self.embedding = LabelEmbedding(n_classes, features) if n_classes else None
        self.layers = MappingLayers(2 * features if n_classes else features, features, n_layers)
        self.register_buffer("mean_w", torch.zeros(features))
        self.decay, self.n_classes = decay, n_classes

    def forward(self, z: Float[Tensor, "batch features"],
                labels: Int[Tensor, "batch"] | None = None) -> Float[Tensor, "batch features"]:
        check_labels(labels, self.n_classes)
        check_z(z, self.mean_w.shape[0])
        w = normalise(z)
        if self.embedding is not None:
            w = torch.cat([w, self.embedding(labels)], dim=1)  # [batch, 2·features]
        return self.layers(w)

    @torch.no_grad()
    def update_mean(self, w: Float[Tensor, "batch features"]) -> None:
        """Move the running mean a step of 1 − decay to this batch's mean (called once per training batch)."""
        self.mean_w.lerp_(w.float().mean(dim=0), 1 - self.decay)

    def truncate(self, w: Float[Tensor, "*batch features"], psi: float,
                 cutoff: int | None = None) -> Float[Tensor, "*batch features"]:
        """w̄ + ψ(w − w̄): ψ = 1 changes nothing, ψ = 0 gives the mean image.

        Args:
            w: any shape; with a cutoff [layers, batch, features].
            psi: ψ.
            cutoff: truncate only the first so many layers: the coarse ones, so that fine detail keeps its variety.

        Raises:
            ValueError: the cutoff is negative, or w has no layers to cut.
        """
        if cutoff is None:
            return torch.lerp(self.mean_w.expand_as(w), w, psi)
        if cutoff < 0 or w.ndim != 3:
            raise ValueError(f"cutoff is {cutoff} and w has shape {list(w.shape)}: a cutoff is the number of layers "
                             "to truncate, 0 or more, of a w [layers, batch, features]")
        return torch.cat([self.truncate(w[:cutoff], psi), w[cutoff:]])


class LabelEmbedding(nn.Module):
    """A label to a vector of second moment 1: a linear map of the one-hot label, normalised.

    Args:
        n_classes: how many labels there are.
        features: size of the vector.
    """

    def __init__(self, n_classes: int, features: int):
        super().__init__()
        self.linear = EqualizedLinear(n_classes, features)
        self.n_classes = n_classes

    def forward(self, labels: Int[Tensor, "batch"]) -> Float[Tensor, "batch features"]:
        one_hot = F.one_hot(labels.long(), self.n_classes)  # [batch, n_classes]
        return normalise(self.linear(one_hot.to(self.linear.bias.dtype)))


class MappingLayers(nn.ModuleList):
    """Linear layers with leaky ReLU and gain √2, which learn at a hundredth of the rate.

    Args:
        in_features, features: size of what comes in, and of every layer's output.
        n_layers: how many; 0 passes the input on.
    """

    def __init__(self, in_features: int, features: int, n_layers: int):
        sizes = [in_features] + [features] * n_layers
        super().__init__(EqualizedLinear(size, features, gain=math.sqrt(2), lr_mul=0.01) for size in sizes[:-1])

    def forward(self, x: Float[Tensor, "batch in_features"]) -> Float[Tensor, "batch features"]:
        for layer in self:
            x = F.leaky_relu(layer(x), 0.2)
        return x


def normalise(z: Float[Tensor, "batch features"]) -> Float[Tensor, "batch features"]:
    """To second moment 1, that is to length √features (not to length 1)."""
    return z * torch.rsqrt(z.square().mean(dim=1, keepdim=True) + 1e-8)


def check_z(z: Tensor, features: int) -> None:
    """
    Raises:
        ValueError: z is not [batch, features]: normalised along another axis it would give another w, silently.
    """
    if z.ndim != 2 or z.shape[1] != features:
        raise ValueError(f"z is {list(z.shape)}: this mapping network takes [batch, {features}]")


def check_labels(labels: Int[Tensor, "batch"] | None, n_classes: int) -> None:
    """
    Raises:
        ValueError: labels are missing, not expected, or (looked at on a CPU only: a GPU would have to be waited for)
            out of range.
    """
    if labels is None:
        if n_classes:
            raise ValueError(f"labels are missing: this network was built with n_classes={n_classes}; give it one "
                             f"label per sample, 0 to {n_classes - 1}")
        return
    if not n_classes:
        raise ValueError("labels were given to a network without classes: build it with n_classes=…, or leave the "
                         "labels out")
    if torch.compiler.is_compiling() or labels.device.type != "cpu":  # there are no values yet; or not here
        return
    if ((labels < 0) | (labels >= n_classes)).any():
        raise ValueError(f"labels go from {int(labels.min())} to {int(labels.max())}: this network was built for "
                         f"n_classes={n_classes}, so they must lie between 0 and {n_classes - 1}")
