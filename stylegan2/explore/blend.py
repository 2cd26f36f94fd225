"""Two networks of one origin in one, by resolution: the coarse layers of the one, the fine layers of the other.

Source: Pinkney and Adler, Resolution Dependent GAN Interpolation (arXiv 2010.05334).
"""

import copy
import math
import re

import torch

from stylegan2.training.config import Settings
from stylegan2.training.players import TrainedGenerator
from stylegan2.training.start import SIZES


@torch.no_grad()
def blend(a: TrainedGenerator, b: TrainedGenerator, at: int, width: float = 0.0) -> TrainedGenerator:
    """A generator whose weights are a's below a resolution and b's from there on; the mapping network is a's.

    Args:
        a, b: of the same sizes, and the one trained on from the other, or both from a third: only then do their
            layers speak of the same features.
        at: the lowest resolution that is b's, a power of two from 8 on.
        width: octaves over which a turns into b: the weight of b at resolution r is
            1/(1 + exp(−(log₂ r − log₂ at + ½)/width)); 0 is a step.

    Raises:
        ValueError: the networks have other sizes; there is no such resolution; the width is negative.
    """
    for name in SIZES:
        first, second = getattr(a.settings, name), getattr(b.settings, name)
        if first != second:
            raise ValueError(f"{name} is {first} in the one and {second} in the other: only networks of one origin "
                             "can be blended")
    side = a.settings.resolution
    if at not in [2**k for k in range(3, side.bit_length())]:
        raise ValueError(f"at is {at}: it must be a resolution of the network above 4, a power of two up to {side}")
    if width < 0:
        raise ValueError(f"width is {width}: it must be 0 or more octaves")
    made = copy.deepcopy(a)
    theirs = dict(b.generator.named_parameters()) | dict(b.generator.named_buffers())
    for name, ours in (*made.generator.named_parameters(), *made.generator.named_buffers()):
        ours.lerp_(theirs[name].to(ours), share_of_b(resolution_of(name, a.settings), at, width))
    return made


def share_of_b(resolution: int, at: int, width: float) -> float:
    octaves = math.log2(resolution) - math.log2(at) + 0.5
    if width == 0:
        return float(octaves > 0)
    return 1 / (1 + math.exp(-max(-60.0, min(60.0, octaves / width))))


def resolution_of(name: str, s: Settings) -> int:
    """
    Args:
        name: of a tensor of a generator with these settings.
    """
    if found := re.match(r"blocks\.(\d+)\.", name):
        return 8 << int(found[1])
    if found := re.match(r"to_rgb\.layers\.(\d+)\.", name):  # of a plain generator
        return 4 << int(found[1])
    return s.resolution if s.generator == "residual" and name.startswith("to_rgb.") else 4
