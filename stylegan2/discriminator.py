"""The StyleGAN2 discriminator: residual blocks, minibatch standard deviation, a score.

Source: Karras et al. (arXiv 1912.04958), figure 7c; minibatch standard deviation from Progressive GAN (arXiv
1710.10196), section 3.
"""

import itertools
import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stylegan2.equalized import EqualizedConv2d, EqualizedLinear
from stylegan2.generator import features_of_blocks
from stylegan2.resample import DownSample, Smooth


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
        self.block = nn.Sequential(
            EqualizedConv2d(in_features, in_features, kernel_size=3, padding=1, gain=math.sqrt(2)),
            nn.LeakyReLU(0.2, inplace=True),
            Smooth(padding=2),
            # gain √2 of the activation times √½ of the branch: 1
            EqualizedConv2d(in_features, out_features, kernel_size=3, stride=2),
            nn.LeakyReLU(0.2, inplace=True))

    def forward(self, x: Float[Tensor, "batch in_features h w"]) -> Float[Tensor, "batch out_features h2 w2"]:
        return self.residual(x) + self.block(x)


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
        if batch % size:
            raise ValueError(f"a batch of {batch} does not split into groups of {size} for the minibatch standard "
                             f"deviation: use a multiple of {size}, or another group_size")
        grouped = x.float().reshape(size, -1, *x.shape[1:])  # [size, groups, features, h, w]
        variance = (grouped - grouped.mean(dim=0)).square().mean(dim=0)  # Tensor.var is slow here on a CPU
        std = torch.sqrt(variance + 1e-8).mean(dim=(1, 2, 3))  # [groups]
        channel = std.to(x.dtype).expand(size, -1).reshape(batch, 1, 1, 1).expand(-1, 1, *x.shape[2:])
        return torch.cat([x, channel], dim=1)


class Discriminator(nn.Module):
    """Images to scores (logits): high for images that look real.

    Args:
        log_resolution: log₂ of the side of the image, at least 2.
        n_features: channels at the highest resolution.
        max_features: limit for the low resolutions.
        group_size: of the minibatch standard deviation.

    Raises:
        ValueError: log_resolution is less than 2; (forward) the images have another side than 2^log_resolution.
    """

    def __init__(self, log_resolution: int, n_features: int = 64, max_features: int = 512, group_size: int = 4):
        super().__init__()
        features = features_of_blocks(log_resolution, n_features, max_features)[::-1]
        self.resolution = 1 << log_resolution
        gain, activation = math.sqrt(2), nn.LeakyReLU(0.2, inplace=True)
        self.from_rgb = nn.Sequential(EqualizedConv2d(3, features[0], kernel_size=1, gain=gain), activation)
        self.blocks = nn.Sequential(*itertools.starmap(DiscriminatorBlock, itertools.pairwise(features)))
        self.std_dev = MiniBatchStdDev(group_size)
        last = features[-1]
        self.conv = nn.Sequential(EqualizedConv2d(last + 1, last, kernel_size=3, padding=1, gain=gain), activation)
        self.final = nn.Sequential(
            EqualizedLinear(last * 4 * 4, last, gain=gain), activation, EqualizedLinear(last, 1))

    def forward(self, x: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 1"]:
        if x.shape[2:] != (self.resolution, self.resolution):
            raise ValueError(f"images are {x.shape[2]} × {x.shape[3]}; this discriminator takes "
                             f"{self.resolution} × {self.resolution}")
        x = self.blocks(self.from_rgb(x.contiguous(memory_format=torch.channels_last)))
        x = self.conv(self.std_dev(x))
        return self.final(x.flatten(1)).float()
