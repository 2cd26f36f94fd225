"""How much memory a computation needs, counted operation by operation."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Memory(TorchDispatchMode):
    """Inside `with`: the bytes that are alive after each operation, of what was made inside.

    Exact, the same on every machine, and right for fake tensors too, which hold no numbers. What an allocator keeps for
    later and what a kernel needs for itself are not counted.

    Attributes:
        alive: bytes now.
        history: bytes at the start and after each operation, forward and backward.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive, self.history = 0, [0]
        self.sizes: dict[int, int] = {}

    def release(self, key: int) -> None:
        self.alive -= self.sizes.pop(key)

    def __torch_dispatch__(self, operation: Any, types: Any, args: tuple[Any, ...] = (),
                           kwargs: Mapping[str, Any] | None = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        given = storages((args, kwargs))
        for key, storage in storages(result).items():
            if key not in given and key not in self.sizes:  # a view adds none
                self.sizes[key] = storage.nbytes()
                self.alive += storage.nbytes()
                weakref.finalize(storage, self.release, key)
        self.history.append(self.alive)
        return result

    @property
    def peak(self) -> int:
        """The most bytes that were alive at once."""
        return max(self.history)


def storages(tree: Any) -> dict[int, torch.UntypedStorage]:
    """The memory behind all tensors in a nested structure, by address."""
    tensors = [t for t in tree_leaves(tree) if isinstance(t, Tensor)]
    return {t.untyped_storage()._cdata: t.untyped_storage() for t in tensors}
