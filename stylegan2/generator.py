"""The StyleGAN2 generator: style blocks on a learned constant, and a skip path that sums RGB images.

Source: Karras et al. (arXiv 1912.04958), figures 2d and 7b.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from stylegan2.equalized import EqualizedLinear
from stylegan2.modulation import Conv2dWeightModulate
from stylegan2.resample import UpSample

NoiseMap = Float[Tensor, "_ 1 _ _"]
Noise = Sequence[tuple[NoiseMap | None, NoiseMap | None]] | Literal["random", "const"] | None


class StyleBlock(nn.Module):
    """Modulated 3×3 convolution, noise, bias, leaky ReLU with gain √2.

    Args:
        d_latent: size of w.
        in_features, out_features: channels.
        resolution: of the output; the stored noise map has this size.
        up: double the resolution on the way.
    """

    noise_const: Tensor

    def __init__(self, d_latent: int, in_features: int, out_features: int, resolution: int, up: bool = False):
        super().__init__()
        self.to_style = EqualizedLinear(d_latent, in_features, bias=1.0)
        self.conv = Conv2dWeightModulate(in_features, out_features, kernel_size=3, up=up)
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.bias = nn.Parameter(torch.zeros(out_features))
        self.register_buffer("noise_const", torch.randn(1, 1, resolution, resolution))

    def forward(self, x: Float[Tensor, "batch in_features h w"], w: Float[Tensor, "batch d_latent"],
                noise: NoiseMap | Literal["random", "const"] | None) -> Float[Tensor, "batch out_features h2 w2"]:
        x = self.conv(x, self.to_style(w))
        shift = self.bias[:, None, None]  # [out, 1, 1]
        if noise is not None:
            if isinstance(noise, str):
                noise = self.noise_const if noise == "const" else torch.randn_like(x[:, :1], dtype=torch.float32)
            shift = shift + noise * self.noise_strength  # [batch, out, h, w]
        return F.leaky_relu(x + shift.to(x.dtype), 0.2) * math.sqrt(2)


class ToRGB(nn.Module):
    """Features to an RGB image by a modulated 1×1 convolution, without demodulation and without activation.

    Args:
        d_latent: size of w.
        features: channels that come in.
    """

    def __init__(self, d_latent: int, features: int):
        super().__init__()
        self.to_style = EqualizedLinear(d_latent, features, bias=1.0)
        self.conv = Conv2dWeightModulate(features, 3, kernel_size=1, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x: Float[Tensor, "batch features h w"],
                w: Float[Tensor, "batch d_latent"]) -> Float[Tensor, "batch 3 h w"]:
        return self.conv(x, self.to_style(w)).float() + self.bias[:, None, None]


class GeneratorBlock(nn.Module):
    """Two style blocks, the first of which doubles the resolution, and what they add to the image.

    Args:
        d_latent: size of w.
        in_features, out_features: channels.
        resolution: of the output.
    """

    def __init__(self, d_latent: int, in_features: int, out_features: int, resolution: int):
        super().__init__()
        self.style_block1 = StyleBlock(d_latent, in_features, out_features, resolution, up=True)
        self.style_block2 = StyleBlock(d_latent, out_features, out_features, resolution)
        self.to_rgb = ToRGB(d_latent, out_features)

    def forward(self, x: Float[Tensor, "batch in_features h w"], w: Float[Tensor, "3 batch d_latent"],
                noise) -> tuple[Float[Tensor, "batch out_features h2 w2"], Float[Tensor, "batch 3 h2 w2"]]:
        x = self.style_block1(x, w[0], noise[0])
        x = self.style_block2(x, w[1], noise[1])
        return x, self.to_rgb(x, w[2])


class Generator(nn.Module):
    """w and noise to images.

    A block at resolution r = 4, 8, …, 2^log_resolution has min(max_features, n_features · 2^(log_resolution − log₂ r))
    channels.

    Args:
        log_resolution: log₂ of the side of the image, at least 2.
        d_latent: size of w.
        n_features: channels at the highest resolution.
        max_features: limit for the low resolutions.

    Raises:
        ValueError: log_resolution is less than 2.
    """

    def __init__(self, log_resolution: int, d_latent: int, n_features: int = 32, max_features: int = 512):
        super().__init__()
        features = features_of_blocks(log_resolution, n_features, max_features)
        self.n_blocks, self.d_latent = len(features), d_latent
        self.initial_constant = nn.Parameter(torch.randn(1, features[0], 4, 4))
        self.style_block = StyleBlock(d_latent, features[0], features[0], resolution=4)
        self.to_rgb = ToRGB(d_latent, features[0])
        self.blocks = nn.ModuleList(
            GeneratorBlock(d_latent, features[i - 1], features[i], resolution=4 << i) for i in range(1, self.n_blocks))
        self.up_sample = UpSample()

    @property
    def n_layers(self) -> int:
        """How many w the generator takes when it takes one per layer, 2·log₂(resolution) − 2."""
        return 2 * self.n_blocks

    def forward(self, w: Float[Tensor, "blocks_or_layers batch d_latent"],
                input_noise: Noise = "random") -> Float[Tensor, "batch 3 height width"]:
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
        w_first, w_blocks = self.w_of_blocks(w)
        noise = self.noise_of_blocks(input_noise)
        x = self.initial_constant.expand(w.shape[1], -1, -1, -1).contiguous(memory_format=torch.channels_last)
        x = self.style_block(x, w_first[0], noise[0][1])
        rgb = self.to_rgb(x, w_first[1])
        for block, w_block, noise_block in zip(self.blocks, w_blocks, noise[1:], strict=True):
            x, rgb_block = block(x, w_block, noise_block)
            rgb = self.up_sample(rgb) + rgb_block
        return rgb

    def w_of_blocks(self, w: Float[Tensor, "blocks_or_layers batch d_latent"]) -> tuple[Tensor, list[Tensor]]:
        """The two w of the first block (convolution, toRGB) and the three of every other (two convolutions, toRGB)."""
        if len(w) == self.n_layers:
            return w[:2], [w[2 * i - 1:2 * i + 2] for i in range(1, self.n_blocks)]
        if len(w) == self.n_blocks:
            return w[0].expand(2, -1, -1), [w[i].expand(3, -1, -1) for i in range(1, self.n_blocks)]
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


def features_of_blocks(log_resolution: int, n_features: int, max_features: int) -> list[int]:
    """Channels of the blocks at 4², 8², …, min(max_features, n_features·2^k), k = 0 at the highest resolution.

    Raises:
        ValueError: log_resolution is less than 2 (the smallest image is 4 × 4).
    """
    if log_resolution < 2:
        raise ValueError(f"log_resolution is {log_resolution}: images are 2^log_resolution pixels wide, and 4 "
                         "(log_resolution = 2) is the smallest")
    return [min(max_features, n_features << k) for k in reversed(range(log_resolution - 1))]
