"""Tensors on the pretended device, and what becomes of operations on them."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_map

from tests.pretend.counts import COPIES, INDEXING, NAME, Counts, count, tensors_in

# These take no number from the CPU.
ON_ONE_DEVICE = {"cat", "stack", "_fused_adam_", "_fused_adamw_", "_fused_sgd_"}


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
        """What the mode does not see: torch switches it off at times, or it is over."""
        return run(func, args, kwargs or {})

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, value: "Pretended") -> None:
        """Other numbers, of another shape or type perhaps: `nn.Module.to` does this."""
        Tensor.data.__set__(self, value)
        self.raw = value.raw

    def tolist(self) -> Any:
        """torch's own refuses subclasses."""
        return self.cpu().tolist()

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        with _disable_current_modes():  # or printing would be counted
            return f"Pretended({self.raw!r})"


class Pretending(TorchDispatchMode):
    """Sees every operation, also those that make tensors of nothing, and the CPU's."""

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
        raise RuntimeError("the pretended device is gone, unlike one of its tensors")
    name, operands = func.overloadpacket.__name__, tensors_in((args, kwargs))
    own = [x for x in operands if isinstance(x, Pretended)]
    device = kwargs.get("device")
    on_device = bool(own) if device is None else torch.device(device).type == NAME
    if name == "copy_":
        on_device = isinstance(args[0], Pretended)
    if name not in COPIES:
        refuse(name, args, kwargs, operands, on_device)
    known = {id(x.raw): x for x in own}
    if device is not None:
        kwargs = {**kwargs, "device": "cpu"}
    result = func(*tree_map(unwrapped, args), **tree_map(unwrapped, kwargs))
    if on_device:
        # What was changed in place stays the object that it was.
        result = tree_map(lambda x: wrapped(x, known), result)
    count(current, func, args, kwargs, operands, tensors_in(result))
    return result


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


def refuse(name: str, args: Any, kwargs: dict[str, Any], operands: list[Tensor],
           on_device: bool) -> None:
    """Do as CUDA does.

    Raises:
        RuntimeError: the operands are on two devices, or numbers are to be drawn on the
            device by a generator that is not.
    """
    generator = kwargs.get("generator")
    if on_device and generator is not None:
        raise RuntimeError(f"expected a generator on {NAME}, got {generator.device}")
    if name in INDEXING and isinstance(args[0], Pretended):
        operands = tensors_in((args[0], args[2:]))
    written = args[0] if name.endswith("_") else kwargs.get("out")
    foreign = [x for x in operands if not isinstance(x, Pretended)
               and (x.ndim or x is written or name in ON_ONE_DEVICE)]
    if foreign and any(isinstance(x, Pretended) for x in operands):
        raise RuntimeError(f"{name} expected all tensors to be on the same device, and "
                           f"has {foreign[0].device} beside {NAME}")
