"""StyleGAN2 in PyTorch: the networks, the penalties that are made of gradients, training.

    python -m stylegan2 train      trains on procedural faces; --help tells the rest
    python -m stylegan2 sample     writes a grid of images

The parameterisation is that of the published networks; each module names its source.
"""

from stylegan2.discriminator import Discriminator, DiscriminatorBlock, MiniBatchStdDev
from stylegan2.equalized import EqualizedConv2d, EqualizedLinear, EqualizedWeight
from stylegan2.generator import Generator, GeneratorBlock, StyleBlock, ToRGB
from stylegan2.mapping import MappingNetwork
from stylegan2.modulation import Conv2dWeightModulate
from stylegan2.penalties import GradientPenalty, PathLengthPenalty, path_lengths
from stylegan2.resample import DownSample, Smooth, UpSample

__all__ = [
    "Conv2dWeightModulate", "Discriminator", "DiscriminatorBlock", "DownSample", "EqualizedConv2d", "EqualizedLinear",
    "EqualizedWeight", "Generator", "GeneratorBlock", "GradientPenalty", "MappingNetwork", "MiniBatchStdDev",
    "PathLengthPenalty", "Smooth", "StyleBlock", "ToRGB", "UpSample", "path_lengths",
]
