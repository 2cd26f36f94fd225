"""A pretended accelerator: a device in the CPU's own memory that is as strict as a GPU.

    with pretended() as (device, counts):
        network.to(device)
        ...
        assert not counts.waits

A tensor on the device "pretend:0" wraps a tensor of the CPU, and every operation runs
on what is wrapped: the numbers are the CPU's. What CUDA refuses is refused: operands on
two devices (but for numbers on the CPU, that is 0-d tensors, where CUDA takes these), a
generator of the CPU for a draw on the device, and `.numpy()`. `Counts` says what was
started on the device, what the program waited for, and what the CPU computed.

It has no time and no generator of its own: draws come from the CPU's default one.
Autocast casts convolutions and matrix products. Other threads must not use torch
meanwhile.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._pytree import tree_map

from tests.pretend import tensors
from tests.pretend.counts import NAME, Counts
from tests.pretend.tensors import Pretended, Pretending, run

__all__ = ["Counts", "Pretended", "pretended"]

# Of what autocast casts to half precision; torch has a list for every kind of device.
CAST = ("conv2d", "conv_transpose2d.input", "linear", "matmul", "mm", "addmm", "bmm")


class Backend:
    """What torch asks of a kind of device, as `torch.pretend`."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return tensors.current is not None

    def device_count(self) -> int:
        return int(self.is_available())

    def current_device(self) -> int:
        return 0

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        """There is no generator but the CPU's."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


def register() -> None:
    """Tell torch that there is such a kind of device, once: it cannot be taken back."""
    if torch._C._get_privateuse1_backend_name() != NAME:
        backend_registration._setup_privateuseone_for_python_backend(
            NAME, backend_module=Backend())


def empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> Pretended:
    return Pretended(torch.empty_strided(size, stride, dtype=dtype))


def empty(size: Any, *, dtype: Any = None, memory_format: Any = None,
          **_: Any) -> Pretended:
    return Pretended(torch.empty(
        size, dtype=dtype, memory_format=memory_format or torch.contiguous_format))


def copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    return run(torch.ops.aten.copy_.default, (target, source, non_blocking), {})


def cast(name: str) -> Callable[..., Any]:
    """An operation as autocast runs it."""
    packet, _, overload = name.partition(".")
    func = getattr(getattr(torch.ops.aten, packet), overload or "default")
    autocast = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def narrow(x: Any) -> Any:
        is_wide = isinstance(x, Pretended) and x.dtype == torch.float32
        return x.to(torch.get_autocast_dtype(NAME)) if is_wide else x

    def run_narrow(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(autocast):
            return func(*tree_map(narrow, args), **tree_map(narrow, kwargs))

    return run_narrow


@contextlib.contextmanager
def pretended() -> Iterator[tuple[torch.device, Counts]]:
    """Inside, there is the device. It does not nest.

    Backward passes run in the thread that asks for them: torch starts one for each
    device that it knows when the first pass begins, perhaps before there was this one.
    """
    assert tensors.current is None
    register()
    # What torch does while it keeps modes away: making a tensor of a list in an index.
    library = torch.library.Library("aten", "IMPL")
    library.impl("empty_strided", empty_strided, "PrivateUse1")
    library.impl("empty.memory_format", empty, "PrivateUse1")
    library.impl("_copy_from", copy_from, "PrivateUse1")
    for name in CAST:
        library.impl(name, cast(name), "AutocastPrivateUse1")
    others = torch.library.Library("_", "IMPL")
    others.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    tensors.current = counts = Counts()
    try:
        with torch.autograd.set_multithreading_enabled(False), Pretending():
            yield torch.device(NAME, 0), counts
    finally:
        tensors.current = None
        library._destroy()
        others._destroy()
