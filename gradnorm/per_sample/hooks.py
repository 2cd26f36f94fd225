"""The hooks engine: one forward, one backward that stops at the layers' outputs, and a formula for each layer."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from gradnorm.graph import users
from gradnorm.measure import wide
from gradnorm.per_sample.batch import (
    Batch,
    EngineRefusal,
    check_reduction,
    refuse_reentrant,
)
from gradnorm.per_sample.formulas import FORMULAS
from gradnorm.per_sample.norms import squared_norms, squares
from gradnorm.per_sample.support import own_parameters


class Call(NamedTuple):
    """One use of a layer: what went in, and where in the graph its output is."""

    layer: nn.Module
    x: Tensor
    version: int  # of x: an operation in place would raise it
    output: GradientEdge


class Recorder:
    """Notes every call of the layers that have trainable parameters; leaves no hook behind, whatever happens."""

    def __init__(self, module: nn.Module) -> None:
        self.layers = [layer for layer in module.modules() if own_parameters(layer)]
        self.calls: list[Call] = []

    def __enter__(self) -> Recorder:
        # first in line, so that a hook of the user's that changes the output comes after
        self.handles = [layer.register_forward_hook(self.note, prepend=True, with_kwargs=True) for layer in self.layers]
        return self

    def note(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        x = args[0] if args else next(iter(kwargs.values()))
        if not output.requires_grad:  # under no_grad: no gradient comes back here
            return
        # the edge, not the tensor: after relu_ the tensor is another node's output
        self.calls.append(Call(layer, x.detach(), x._version, get_gradient_edge(output)))

    def __exit__(self, *exception: object) -> None:
        for handle in self.handles:
            handle.remove()


def recorded(batch: Batch) -> list[tuple[nn.Module, Tensor, Tensor]]:
    """For every call of a layer: the layer, x, and δ = ∂L_n/∂(its output) of every sample, batch first.

    Raises:
        EngineRefusal: a parameter is also used outside of its layer, or x was changed
            or has its batch elsewhere, or is complex; or a re-entrant checkpoint hides
            what is used in it.
    """
    with torch.enable_grad(), Recorder(batch.module) as recorder:
        output = batch.module(*batch.inputs, **batch.keywords)
        total = batch.loss(output, *batch.targets)
    refuse_reentrant("hooks", total)
    check_reduction(batch, output)
    calls = recorder.calls
    deltas = torch.autograd.grad(total, [call.output for call in calls], allow_unused=True)
    used = [(call, delta) for call, delta in zip(calls, deltas, strict=True) if delta is not None]
    refuse_unseen_uses(batch, total, Counter(id(p) for call, _ in used for p in call.layer.parameters(False)))
    if batch.loss_reduction == "mean":
        used = [(call, batch.size * delta) for call, delta in used]
    return [
        (call.layer, batch_to_front(batch, call, call.x), batch_to_front(batch, call, delta)) for call, delta in used
    ]


def batch_to_front(batch: Batch, call: Call, tensor: Tensor) -> Tensor:
    """The tensor with axis 0 counting the samples. Convolutions and their norms have it there always."""
    sequence = isinstance(call.layer, nn.Linear | nn.LayerNorm | nn.RMSNorm | nn.Embedding)
    features = 0 if isinstance(call.layer, nn.Embedding) else 1  # axes of x that a word of a sequence has
    axis = 1 if sequence and not batch.batch_first and call.x.ndim > 1 + features else 0
    if tensor.is_complex():
        raise EngineRefusal(
            f"hooks: a {type(call.layer).__name__} saw complex numbers, and the "
            "formulas are derived for real ones; use the engine 'vmap'"
        )
    if tensor.shape[axis] != batch.size or call.x._version != call.version:
        raise EngineRefusal(
            f"hooks: a {type(call.layer).__name__} saw a tensor of shape {tuple(tensor.shape)}, in which axis {axis} "
            f"does not count the {batch.size} samples, or which was changed in place afterwards; use the engine 'vmap'"
        )
    return tensor.movedim(axis, 0)


def refuse_unseen_uses(batch: Batch, total: Tensor, seen: Counter[int]) -> None:
    """A parameter that the total's graph uses more often than its layer was called is used elsewhere, too."""
    uses = {id(getattr(node, "variable", None)): len(by) for node, by in users(total).items()}
    unseen = [name for name, p in batch.parameters().items() if uses.get(id(p), 0) > seen[id(p)]]
    if unseen:
        raise EngineRefusal(
            f"hooks: {', '.join(unseen)} took part without the layer that holds it being called, so that no hook saw "
            "it; use the engine 'vmap'"
        )


def by_hooks(batch: Batch) -> dict[str, Tensor]:
    """Per-sample gradients by formula; a layer that is called twice, or shares its weight, has the sum of its calls."""
    found: dict[int, Tensor] = {}
    with batch.arithmetic():
        for layer, x, delta in recorded(batch):
            gradients = FORMULAS[type(layer)](layer, x, delta)
            for name, p in own_parameters(layer).items():
                found[id(p)] = found[id(p)] + gradients[name] if id(p) in found else gradients[name]
    return {
        name: found[id(p)] if id(p) in found else p.new_zeros(batch.size, *p.shape)
        for name, p in batch.parameters().items()
    }


def norms_by_hooks(batch: Batch) -> dict[str, Tensor]:
    """Lengths of the per-sample gradients, in closed form for every parameter that is used once."""
    calls = recorded(batch)
    times = Counter(id(p) for layer, _, _ in calls for p in own_parameters(layer).values())
    found: dict[int, Tensor] = {}
    sums: dict[int, Tensor] = {}  # where a parameter has several uses
    with batch.arithmetic():
        for layer, x, delta in calls:
            own = own_parameters(layer)
            if any(times[id(p)] > 1 for p in own.values()):
                gradients = FORMULAS[type(layer)](layer, x, wide(delta))
                for name, p in own.items():
                    sums[id(p)] = sums.get(id(p), 0) + gradients[name]
            else:
                measured = squared_norms(layer, x, delta)
                found |= {id(p): measured[name].sqrt() for name, p in own.items()}
        found |= {key: squares(gradient).sqrt() for key, gradient in sums.items()}
    return {
        name: found[id(p)] if id(p) in found else wide(p.new_zeros(batch.size))
        for name, p in batch.parameters().items()
    }
