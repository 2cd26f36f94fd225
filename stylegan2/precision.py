"""In what precision something is computed: where a few bits are enough, and where they are not."""

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

Precision = Literal["auto", "fp32", "bf16", "fp16"]
BOUND_BY_ARITHMETIC = 128
"""The side of the images from which on half precision pays: a step at a smaller one is bound by
the number of its operations, and half precision adds some (benchmarks/launches.py).
"""
FLOAT16_RESOLUTIONS = 4
FLOAT16_LIMIT = 256.0


def dtype_of_main_phases(precision: Precision, device: torch.device, side: int) -> torch.dtype:
    """What convolutions and matrix products compute in. What "auto" means depends on what the
    device computes in itself, and on the side of the images.
    """
    named = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if precision != "auto":
        return named[precision]
    if side < BOUND_BY_ARITHMETIC:
        return torch.float32
    if has_bfloat16(device):
        return torch.bfloat16
    return torch.float16 if has_float16(device) else torch.float32


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 itself: CUDA's from compute capability 8 on. Earlier
    ones (a T4 has 7.5) emulate it, slower than float32, and torch counts that as support.
    """
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def has_float16(device: torch.device) -> bool:
    """Whether a device has matrix units for float16: CUDA's from compute capability 7 on."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (7, 0)


@contextlib.contextmanager
def at_resolution(x: Tensor, below_highest: int) -> Iterator[Tensor]:
    """x as the layers of a resolution want it, and the precision that they compute in.

    float16 ends at 65,504. So a network under autocast in float16 uses it in its four highest
    resolutions only, where the time goes, and float32 below; bfloat16, which reaches as far as
    float32, is used in all of them.

    Source: Karras et al. (arXiv 2006.06676), appendix on mixed precision.

    Args:
        x: features that come in.
        below_highest: how often the highest resolution was halved; 0 is the highest.
    """
    if not autocast_to_float16(x):
        yield x
    elif below_highest < FLOAT16_RESOLUTIONS:
        yield limited(x.half())
    else:
        with without_autocast(x):
            yield x.float()


def limited(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Activations in float16 cut off at ±256, so that no sum of them overflows; others as they are."""
    return x.clamp(-FLOAT16_LIMIT, FLOAT16_LIMIT) if x.dtype == torch.float16 else x


def autocast_to_float16(x: Tensor) -> bool:
    """Whether autocast is on for the device of x, and casts to float16."""
    kind = x.device.type
    return torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """Inside, float32 is float32. By default CUDA's convolutions, from compute capability 8 on,
    round their operands to the 10 bits of TF32: too few for what is differentiated twice, or
    divided by the square of a small step. Forward and backward pass both belong inside.
    """
    before = float32_settings()
    names = [name for _, name in before]
    used, exact = ("allow_tf32", False) if names.count("allow_tf32") == 2 else ("fp32_precision", "ieee")
    try:
        for place, name in before:
            if name == used:
                setattr(place, name, exact)
        yield
    finally:
        for (place, name), value in before.items():
            setattr(place, name, value)


def float32_settings() -> dict[tuple[Any, str], Any]:
    """What torch keeps on the precision of float32, by object and attribute, in the order in which it
    can be put back. Since torch 2.9 there are two sets of names; a program that sets the newer ones can
    no longer read the older ones, which torch itself (`cudnn.flags`) reads.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    names: list[tuple[Any, str]] = [(cudnn, "allow_tf32"), (matmul, "allow_tf32")]
    if hasattr(cudnn, "conv"):
        names += [(place, "fp32_precision") for place in (cudnn.conv, cudnn.rnn, matmul)]
    found = {}
    for place, name in names:
        with contextlib.suppress(RuntimeError):
            found[place, name] = getattr(place, name)
    return found


def without_autocast(x: Tensor) -> contextlib.AbstractContextManager[None]:
    """Inside, nothing on the device of x is cast to half precision."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.autocast(x.device.type, enabled=False)
    return contextlib.nullcontext()
