"""The StyleGAN generator: AdaIN and noise after every convolution, on a learned constant, growing as Progressive GAN.

Source: Karras et al., A Style-Based Generator Architecture for GANs (arXiv 1812.04948), sections 2 and 3, figure 1b.
The mapping network, the running mean of w and truncation are in `stylegan2.mapping`.
"""

from collections.abc import Callable

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from stylegan2.equalized import EqualizedConv2d, EqualizedWeight
from stylegan2.generator import LayerNoise, Noise, NoisyActivation, StyleBlock, StyleGenerator, StylePair
from stylegan2.modulation import AdaIN
from stylegan2.progressive import FadingRGB, split_stage
from stylegan2.resample import Smooth


class SmoothUpConv2d(nn.Module):
    """Nearest-neighbour doubling, a 3×3 convolution, and the blur [1, 2, 1]⊗[1, 2, 1]/16, at a quarter of the work.

    Doubling is zeros between the pixels and then the filter [1, 1]; filters commute, and [1, 1]∗[1, 2, 1] =
    [1, 3, 3, 1]: so a transposed convolution of stride 2, which never touches the zeros, followed by that filter.

    Args:
        in_features, out_features: channels.
        gain: as in `EqualizedWeight`.
    """

    def __init__(self, in_features: int, out_features: int, gain: float = 1.0):
        super().__init__()
        self.weight = EqualizedWeight([out_features, in_features, 3, 3], gain)
        self.smooth = Smooth(padding=1, gain=4.0)

    def forward(self, x: Float[Tensor, "batch in_features h w"]) -> Float[Tensor, "batch out_features h2 w2"]:
        return self.smooth(F.conv_transpose2d(x, self.weight().transpose(0, 1), stride=2))


class AdaINLayer(NoisyActivation):
    """What StyleGAN does after every convolution, and to the constant: noise, bias, leaky ReLU, AdaIN.

    Args:
        d_latent: size of w.
        features: channels.
        resolution: the stored noise map has this size.
    """

    def __init__(self, d_latent: int, features: int, resolution: int):
        super().__init__(features, resolution, strengths=(features,))
        self.adain = AdaIN(d_latent, features)

    def forward(self, x: Float[Tensor, "batch features h w"], w: Float[Tensor, "batch d_latent"],
                noise: LayerNoise) -> Float[Tensor, "batch features h w"]:
        return self.adain(self.activate(x, noise), w)


class AdaINBlock(AdaINLayer):
    """3×3 convolution, noise, bias, leaky ReLU, AdaIN: what `StyleBlock` was before demodulation.

    Args:
        d_latent: size of w.
        in_features, out_features: channels.
        resolution: of the output.
        up: double the resolution on the way.
    """

    def __init__(self, d_latent: int, in_features: int, out_features: int, resolution: int, up: bool = False):
        super().__init__(d_latent, out_features, resolution)
        self.conv = (SmoothUpConv2d(in_features, out_features) if up else
                     EqualizedConv2d(in_features, out_features, kernel_size=3, padding=1, bias=False))

    def forward(self, x: Float[Tensor, "batch in_features h w"], w: Float[Tensor, "batch d_latent"],
                noise: LayerNoise) -> Float[Tensor, "batch out_features h2 w2"]:
        return super().forward(self.conv(x), w, noise)


class GrowingBlock(StylePair):
    """A block of the growing generator: the two style blocks and nothing else."""

    def forward(self, x: Float[Tensor, "batch in_features h w"], w: Float[Tensor, "_ batch d_latent"],
                noise) -> Float[Tensor, "batch out_features h2 w2"]:
        return self.features(x, w.unbind(), noise)


class GrowingGenerator(StyleGenerator):
    """w and noise to images, growing; with `AdaINBlock` the generator of StyleGAN.

    With AdaIN the constant is styled too, so that there are two layers per block. With demodulation (StyleGAN2, figure
    2c and d) it is not, and the first block has one. toRGB is not styled.

    Args: as in `StyleGenerator`.

    Raises:
        ValueError: as in `StyleGenerator`; (forward) stage is out of range; w or noise do not fit, as in `Generator`.
    """

    make_block = GrowingBlock

    def __init__(self, log_resolution: int, d_latent: int, n_features: int = 32, max_features: int = 512,
                 style_block: Callable[..., nn.Module] = StyleBlock, n_channels: int = 3):
        super().__init__(log_resolution, d_latent, n_features, max_features, style_block, n_channels)
        self.stage = float(self.n_blocks - 1)
        nn.init.ones_(self.initial_constant)
        self.style_constant = (
            AdaINLayer(d_latent, self.features[0], resolution=4) if style_block is AdaINBlock else None)
        self.to_rgb = FadingRGB(self.features, n_channels)

    @property
    def n_layers(self) -> int:
        """Two per block, less one where the constant is not styled."""
        return 2 * self.n_blocks - (self.style_constant is None)

    def layers_of_block(self, i: int) -> slice:
        """Two for every block, but for the first where the constant is not styled."""
        end = self.n_layers - 2 * (self.n_blocks - 1 - i)
        return slice(max(0, end - 2), end)

    def forward(self, w: Float[Tensor, "blocks_or_layers batch d_latent"],
                input_noise: Noise = "random") -> Float[Tensor, "batch channels height width"]:
        top, alpha = split_stage(self.stage, self.n_blocks)
        w_first, *w_blocks = self.w_of_blocks(w)
        noise_first, *noise_blocks = self.noise_of_blocks(input_noise)
        x = self.constant(w.shape[1])
        if self.style_constant is not None:
            x = self.style_constant(x, w_first[0], noise_first[0])
        below = x = self.style_block(x, w_first[-1], noise_first[1])
        for block, w_block, noise in zip(self.blocks[:top], w_blocks, noise_blocks, strict=False):
            below, x = x, block(x, w_block, noise)
        return self.to_rgb(below, x, top, alpha)
