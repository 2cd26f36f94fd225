"""The average of the generator that samples are drawn from (Progressive GAN, arXiv 1710.10196, section A; half-life:
StyleGAN2-ADA).
"""

import torch
from torch import nn


def decay_of(batch_size: int, images_seen: int, half_life: int, ramp_up: float | None = 0.05) -> float:
    """The factor that the average keeps of itself in one step, so that its memory halves every `half_life` images.

    Args:
        batch_size: images per step.
        images_seen: so far; early on the half-life is at most `ramp_up` of them, so that the first networks are soon
            forgotten; None for a start that is worth remembering.
        half_life: in images.
    """
    images = half_life if ramp_up is None else min(half_life, ramp_up * images_seen)
    return 0.5 ** (batch_size / images) if images > 0 else 0.0


@torch.no_grad()
def update_average(average: nn.Module, module: nn.Module, decay: float) -> None:
    """average ← decay·average + (1 − decay)·module, over the parameters; buffers are copied."""
    torch._foreach_lerp_(list(average.parameters()), list(module.parameters()), 1 - decay)
    buffers = list(average.buffers())
    if buffers:
        torch._foreach_copy_(buffers, list(module.buffers()))
