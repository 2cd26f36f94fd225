"""What the engines work on: a module, a batch, a loss, and which axis counts the samples."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from gradnorm.checkpoint import reentrant_hint


class EngineRefusal(RuntimeError):
    """An engine cannot give this module's per-sample gradients. The message says for which layers and why."""


@dataclass(frozen=True)
class Batch:
    """A module, the samples it is to see, and the loss of what it makes of them."""

    module: nn.Module
    inputs: tuple[Any, ...]
    keywords: dict[str, Any]
    targets: tuple[Any, ...]
    loss: Callable[..., Tensor]
    loss_reduction: str
    batch_first: bool
    size: int

    def axis(self, leaf: Any) -> int | None:
        """The axis of an input, target or output that counts the samples; None where all samples share it."""
        if not isinstance(leaf, Tensor) or leaf.ndim == 0:
            return None
        axis = 0 if self.batch_first or leaf.ndim == 1 else 1
        return axis if leaf.shape[axis] == self.size else None

    def part(self, tree: Any, start: int, length: int) -> Any:
        """The samples from `start` on, in whatever `tree` holds."""

        def narrow(leaf: Any) -> Any:
            axis = self.axis(leaf)
            return leaf if axis is None else leaf.narrow(axis, start, length)

        return tree_map(narrow, tree)

    def sample(self, index: int) -> Batch:
        """A batch of one."""
        inputs, keywords, targets = self.part((self.inputs, self.keywords, self.targets), index, 1)
        return replace(self, inputs=inputs, keywords=keywords, targets=targets, size=1)

    def parameters(self) -> dict[str, nn.Parameter]:
        """The trainable ones, each once."""
        return {name: p for name, p in self.module.named_parameters() if p.requires_grad}

    @contextlib.contextmanager
    def arithmetic(self) -> Iterator[None]:
        """For formulas: no graph, and no autocast, which would round their sums."""
        kind = next(self.module.parameters()).device.type
        with torch.no_grad(), torch.autocast(kind, enabled=False):
            yield


def make_batch(
    module: nn.Module,
    inputs: Any,
    loss: Callable[..., Tensor],
    targets: Any,
    loss_reduction: str,
    batch_first: bool,
    batch_size: int | None,
) -> Batch:
    """Check the arguments of `per_sample_gradients`, find the batch size, and cut the inputs off their graph.

    Raises:
        TypeError, ValueError: as `per_sample_gradients` says.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be an nn.Module, got {type(module).__name__}; wrap a function in a module")
    if loss_reduction not in ("sum", "mean"):
        raise ValueError(f"loss_reduction says how `loss` joins its samples, 'sum' or 'mean'; got {loss_reduction!r}")
    if batch_size is not None and (not isinstance(batch_size, int) or isinstance(batch_size, bool)):
        raise TypeError(f"batch_size must be an integer or None, got {type(batch_size).__name__}")
    if not any(p.requires_grad for p in module.parameters()):
        raise ValueError("the module has no parameter that requires a gradient: set requires_grad where you want one")
    keywords = dict(inputs) if isinstance(inputs, Mapping) else {}
    positional = () if keywords else tuple(inputs) if isinstance(inputs, Sequence) else (inputs,)
    wanted = tuple(targets) if isinstance(targets, Sequence) else (targets,)
    cut = tree_map(cut_off, (positional, keywords, wanted))
    size = batch_size_of(cut, batch_first) if batch_size is None else batch_size
    if size < 1:
        raise ValueError(f"the batch size must be at least 1, got {size}")
    positional, keywords, wanted = cut
    return Batch(module, positional, keywords, wanted, loss, loss_reduction, batch_first, size)


def cut_off(leaf: Any) -> Any:
    """The same numbers as a leaf. Whether it requires a gradient stays: a re-entrant
    checkpoint leaves no trace in a graph where nothing that goes into it does.
    """
    if not isinstance(leaf, Tensor):
        return leaf
    return leaf.detach().requires_grad_(leaf.requires_grad)


def batch_size_of(tree: Any, batch_first: bool) -> int:
    """What all tensors agree on."""
    leaves = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.ndim > 0]
    sizes = {leaf.shape[0 if batch_first or leaf.ndim == 1 else 1] for leaf in leaves}
    if not sizes:
        raise ValueError("the inputs hold no tensor to read the batch size from: pass batch_size")
    if len(sizes) > 1:
        raise ValueError(
            f"the inputs and targets have batch sizes {sorted(sizes)} on axis {0 if batch_first else 1}: pass "
            "batch_size (a tensor of another size is then taken whole by every sample), or check batch_first"
        )
    return sizes.pop()


def refuse_reentrant(engine: str, loss: Tensor) -> None:
    """Raise an EngineRefusal where a graph hides parameters: they would get zeros."""
    if hint := reentrant_hint(loss):
        raise EngineRefusal(f"{engine}: some parameters may be out of sight{hint}")


def check_reduction(batch: Batch, output: Any) -> None:
    """Compare the loss of two samples with their own: does it join them as `loss_reduction` says?

    Engines that differentiate the whole batch's loss would be wrong by a factor of the batch size otherwise.

    Raises:
        ValueError: it does not.
    """
    if batch.size < 2:
        return
    made = tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, (output, batch.targets))
    with torch.no_grad():
        parts = [batch.part(made, start, length) for start, length in ((0, 1), (1, 1), (0, 2))]
        losses = torch.stack([batch.loss(out, *targets) for out, targets in parts])
    first, second, both = losses.tolist()
    expected = (first + second) / (2 if batch.loss_reduction == "mean" else 1)
    off, rounding = abs(both - expected), max(1e-2, 4 * torch.finfo(losses.dtype).eps)
    # a sum that overflowed in half precision says nothing; its gradient may be finite
    if math.isfinite(off) and off > rounding * (abs(first) + abs(second)):
        raise ValueError(
            f"with loss_reduction={batch.loss_reduction!r} the loss of samples 0 and 1 should be {expected:g}, their "
            f"losses being {first:g} and {second:g}, but it is {both:g}: pass the other loss_reduction if that "
            "fits, or a loss that does not mix the samples"
        )
