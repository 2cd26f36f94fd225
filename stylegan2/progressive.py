"""Progressive GAN: networks that start at 4 × 4 pixels and grow, one resolution after another, while they train.

A growing network has a plain attribute `stage`, which training sets: ⌊stage⌋ resolutions above 4² are fully on, and
the fraction is the weight α with which the next is faded in. Images have the side 4 · 2^⌈stage⌉.

Source: Karras et al. (arXiv 1710.10196), sections 2 and 4, figure 2, table 2.
"""

import itertools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from stylegan2.discriminator import DiscriminatorBase, LeakyReLU, down_convolutions, from_rgb
from stylegan2.equalized import EqualizedConv2d, EqualizedLinear, at_least_float32
from stylegan2.generator import Noise, features_of_blocks


def split_stage(stage: int | float, n_blocks: int) -> tuple[int, float]:
    """The highest resolution that is on, 4 · 2^top, and its weight 0 < α ≤ 1: a stage of 2.3 is (3, 0.3), 2 is (2, 1).

    Raises:
        ValueError: stage is not between 0 and n_blocks − 1.
    """
    if not 0 <= stage <= n_blocks - 1:
        raise ValueError(f"stage is {stage}: a network of {n_blocks} resolutions grows from 0 (4 × 4) to "
                         f"{n_blocks - 1} ({2 << n_blocks} × {2 << n_blocks})")
    top = math.ceil(stage)
    return top, stage - top + 1.0


def images_at_stage(images: Float[Tensor, "batch channels side side"],
                    stage: int | float) -> Float[Tensor, "batch channels side_2 side_2"]:
    """Real images for a growing discriminator: averaged down to the stage's side, and faded as the generator's are.

    Args:
        images: at the full resolution, a power of two.
        stage: of the networks.

    Raises:
        ValueError: stage is out of the range that the resolution has.
    """
    top, alpha = split_stage(stage, images.shape[-1].bit_length() - 2)
    images = F.avg_pool2d(images, images.shape[-1] // (4 << top))
    if alpha == 1:
        return images
    return torch.lerp(F.interpolate(F.avg_pool2d(images, 2), scale_factor=2), images, alpha)


class PixelNorm(nn.Module):
    """Every pixel's feature vector to second moment 1, so that no signal can escalate from layer to layer.

    Args:
        eps: added to the second moment.
    """

    def __init__(self, eps: float = 1e-8):
        super().__init__()
        self.eps = eps

    def forward(self, x: Float[Tensor, "batch features h w"]) -> Float[Tensor, "batch features h w"]:
        second_moment = at_least_float32(x).square().mean(dim=1, keepdim=True)  # [batch, 1, h, w]
        return x * torch.rsqrt(second_moment + self.eps).to(x.dtype)


def normalised_convolution(in_features: int, out_features: int) -> nn.Sequential:
    """3×3 convolution, leaky ReLU, pixel norm."""
    return nn.Sequential(
        EqualizedConv2d(in_features, out_features, kernel_size=3, padding=1, gain=math.sqrt(2)),
        LeakyReLU(), PixelNorm())


class FadingRGB(nn.Module):
    """A linear 1×1 convolution to RGB for every resolution, and the fade between the two highest.

    The lower image is doubled by repeating pixels, and a growing discriminator halves images by averaging them, in
    every generation: the one undoes the other, so that nothing jumps when a new resolution begins.

    Args:
        features: channels at 4², 8², ….
        n_channels: of the image: 3, or 1 (grey) or 4 (RGBA).
    """

    def __init__(self, features: list[int], n_channels: int = 3):
        super().__init__()
        self.layers = nn.ModuleList(EqualizedConv2d(f, n_channels, kernel_size=1) for f in features)

    def forward(self, below: Float[Tensor, "batch features_below h2 w2"], x: Float[Tensor, "batch features h w"],
                top: int, alpha: float) -> Float[Tensor, "batch channels h w"]:
        """(1 − α)·double(toRGB(below)) + α·toRGB(x).

        Args:
            below: features at half the resolution (not looked at when alpha is 1).
            x: features at resolution 4 · 2^top.
            top, alpha: of `split_stage`.
        """
        image = at_least_float32(self.layers[top](x))
        if alpha == 1:
            return image
        image_below = at_least_float32(self.layers[top - 1](below))
        return torch.lerp(F.interpolate(image_below, scale_factor=2), image, alpha)


class ProgressiveGenerator(nn.Module):
    """A latent vector to images, without styles: a dense layer to 4 × 4, then two convolutions per resolution.

    Args:
        log_resolution: log₂ of the side of the image when all is grown, at least 2.
        d_latent: size of the latent vector.
        n_features: channels at the highest resolution; they double with each halving of it.
        max_features: limit for the low resolutions.
        n_channels: of the images: 3, or 1 (grey) or 4 (RGBA).

    Raises:
        ValueError: log_resolution is less than 2; (forward) stage is out of range.
    """

    n_layers = 1

    def __init__(self, log_resolution: int, d_latent: int, n_features: int = 32, max_features: int = 512,
                 n_channels: int = 3):
        super().__init__()
        features = features_of_blocks(log_resolution, n_features, max_features)
        self.n_blocks, self.d_latent, self.stage = len(features), d_latent, float(len(features) - 1)
        self.dense = nn.Sequential(
            EqualizedLinear(d_latent, features[0] * 4 * 4, gain=math.sqrt(2)), LeakyReLU(),
            nn.Unflatten(1, (features[0], 4, 4)), PixelNorm())
        self.conv = normalised_convolution(features[0], features[0])
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Upsample(scale_factor=2), normalised_convolution(a, b), normalised_convolution(b, b))
            for a, b in itertools.pairwise(features))
        self.to_rgb = FadingRGB(features, n_channels)

    def forward(self, w: Float[Tensor, "layers batch d_latent"],
                input_noise: Noise = None) -> Float[Tensor, "batch channels height width"]:
        """
        Args:
            w: w[0] is the normalised latent vector, `MappingNetwork(d_latent, n_layers=0)(z)`. There is one layer that
                sees it; what else w holds is for generators with styles.
            input_noise: not used, for the same reason.
        """
        top, alpha = split_stage(self.stage, self.n_blocks)
        below = x = self.conv(self.dense(w[0]))
        for block in self.blocks[:top]:
            below, x = x, block(x)
        return self.to_rgb(below, x, top, alpha)


class GrowingDiscriminator(DiscriminatorBase):
    """A discriminator that grows with the generator: the new block's features are faded in beside those of the halved
    image. Its blocks are StyleGAN's, with a low-pass filter; `ProgressiveDiscriminator` has Progressive GAN's.

    Args and errors: as in `DiscriminatorBase`; (forward) stage is out of range.
    """

    block: Callable[..., nn.Module] = staticmethod(down_convolutions)

    def __init__(self, log_resolution: int, n_features: int = 64, max_features: int = 512, group_size: int = 4,
                 n_classes: int = 0, label_layers: int = 0, n_channels: int = 3):
        super().__init__(log_resolution, n_features, max_features, group_size, n_classes, label_layers, n_channels)
        self.stage = float(self.n_blocks - 1)
        self.from_rgb = nn.ModuleList(from_rgb(f, n_channels) for f in self.features)
        self.blocks = nn.ModuleList(itertools.starmap(self.block, itertools.pairwise(self.features)))

    def forward(self, x: Float[Tensor, "batch channels height width"],
                labels: Int[Tensor, "batch"] | None = None) -> Float[Tensor, "batch 1"]:
        top, alpha = split_stage(self.stage, self.n_blocks)
        image = self.check(x, 4 << top, labels)
        first = self.n_blocks - 1 - top  # the blocks are listed from the highest resolution down
        x = self.from_rgb[first](image)
        for i, block in enumerate(self.blocks[first:], start=first):
            x = block(x)
            if i == first and alpha < 1:
                x = torch.lerp(self.from_rgb[first + 1](F.avg_pool2d(image, 2)), x, alpha)
        return self.score(x, labels)


def pooled_convolutions(in_features: int, out_features: int) -> nn.Sequential:
    """Two 3×3 convolutions with leaky ReLU, then the mean of every 2 × 2 pixels."""
    return nn.Sequential(
        EqualizedConv2d(in_features, in_features, kernel_size=3, padding=1, gain=math.sqrt(2)),
        LeakyReLU(),
        EqualizedConv2d(in_features, out_features, kernel_size=3, padding=1, gain=math.sqrt(2)),
        LeakyReLU(),
        nn.AvgPool2d(2))


class ProgressiveDiscriminator(GrowingDiscriminator):
    """The critic of Progressive GAN: blocks that take the mean of 2 × 2 pixels instead of a filter.

    Args and errors: as in `GrowingDiscriminator`.
    """

    block = staticmethod(pooled_convolutions)
