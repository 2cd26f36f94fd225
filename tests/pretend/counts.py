"""What is counted on the pretended device."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

NAME = "pretend"
# Operations that compute nothing, which their schemas do not tell.
ALLOCATIONS = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
SILENT = ALLOCATIONS | {
    "_linalg_check_errors", "_local_scalar_dense", "_unsafe_view", "set_"}
COPIES = {"_to_copy", "copy_"}
# In these CUDA waits: for a number, for a size that depends on numbers, or to see
# whether a matrix could be decomposed.
WAITING = {
    "_linalg_check_errors", "_local_scalar_dense", "_unique2", "bincount", "equal",
    "linalg_lstsq", "masked_select", "nonzero", "unique_consecutive", "unique_dim"}
INDEXING = {"index", "index_put", "index_put_"}  # the indices may be the CPU's


@dataclass
class Counts:
    """How often what was run, by the names of the operations."""

    launches: Counter[str] = field(default_factory=Counter)
    """Computed on the device. A view or an allocation is nothing to compute, and a copy
    from or to the CPU is in `uploads` or in `waits`. CUDA has one kernel or a few for
    each.
    """
    waits: Counter[str] = field(default_factory=Counter)
    """What needed its result before the program could go on: a number or a size that
    was read, a copy to the CPU that was not `non_blocking`.
    """
    uploads: Counter[str] = field(default_factory=Counter)
    """Copies from the CPU to the device. They are no `waits`, although CUDA finishes
    what it has begun before one that is not `non_blocking`.
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


def tensors_in(tree: Any) -> list[Tensor]:
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]


def on_device(x: Any) -> bool:
    """Of a number, which torch.func may pass in place of a tensor, False."""
    return isinstance(x, Tensor) and x.device.type == NAME


def count(current: Counts, func: Any, args: Any, kwargs: dict[str, Any],
          operands: list[Tensor], results: list[Tensor]) -> None:
    """Enter an operation into the counts."""
    name = func.overloadpacket.__name__
    here, there = any(map(on_device, operands)), any(map(on_device, results))
    if name in COPIES:
        here = on_device(args[name == "copy_"])
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
        foreign = [x for x in tensors_in(args[1]) if not on_device(x)]
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
    """Whether an index on the device is a mask, whose entries must be counted; but no
    count is needed to write one number, x[mask] = 0.
    """
    masks = [x for x in tensors_in(args[1])
             if on_device(x) and x.dtype in (torch.bool, torch.uint8)]
    one_number = len(args) > 2 and args[2].numel() == 1
    return bool(masks) and not (one_number and len(tensors_in(args[1])) == 1)
