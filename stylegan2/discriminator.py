"""The StyleGAN2 discriminators, residual and skip: blocks, minibatch standard deviation, a score.

Sources: Karras et al. (arXiv 1912.04958), figure 7; the published networks have the residual form, `Discriminator`.
Minibatch standard deviation from Progressive GAN (arXiv 1710.10196), section 3; the score of an image with its label
from StyleGAN2-ADA (arXiv 2006.06676), after Miyato and Koyama (arXiv 1802.05637).
"""

import itertools
import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from stylegan2.equalized import EqualizedConv2d, EqualizedLinear, at_least_float32
from stylegan2.generator import features_of_blocks
from stylegan2.mapping import LabelEmbedding, MappingLayers, check_labels
from stylegan2.precision import at_resolution, limited, without_autocast
from stylegan2.resample import DownSample, Smooth


class MiniBatchStdDev(nn.Module):
    """Append a channel that says how much the samples of a group differ: a critic that sees it notices mode collapse.

    Per group: the (biased) standard deviation over the samples at every channel and pixel, averaged to one number.
    Sample i belongs to group i mod (batch / group_size).

    Args:
        group_size: samples per group; a smaller batch is one group.

    Raises:
        ValueError: (forward) the batch does not split into groups of this size.
    """

    def __init__(self, group_size: int = 4):
        super().__init__()
        self.group_size = group_size

    def forward(self, x: Float[Tensor, "batch features h w"]) -> Float[Tensor, "batch features_1 h w"]:
        batch = x.shape[0]
        size = min(self.group_size, batch)
        if batch == 0:
            raise ValueError("the batch is empty: there is nothing to compare for the minibatch standard deviation")
        if batch % size:
            raise ValueError(f"a batch of {batch} does not split into groups of {size} for the minibatch standard "
                             f"deviation: use a multiple of {size}, or another group_size")
        grouped = at_least_float32(x).reshape(size, -1, *x.shape[1:])  # [size, groups, features, h, w]
        variance = (grouped - grouped.mean(dim=0)).square().mean(dim=0)  # Tensor.var is slow here on a CPU
        std = torch.sqrt(variance + 1e-8).mean(dim=(1, 2, 3))  # [groups]
        channel = std.to(x.dtype).expand(size, -1).reshape(batch, 1, 1, 1).expand(-1, 1, *x.shape[2:])
        return torch.cat([x, channel], dim=1)


class LeakyReLU(nn.Module):
    """With slope 0.2, in place; in float16 cut off at ±256."""

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return limited(F.leaky_relu(x, 0.2, inplace=True))


class DiscriminatorBase(nn.Module):
    """What all discriminators share: how an image comes in, and how 4 × 4 features become a score.

    With classes the score is a projection: the last layer gives a vector instead of a number, and the score is its dot
    product with the normalised embedding of the label, divided by the root of their size.

    Args:
        log_resolution: log₂ of the side of the image, at least 2.
        n_features: channels at the highest resolution.
        max_features: limit for the low resolutions.
        group_size: of the minibatch standard deviation.
        n_classes: how many labels there are, 0 for none.
        label_layers: layers of a mapping network of the discriminator's own, after the embedding of the label.
        n_channels: of the images: 3, or 1 (grey) or 4 (RGBA).

    Raises:
        ValueError: log_resolution is less than 2; (forward) the images have the wrong side or other channels; labels
            are missing, not expected, or out of range.
    """

    def __init__(self, log_resolution: int, n_features: int = 64, max_features: int = 512, group_size: int = 4,
                 n_classes: int = 0, label_layers: int = 0, n_channels: int = 3):
        super().__init__()
        self.features = features_of_blocks(log_resolution, n_features, max_features)[::-1]
        self.n_blocks, self.n_classes, last = len(self.features), n_classes, self.features[-1]
        self.n_channels = n_channels
        gain, activation = math.sqrt(2), LeakyReLU()
        self.std_dev = MiniBatchStdDev(group_size)
        self.conv = nn.Sequential(EqualizedConv2d(last + 1, last, kernel_size=3, padding=1, gain=gain), activation)
        self.final = nn.Sequential(
            EqualizedLinear(last * 4 * 4, last, gain=gain), activation,
            EqualizedLinear(last, last if n_classes else 1))
        self.embedding = nn.Sequential(
            LabelEmbedding(n_classes, last), MappingLayers(last, last, label_layers)) if n_classes else None

    def check(self, x: Float[Tensor, "batch channels height width"], side: int,
              labels: Int[Tensor, "batch"] | None) -> Float[Tensor, "batch channels height width"]:
        """The images, in the layout that convolutions like, if they and the labels are what this network takes."""
        if x.shape[2:] != (side, side):
            raise ValueError(f"images are {x.shape[2]} × {x.shape[3]}; this discriminator takes {side} × {side}")
        if x.shape[1] != self.n_channels:
            raise ValueError(f"images have {x.shape[1]} channels; this discriminator takes {self.n_channels}")
        check_labels(labels, self.n_classes)
        return x.contiguous(memory_format=torch.channels_last)

    def score(self, x: Float[Tensor, "batch features 4 4"],
              labels: Int[Tensor, "batch"] | None) -> Float[Tensor, "batch 1"]:
        """Of the features that the blocks leave; in float32 at least, also under autocast."""
        with without_autocast(x):
            x = self.final(self.conv(self.std_dev(at_least_float32(x))).flatten(1))
        if self.embedding is None:
            return x
        return (x * self.embedding(labels)).sum(dim=1, keepdim=True) / math.sqrt(x.shape[1])


class Discriminator(DiscriminatorBase):
    """The residual discriminator, the published one. Images to scores (logits): high for images that look real.

    Args and errors: as in `DiscriminatorBase`.
    """

    def __init__(self, log_resolution: int, n_features: int = 64, max_features: int = 512, group_size: int = 4,
                 n_classes: int = 0, label_layers: int = 0, n_channels: int = 3):
        super().__init__(log_resolution, n_features, max_features, group_size, n_classes, label_layers, n_channels)
        self.from_rgb = from_rgb(self.features[0], n_channels)
        self.blocks = nn.Sequential(*itertools.starmap(DiscriminatorBlock, itertools.pairwise(self.features)))

    def forward(self, x: Float[Tensor, "batch channels height width"],
                labels: Int[Tensor, "batch"] | None = None) -> Float[Tensor, "batch 1"]:
        x = self.check(x, 2 << self.n_blocks, labels)
        with at_resolution(x, 0) as image:
            x = self.from_rgb(image)
        for i, block in enumerate(self.blocks):
            with at_resolution(x, i) as features:
                x = block(features)
        return self.score(x, labels)


class SkipDiscriminator(DiscriminatorBase):
    """The skip discriminator: every resolution sees the image, halved as often as the features were.

    Args and errors: as in `DiscriminatorBase`.
    """

    def __init__(self, log_resolution: int, n_features: int = 64, max_features: int = 512, group_size: int = 4,
                 n_classes: int = 0, label_layers: int = 0, n_channels: int = 3):
        super().__init__(log_resolution, n_features, max_features, group_size, n_classes, label_layers, n_channels)
        self.from_rgb = nn.ModuleList(from_rgb(f, n_channels) for f in self.features)
        self.blocks = nn.ModuleList(itertools.starmap(down_convolutions, itertools.pairwise(self.features)))
        self.down_sample = DownSample()

    def forward(self, x: Float[Tensor, "batch channels height width"],
                labels: Int[Tensor, "batch"] | None = None) -> Float[Tensor, "batch 1"]:
        image = self.check(x, 2 << self.n_blocks, labels)
        with at_resolution(image, 0) as features:
            x = self.from_rgb[0](features)
        for i, (block, see) in enumerate(zip(self.blocks, self.from_rgb[1:], strict=True)):
            with without_autocast(image):  # what is seen at every resolution stays in float32
                image = self.down_sample(image)
            with at_resolution(x, i) as features:
                x = block(features) + see(image)
        return self.score(x, labels)


class DiscriminatorBlock(nn.Module):
    """A residual block that halves the resolution; both branches are scaled by √½ so that their sum keeps its variance.

    Args:
        in_features, out_features: channels.
    """

    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        self.residual = nn.Sequential(
            DownSample(),
            EqualizedConv2d(in_features, out_features, kernel_size=1, bias=False, gain=math.sqrt(0.5)))
        # gain √2 of the activation times √½ of the branch: 1
        self.block = down_convolutions(in_features, out_features, gain=1.0)

    def forward(self, x: Float[Tensor, "batch in_features h w"]) -> Float[Tensor, "batch out_features h2 w2"]:
        return self.residual(x).add_(self.block(x))


def down_convolutions(in_features: int, out_features: int, gain: float = math.sqrt(2)) -> nn.Sequential:
    """Two 3×3 convolutions with leaky ReLU; the second, behind the low-pass filter, halves the resolution.

    Args:
        in_features, out_features: channels.
        gain: of the second.
    """
    return nn.Sequential(
        EqualizedConv2d(in_features, in_features, kernel_size=3, padding=1, gain=math.sqrt(2)),
        LeakyReLU(),
        Smooth(padding=2),
        EqualizedConv2d(in_features, out_features, kernel_size=3, stride=2, gain=gain),
        LeakyReLU())


def from_rgb(features: int, n_channels: int = 3) -> nn.Sequential:
    """An image to features: 1×1 convolution, leaky ReLU."""
    return nn.Sequential(
        EqualizedConv2d(n_channels, features, kernel_size=1, gain=math.sqrt(2)), LeakyReLU())
