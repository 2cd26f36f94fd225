"""Progressive GAN, StyleGAN and StyleGAN2 in PyTorch: the networks, the penalties that are made of gradients, training,
looking at what was trained, measuring it.

    python -m stylegan2 --help

The parameterisation is that of the published networks; each module names its source. Here are the networks, the
penalties, and `load`, which reads a trained network in any public format; `stylegan2.training`, `stylegan2.weights`,
`stylegan2.explore`, `stylegan2.metrics`, `stylegan2.convert`, `stylegan2.augment` and `stylegan2.data` hold the rest.
"""

from stylegan2.discriminator import Discriminator, DiscriminatorBlock, MiniBatchStdDev, SkipDiscriminator
from stylegan2.equalized import EqualizedConv2d, EqualizedLinear, EqualizedWeight
from stylegan2.generator import Generator, GeneratorBlock, ResidualGenerator, StyleBlock, ToRGB
from stylegan2.mapping import MappingNetwork
from stylegan2.modulation import AdaIN, Conv2dWeightModulate
from stylegan2.penalties import GradientPenalty, PathLengthPenalty, WassersteinGradientPenalty, path_lengths
from stylegan2.progressive import GrowingDiscriminator, PixelNorm, ProgressiveDiscriminator, ProgressiveGenerator
from stylegan2.resample import DownSample, Smooth, UpSample
from stylegan2.stylegan1 import AdaINBlock, GrowingGenerator
from stylegan2.weights import load

__all__ = [
    "AdaIN", "AdaINBlock", "Conv2dWeightModulate", "Discriminator", "DiscriminatorBlock", "DownSample",
    "EqualizedConv2d", "EqualizedLinear", "EqualizedWeight", "Generator", "GeneratorBlock", "GradientPenalty",
    "GrowingDiscriminator", "GrowingGenerator", "MappingNetwork", "MiniBatchStdDev", "PathLengthPenalty", "PixelNorm",
    "ProgressiveDiscriminator", "ProgressiveGenerator", "ResidualGenerator", "SkipDiscriminator", "Smooth",
    "StyleBlock", "ToRGB", "UpSample", "WassersteinGradientPenalty", "load", "path_lengths",
]
