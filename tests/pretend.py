"""A pretended accelerator: a device in the CPU's own memory that is as strict as a GPU.

    with pretended() as (device, counts):
        network.to(device)
        ...
        assert not counts.waits

A tensor on the device "pretend:0" wraps a tensor of the CPU, and every operation runs on
what is wrapped: the numbers are the CPU's. What CUDA refuses is refused: operands on two
devices (but for numbers on the CPU, that is 0-d tensors, where CUDA takes these), a
generator of the CPU for a draw on the device, and `.numpy()`. `Counts` says what was
started on the device, what the program waited for, and what the CPU computed.

It has no time and no generator of its own: draws come from the CPU's default one. Autocast
casts convolutions and matrix products. Other threads must not use torch meanwhile.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

NAME = "pretend"
# Operations that compute nothing, though their schemas do not tell them from those that do.
ALLOCATIONS = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
SILENT = ALLOCATIONS | {
    "_linalg_check_errors", "_local_scalar_dense", "_unsafe_view", "set_"}
COPIES = {"_to_copy", "copy_"}
# In these CUDA waits: for a number, for a size that depends on numbers, or to see whether
# a matrix could be decomposed.
WAITING = {
    "_linalg_check_errors", "_local_scalar_dense", "_unique2", "bincount", "equal",
    "linalg_lstsq", "masked_select", "nonzero", "unique_consecutive", "unique_dim"}
INDEXING = {"index", "index_put", "index_put_"}  # the indices may be the CPU's
# Of what is cast to half precision by autocast, which has a list for every kind of device.
CAST = ("conv2d", "conv_transpose2d.input", "linear", "matmul", "mm", "addmm", "bmm")
# These take no number from the CPU.
ON_ONE_DEVICE = {"cat", "stack", "_fused_adam_", "_fused_adamw_", "_fused_sgd_"}


@dataclass
class Counts:
    """How often what was run, by the names of the operations."""

    launches: Counter[str] = field(default_factory=Counter)
    """Computed on the device. A view or an allocation is nothing to compute, and a copy
    from or to the CPU is in `uploads` or in `waits`. CUDA has a kernel or a few for each.
    """
    waits: Counter[str] = field(default_factory=Counter)
    """What needed its result before the program could go on: a number or a size that was
    read, a copy to the CPU that was not `non_blocking`.
    """
    uploads: Counter[str] = field(default_factory=Counter)
    """Copies from the CPU to the device. They are no `waits`, although CUDA finishes what
    it has begun before one that is not `non_blocking`.
    """
    on_cpu: Counter[str] = field(default_factory=Counter)
    """Computed on the CPU, with tensors that are more than a number."""

    @property
    def elsewhere(self) -> Counter[str]:
        """All that did not stay on the device."""
        return self.waits + self.uploads + self.on_cpu

    def clear(self) -> None:
        """Begin anew."""
        for counter in (self.launches, self.waits, self.uploads, self.on_cpu):
            counter.clear()


class Pretended(Tensor):
    """A tensor on the device. `raw` holds its numbers, and a view's `raw` is a view."""

    raw: Tensor
    # Else torch would make every result one of these, also those on the CPU.
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, raw: Tensor) -> "Pretended":
        made = Tensor._make_wrapper_subclass(
            cls, raw.size(), strides=raw.stride(), storage_offset=raw.storage_offset(),
            dtype=raw.dtype, layout=raw.layout, device=torch.device(NAME, 0))
        made.raw = raw
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (),
                           kwargs: Any = None) -> Any:
        """What the mode does not see: where torch switches modes off, or its time is over.
        """
        return run(func, args, kwargs or {})

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        return self.detach()

    @data.setter
    def data(self, value: "Pretended") -> None:
        """Other numbers, of another shape or type perhaps: `nn.Module.to` does this."""
        Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.raw = value.raw

    def tolist(self) -> Any:
        """torch's own refuses subclasses."""
        return self.cpu().tolist()

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        with _disable_current_modes():  # or printing would be counted
            return f"Pretended({self.raw!r})"


class Pretending(TorchDispatchMode):
    """Sees every operation, so also those that make tensors of nothing, and the CPU's."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (),
                           kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


current: Counts | None = None
"""Those of the `pretended` that the program is in."""


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Refuse an operation, or count it and run it on the wrapped tensors.

    Raises:
        RuntimeError: CUDA would refuse it too, or it is after the end of `pretended`.
    """
    if current is None:
        raise RuntimeError("the pretended device is gone, and one of its tensors is not")
    name, operands = func.overloadpacket.__name__, tensors_in((args, kwargs))
    own = [x for x in operands if isinstance(x, Pretended)]
    device = kwargs.get("device")
    on_device = bool(own) if device is None else torch.device(device).type == NAME
    if name == "copy_":
        on_device = isinstance(args[0], Pretended)
    if name not in COPIES:
        refuse(name, args, operands, on_device, kwargs.get("generator"))
    known = {id(x.raw): x for x in own}
    if device is not None:
        kwargs = {**kwargs, "device": "cpu"}
    result = func(*tree_map(unwrapped, args), **tree_map(unwrapped, kwargs))
    if on_device:
        # What was changed in place stays the object that it was.
        result = tree_map(lambda x: wrapped(x, known), result)
    count(func, args, kwargs, operands, tensors_in(result))
    return result


def tensors_in(tree: Any) -> list[Tensor]:
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]


def unwrapped(x: Any) -> Any:
    return x.raw if isinstance(x, Pretended) else x


def wrapped(x: Any, known: dict[int, Pretended]) -> Any:
    if not isinstance(x, Tensor):
        return x
    if id(x) not in known:
        return Pretended(x)
    made = known[id(x)]
    if made.shape != x.shape or made.stride() != x.stride():  # `unsqueeze_`, say
        made.data = Pretended(x)
    return made


def refuse(name: str, args: Any, operands: list[Tensor], on_device: bool,
           generator: torch.Generator | None) -> None:
    """Do as CUDA does.

    Raises:
        RuntimeError: the operands are on two devices, or numbers are to be drawn on the
            device by a generator that is not.
    """
    if on_device and generator is not None:
        raise RuntimeError(f"expected a generator on {NAME}, got {generator.device}")
    if name in INDEXING and isinstance(args[0], Pretended):
        operands = tensors_in((args[0], args[2:]))
    foreign = [x for x in operands if not isinstance(x, Pretended)
               and (x.ndim or name in ON_ONE_DEVICE)]
    if foreign and any(isinstance(x, Pretended) for x in operands):
        raise RuntimeError(f"{name} expected all tensors to be on the same device, and has "
                           f"{foreign[0].device} beside {NAME}")


def count(func: Any, args: Any, kwargs: dict[str, Any], operands: list[Tensor],
          results: list[Tensor]) -> None:
    """Enter an operation into the `current` counts."""
    assert current is not None
    name = func.overloadpacket.__name__
    here = any(isinstance(x, Pretended) for x in operands)
    there = any(isinstance(x, Pretended) for x in results)
    if name in COPIES:
        here = isinstance(args[name == "copy_"], Pretended)
        blocking = not (kwargs.get("non_blocking") or True in args[2:])
        if here and not there:
            current.waits[name] += blocking
            return
        if there and not here:
            current.uploads[name] += 1
            return
    if (name in WAITING and here) or (name in INDEXING and reads_sizes(args)):
        current.waits[name] += 1
    if name in INDEXING and there:
        foreign = [x for x in tensors_in(args[1]) if not isinstance(x, Pretended)]
        current.uploads.update([name] * len(foreign))
    if name not in SILENT and computes(func):
        if here or there:
            current.launches[name] += 1
        elif any(x.ndim for x in operands + results):
            current.on_cpu[name] += 1


def computes(func: Any) -> bool:
    """Whether it makes or changes numbers: it returns no view of what it is given."""
    returned = func._schema.returns
    if returned and not any("Tensor" in str(value.type) for value in returned):
        return func.overloadpacket.__name__ in WAITING
    aliases = [value.alias_info for value in returned if value.alias_info is not None]
    return all(alias.is_write for alias in aliases)


def reads_sizes(args: Any) -> bool:
    """Whether an index on the device is a mask, whose entries must be counted; but one
    number for all that a mask chooses needs no count.
    """
    masks = [x for x in tensors_in(args[1])
             if isinstance(x, Pretended) and x.dtype in (torch.bool, torch.uint8)]
    one_number = len(args) > 2 and args[2].numel() == 1
    return bool(masks) and not (one_number and len(tensors_in(args[1])) == 1)


class Backend:
    """What torch asks of a kind of device, as `torch.pretend`."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return current is not None

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
    """Tell torch that there is such a kind of device: once, for it cannot be taken back."""
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

    Backward passes run in the thread that asks for them: torch starts one for each device
    that it knows when the first one begins, which may have been before there was this.
    """
    global current
    assert current is None
    register()
    # What torch does while it keeps modes away: making a tensor of a list in an index.
    library = torch.library.Library("aten", "IMPL")
    for name, function in (("empty_strided", empty_strided), ("empty.memory_format", empty),
                           ("_copy_from", copy_from)):
        library.impl(name, function, "PrivateUse1")
    for name in CAST:
        library.impl(name, cast(name), "AutocastPrivateUse1")
    others = torch.library.Library("_", "IMPL")
    others.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    current = Counts()
    try:
        with torch.autograd.set_multithreading_enabled(False), Pretending():
            yield torch.device(NAME, 0), current
    finally:
        current = None
        library._destroy()
        others._destroy()
