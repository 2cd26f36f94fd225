"""In what precision something is computed: where a few bits are enough, and where they are not."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 itself: CUDA's from compute capability 8 on. Earlier
    ones (a T4 has 7.5) emulate it, slower than float32, and torch counts that as support.
    """
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


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
