"""The StyleGAN2 generators: style blocks on a learned constant, and two ways to come to an image, skip and residual.

Source: Karras et al. (arXiv 1912.04958), figures 2d and 7. The published networks have the skip form, `Generator`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from stylegan2.equalized import EqualizedConv2d, EqualizedLinear, at_least_float32, times
from stylegan2.modulation import Conv2dWeightModulate
from stylegan2.precision import at_resolution, limited, without_autocast
from stylegan2.resample import UpSample

Styles = Sequence[Float[Tensor, "batch d_latent"]]
"""A w for each of some layers: the tensor of all, unbound once, so that the backward pass puts together in one
operation what it would add up for single indices."""
NoiseMap = Float[Tensor, "_ 1 _ _"]
LayerNoise = NoiseMap | Literal["random", "const"] | None
Noise = Sequence[tuple[NoiseMap | None, NoiseMap | None]] | Literal["random", "const"] | None


class NoisyActivation(nn.Module):
    """What follows a style-based layer's convolution: noise, bias, leaky ReLU with a gain.

    The convolution before carries the gain already, gain·lrelu(x) = lrelu(gain·x), and here it goes into noise and bias
    only: a factor on the feature maps would cost another pass over them.

    Args:
        features: channels.
        resolution: the stored noise map has this size.
        strengths: shape of the learned noise strength, which starts at 0: one number (StyleGAN2) or one per map.
        gain: √2 in StyleGAN2; what is normalised next (AdaIN) needs none.
    """

    noise_const: Tensor

    def __init__(self, features: int, resolution: int, strengths: tuple[int, ...] = (), gain: float = 1.0):
        super().__init__()
        self.gain = self.bias_scale = gain
        self.noise_strength = nn.Parameter(torch.zeros(strengths))
        self.bias = nn.Parameter(torch.zeros(features))
        self.register_buffer("noise_const", torch.randn(1, 1, resolution, resolution))

    def activate(self, x: Float[Tensor, "batch features h w"],
                 noise: LayerNoise) -> Float[Tensor, "batch features h w"]:
        x = x + times(self.bias, self.bias_scale)[:, None, None].to(x.dtype)
        if noise is not None:
            if isinstance(noise, str):
                noise = self.noise_const if noise == "const" else torch.randn_like(x[:, :1], dtype=self.bias.dtype)
            strength = self.gain * self.noise_strength[..., None, None]  # [1, 1] or [features, 1, 1]
            x += (noise * strength).to(x.dtype)
        return limited(F.leaky_relu(x, 0.2, inplace=True))


class StyleBlock(NoisyActivation):
    """Modulated 3×3 convolution, noise, bias, leaky ReLU with gain √2.

    Args:
        d_latent: size of w.
        in_features, out_features: channels.
        resolution: of the output.
        up: double the resolution on the way.
    """

    def __init__(self, d_latent: int, in_features: int, out_features: int, resolution: int, up: bool = False):
        super().__init__(out_features, resolution, gain=math.sqrt(2))
        self.to_style = EqualizedLinear(d_latent, in_features, bias=1.0)
        self.conv = Conv2dWeightModulate(in_features, out_features, kernel_size=3, up=up, gain=self.gain)

    def forward(self, x: Float[Tensor, "batch in_features h w"], w: Float[Tensor, "batch d_latent"],
                noise: LayerNoise) -> Float[Tensor, "batch out_features h2 w2"]:
        return self.activate(self.conv(x, self.to_style(w)), noise)


class ToRGB(nn.Module):
    """Features to an RGB image by a modulated 1×1 convolution, without demodulation and without activation.

    Args:
        d_latent: size of w.
        features: channels that come in.
        n_channels: of the image: 3, or 1 (grey) or 4 (RGBA).
    """

    def __init__(self, d_latent: int, features: int, n_channels: int = 3):
        super().__init__()
        self.to_style = EqualizedLinear(d_latent, features, bias=1.0)
        self.conv = Conv2dWeightModulate(features, n_channels, kernel_size=1, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(n_channels))

    def forward(self, x: Float[Tensor, "batch features h w"],
                w: Float[Tensor, "batch d_latent"]) -> Float[Tensor, "batch channels h w"]:
        return at_least_float32(self.conv(x, self.to_style(w))) + self.bias[:, None, None]


class StylePair(nn.Module):
    """The two style blocks of a resolution, the first of which doubles it.

    Args:
        d_latent: size of w.
        in_features, out_features: channels.
        resolution: of the output.
        style_block: builds them: `StyleBlock`, or `stylegan1.AdaINBlock`.
    """

    def __init__(self, d_latent: int, in_features: int, out_features: int, resolution: int,
                 style_block: Callable[..., nn.Module] = StyleBlock):
        super().__init__()
        self.style_block1 = style_block(d_latent, in_features, out_features, resolution, up=True)
        self.style_block2 = style_block(d_latent, out_features, out_features, resolution)

    def features(self, x: Float[Tensor, "batch in_features h w"], w: Styles,
                 noise) -> Float[Tensor, "batch out_features h2 w2"]:
        """What the two make of x, with w[0] and w[1]."""
        return self.style_block2(self.style_block1(x, w[0], noise[0]), w[1], noise[1])


class GeneratorBlock(StylePair):
    """A block of the skip generator: two style blocks, and what they add to the image."""

    def __init__(self, d_latent: int, in_features: int, out_features: int, resolution: int,
                 style_block: Callable[..., nn.Module] = StyleBlock, n_channels: int = 3):
        super().__init__(d_latent, in_features, out_features, resolution, style_block)
        self.to_rgb = ToRGB(d_latent, out_features, n_channels)

    def forward(self, x: Float[Tensor, "batch in_features h w"], w: Float[Tensor, "_ batch d_latent"],
                noise) -> tuple[Float[Tensor, "batch out_features h2 w2"], Float[Tensor, "batch channels h2 w2"]]:
        *w_of_pair, w_of_rgb = w.unbind()
        x = self.features(x, w_of_pair, noise)
        return x, self.to_rgb(x, w_of_rgb)


class ResidualBlock(StylePair):
    """A block of the residual generator: two style blocks beside a 1×1 convolution; √½ keeps the sum's variance."""

    def __init__(self, d_latent: int, in_features: int, out_features: int, resolution: int,
                 style_block: Callable[..., nn.Module] = StyleBlock):
        super().__init__(d_latent, in_features, out_features, resolution, style_block)
        self.residual = nn.Sequential(
            EqualizedConv2d(in_features, out_features, kernel_size=1, bias=False), UpSample())

    def forward(self, x: Float[Tensor, "batch in_features h w"], w: Float[Tensor, "_ batch d_latent"],
                noise) -> Float[Tensor, "batch out_features h2 w2"]:
        return (self.residual(x) + self.features(x, w.unbind(), noise)) * math.sqrt(0.5)


class StyleGenerator(nn.Module):
    """What all style-based generators share: the constant, the blocks, and how w and noise are dealt out to them.

    A block at resolution r = 4, 8, …, 2^log_resolution has min(max_features, n_features · 2^(log_resolution − log₂ r))
    channels.

    Args:
        log_resolution: log₂ of the side of the image, at least 2.
        d_latent: size of w.
        n_features: channels at the highest resolution.
        max_features: limit for the low resolutions.
        style_block: what a layer is: `StyleBlock` (demodulation) or `stylegan1.AdaINBlock`.
        n_channels: of the images: 3, or 1 (grey) or 4 (RGBA).

    Raises:
        ValueError: log_resolution is less than 2.
    """

    make_block: Callable[..., nn.Module]

    def __init__(self, log_resolution: int, d_latent: int, n_features: int = 32, max_features: int = 512,
                 style_block: Callable[..., nn.Module] = StyleBlock, n_channels: int = 3):
        super().__init__()
        self.n_channels = n_channels
        self.features = features = features_of_blocks(log_resolution, n_features, max_features)
        self.n_blocks, self.d_latent = len(features), d_latent
        self.initial_constant = nn.Parameter(torch.randn(1, features[0], 4, 4))
        self.style_block = style_block(d_latent, features[0], features[0], resolution=4)
        self.blocks = nn.ModuleList(
            self.make_block(d_latent, features[i - 1], features[i], 4 << i, style_block)
            for i in range(1, self.n_blocks))

    @property
    def n_layers(self) -> int:
        """How many w the generator takes when it takes one per layer, 2·log₂(resolution) − 2."""
        return 2 * self.n_blocks

    def layers_of_block(self, i: int) -> slice:
        """Two for the first (convolution, toRGB), three for the others (two convolutions, toRGB): a block's toRGB
        shares its w with the next block's first layer.
        """
        return slice(max(0, 2 * i - 1), 2 * i + 2)

    def constant(self, batch: int) -> Float[Tensor, "batch features 4 4"]:
        """What every image starts from."""
        return self.initial_constant.expand(batch, -1, -1, -1).contiguous(memory_format=torch.channels_last)

    def w_of_blocks(self, w: Float[Tensor, "blocks_or_layers batch d_latent"]) -> list[Tensor]:
        """The w of every block, a slice each of one w per layer, or three times one w per block."""
        if w.ndim != 3 or w.shape[2] != self.d_latent:
            raise ValueError(f"w is {list(w.shape)}: this generator takes [blocks or layers, batch, {self.d_latent}]")
        if len(w) == self.n_layers:
            return [w[self.layers_of_block(i)] for i in range(self.n_blocks)]
        if len(w) == self.n_blocks:
            return [w_block.expand(3, -1, -1) for w_block in w]
        raise ValueError(f"w has length {len(w)}: this generator takes one w per block ({self.n_blocks}) or one per "
                         f"layer ({self.n_layers}), stacked on the first axis. For one w everywhere: "
                         f"w.expand({self.n_blocks}, -1, -1)")

    def noise_of_blocks(self, input_noise: Noise) -> Sequence:
        """A pair per block, whatever form the noise was given in."""
        if input_noise is None or isinstance(input_noise, str):
            if input_noise not in (None, "random", "const"):
                raise ValueError(f"input_noise is {input_noise!r}: it is a list of pairs, 'random', 'const' or None")
            return [(input_noise, input_noise)] * self.n_blocks
        if len(input_noise) != self.n_blocks:
            raise ValueError(f"input_noise has {len(input_noise)} pairs; this generator has {self.n_blocks} blocks")
        return input_noise


class Generator(StyleGenerator):
    """The skip generator, the published one: the image is the sum of what every resolution adds to it.

    Args: as in `StyleGenerator`.
    """

    def __init__(self, log_resolution: int, d_latent: int, n_features: int = 32, max_features: int = 512,
                 style_block: Callable[..., nn.Module] = StyleBlock, n_channels: int = 3):
        super().__init__(log_resolution, d_latent, n_features, max_features, style_block, n_channels)
        self.to_rgb = ToRGB(d_latent, self.features[0], n_channels)
        self.up_sample = UpSample()

    def make_block(self, d_latent: int, in_features: int, out_features: int, resolution: int,
                   style_block: Callable[..., nn.Module]) -> GeneratorBlock:
        return GeneratorBlock(d_latent, in_features, out_features, resolution, style_block, self.n_channels)

    def forward(self, w: Float[Tensor, "blocks_or_layers batch d_latent"],
                input_noise: Noise = "random") -> Float[Tensor, "batch channels height width"]:
        """
        Args:
            w: one w per block (every layer of block i takes w[i]), or one per layer (twice as many, as the paper has
                it: a block's toRGB shares its w with the next block's first layer).
            input_noise: per block a pair of maps [batch or 1, 1, side, side], either of which may be None (the first
                of the first block is not used); or "random" for fresh noise, "const" for the stored maps, None for no
                noise.

        Raises:
            ValueError: the number of w, or of noise pairs, is not the number of blocks or layers.
        """
        w_first, *w_blocks = self.w_of_blocks(w)
        noise_first, *noise_blocks = self.noise_of_blocks(input_noise)
        with at_resolution(self.constant(w.shape[1]), self.n_blocks - 1) as features:
            x = self.style_block(features, w_first[0], noise_first[1])
            rgb = self.to_rgb(x, w_first[1])
        for i, (block, w_block, noise) in enumerate(zip(self.blocks, w_blocks, noise_blocks, strict=True), start=2):
            with at_resolution(x, self.n_blocks - i) as features:
                x, rgb_block = block(features, w_block, noise)
            with without_autocast(rgb):  # the sum stays in float32
                rgb = self.up_sample(rgb) + rgb_block
        return rgb


class ResidualGenerator(StyleGenerator):
    """The residual generator: blocks with a shortcut, and one toRGB, after the last of them.

    Args: as in `StyleGenerator`; w, noise and errors as in `Generator`.
    """

    make_block = ResidualBlock

    def __init__(self, log_resolution: int, d_latent: int, n_features: int = 32, max_features: int = 512,
                 style_block: Callable[..., nn.Module] = StyleBlock, n_channels: int = 3):
        super().__init__(log_resolution, d_latent, n_features, max_features, style_block, n_channels)
        self.to_rgb = ToRGB(d_latent, self.features[-1], n_channels)

    def forward(self, w: Float[Tensor, "blocks_or_layers batch d_latent"],
                input_noise: Noise = "random") -> Float[Tensor, "batch channels height width"]:
        w_first, *w_blocks = w_of_blocks = self.w_of_blocks(w)
        noise_first, *noise_blocks = self.noise_of_blocks(input_noise)
        with at_resolution(self.constant(w.shape[1]), self.n_blocks - 1) as features:
            x = self.style_block(features, w_first[0], noise_first[1])
        for i, (block, w_block, noise) in enumerate(zip(self.blocks, w_blocks, noise_blocks, strict=True), start=2):
            with at_resolution(x, self.n_blocks - i) as features:
                x = block(features, w_block, noise)
        return self.to_rgb(x, w_of_blocks[-1][-1])


def features_of_blocks(log_resolution: int, n_features: int, max_features: int) -> list[int]:
    """Channels of the blocks at 4², 8², …, min(max_features, n_features·2^k), k = 0 at the highest resolution.

    Raises:
        ValueError: log_resolution is less than 2 (the smallest image is 4 × 4).
    """
    if n_features < 1 or max_features < 1:
        raise ValueError(f"n_features is {n_features} and max_features {max_features}: a layer has one channel or more")
    if log_resolution < 2:
        raise ValueError(f"log_resolution is {log_resolution}: images are 2^log_resolution pixels wide, and 4 "
                         "(log_resolution = 2) is the smallest")
    return [min(max_features, n_features << k) for k in reversed(range(log_resolution - 1))]
