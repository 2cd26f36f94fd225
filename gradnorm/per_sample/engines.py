"""The engines that need no formulas of ours: one sample after another, vmap over the gradient, ExpandedWeights."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from gradnorm.measure import wide
from gradnorm.per_sample.batch import (
    Batch,
    EngineRefusal,
    check_reduction,
    refuse_reentrant,
)
from gradnorm.per_sample.norms import squares


def by_loop(batch: Batch) -> dict[str, Tensor]:
    """A batch of one at a time: slow, and right by definition.

    Raises:
        EngineRefusal: a re-entrant checkpoint hides what is used in it.
    """
    parameters = batch.parameters()
    rows = []
    for index in range(batch.size):
        one = batch.sample(index)
        with torch.enable_grad():
            loss = one.loss(one.module(*one.inputs, **one.keywords), *one.targets)
        refuse_reentrant("loop", loss)
        rows.append(torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, materialize_grads=True))
    # an embedding may have sparse gradients
    columns = [torch.stack(column).to_dense() for column in zip(*rows, strict=True)]
    return dict(zip(parameters, columns, strict=True))


def by_vmap(batch: Batch) -> dict[str, Tensor]:
    """The gradient as a function of one sample, mapped over the batch by torch.func.

    Raises:
        EngineRefusal: vmap cannot trace the module; its own message follows.
    """
    leaves, structure = tree_flatten((batch.inputs, batch.keywords, batch.targets))
    axes = [batch.axis(leaf) for leaf in leaves]

    def loss_of_one(parameters: dict[str, Tensor], *sample: Any) -> Tensor:
        as_batch = [leaf if axis is None else leaf.unsqueeze(axis) for leaf, axis in zip(sample, axes, strict=True)]
        inputs, keywords, targets = tree_unflatten(as_batch, structure)
        return batch.loss(functional_call(batch.module, parameters, inputs, keywords), *targets)

    parameters = {name: p.detach() for name, p in batch.parameters().items()}
    leaves = [leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    try:
        found = vmap(grad(loss_of_one), in_dims=(None, *axes), randomness="different")(parameters, *leaves)
        return {name: gradient.detach() for name, gradient in found.items()}
    except RuntimeError as error:
        if any(word in str(error) for word in ("vmap", "functorch", "atching rule")):
            raise EngineRefusal(f"vmap: {error}") from error
        raise


def by_expanded_weights(batch: Batch) -> dict[str, Tensor]:
    """torch's private ExpandedWeights, which fill `grad_sample` while a gradient passes; what was there is put back.

    What they compute depends on torch's private tables of decompositions, which other
    parts of torch write to, so the sum over the samples is compared with the batch's
    gradient: a second forward and backward pass. It does not show whose share is whose.

    Raises:
        EngineRefusal: torch has no rule for a function that a parameter goes into; or
            this torch has none at all; or the sum is not the batch's gradient.
    """
    try:
        from torch.nn.utils._expanded_weights.expanded_weights_impl import ExpandedWeight
    except ImportError as error:
        raise EngineRefusal("expanded_weights: this release of torch has no ExpandedWeights") from error
    whole = whole_gradient(batch)
    parameters = batch.parameters()
    aside = {name: p.__dict__.pop("grad_sample") for name, p in parameters.items() if "grad_sample" in p.__dict__}
    expanded: dict[str, Tensor] = {
        name: ExpandedWeight(p, batch.size, batch.loss_reduction) for name, p in parameters.items()
    }
    try:
        with torch.enable_grad():
            output = functional_call(batch.module, expanded, batch.inputs, batch.keywords)
            loss = batch.loss(output, *batch.targets)
        check_reduction(batch, output)
        with torch._C.DisableTorchFunctionSubclass():  # or the weights take this call for one of a layer's
            torch.autograd.grad(loss, list(expanded.values()), allow_unused=True)
        found = {
            name: p.__dict__.get("grad_sample", p.new_zeros(1).expand(batch.size, *p.shape)).detach()
            for name, p in parameters.items()
        }
    except RuntimeError as error:
        if "xpanded" in str(error):
            raise EngineRefusal(f"expanded_weights: {error}") from error
        raise
    finally:
        for name, p in parameters.items():
            p.__dict__.pop("grad_sample", None)
            p.__dict__.update({"grad_sample": aside[name]} if name in aside else {})
    refuse_wrong_sum(batch, found, whole)
    return found


def whole_gradient(batch: Batch) -> dict[str, Tensor]:
    """The gradient of the batch's loss by every parameter, as a training step takes it.

    Leaves buffers and the random state as they were, so that what runs next draws the
    same masks.

    Raises:
        EngineRefusal: a re-entrant checkpoint hides what is used in it.
    """
    tensors = [*tree_leaves((batch.inputs, batch.keywords)), *batch.module.parameters()]
    devices = {leaf.device for leaf in tensors if isinstance(leaf, Tensor)}
    parameters = batch.parameters()
    buffers = {name: buffer.clone() for name, buffer in batch.module.named_buffers()}
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng([]))  # the CPU's state, always
        for device in devices:
            if device.type != "cpu":
                fork = torch.random.fork_rng([device], device_type=device.type)
                stack.enter_context(fork)
        with torch.enable_grad():
            output = functional_call(
                batch.module, buffers, batch.inputs, batch.keywords
            )
            loss = batch.loss(output, *batch.targets)
        refuse_reentrant("expanded_weights", loss)
        gradients = torch.autograd.grad(
            loss, list(parameters.values()), allow_unused=True, materialize_grads=True
        )
    return dict(zip(parameters, gradients, strict=True))


def refuse_wrong_sum(
    batch: Batch, found: dict[str, Tensor], whole: dict[str, Tensor]
) -> None:
    """Compare Σ_n g_n with the batch's gradient, parameter by parameter.

    Rounding is measured against Σ_n ‖g_n‖, since the samples may cancel; and, for a
    parameter whose gradient is nothing but rounding (a bias before a normalisation),
    against the longest of all.

    Raises:
        EngineRefusal: they differ by more than rounding.
    """
    unit = rounding_unit(batch, found)
    errors, sizes = {}, {}
    for name, rows in found.items():
        rows, expected = wide(rows), wide(whole[name].to_dense())
        if batch.loss_reduction == "mean":
            expected = expected * batch.size
        seen = expected.isfinite()  # where the batch's own overflowed it tells nothing
        error = torch.where(seen, rows.sum(dim=0) - expected, 0)
        lengths = squares(torch.where(seen, rows, 0).nan_to_num()).sqrt()
        errors[name] = float(error.norm())
        sizes[name] = float(lengths.sum() + torch.where(seen, expected, 0).norm())
    noise = 10 * unit * max(sizes.values())
    allowed = {name: unit**0.5 * size + noise for name, size in sizes.items()}
    wrong = [name for name in found if not errors[name] <= allowed[name]]  # or NaN
    if wrong:
        raise EngineRefusal(
            f"expanded_weights: what torch's private ExpandedWeights give for "
            f"{', '.join(wrong)} does not add up to the gradient of the batch; use the "
            "engine 'loop' (or 'auto', which does not try this one)"
        )


def rounding_unit(batch: Batch, found: dict[str, Tensor]) -> float:
    """The distance from 1 to the next number, in the coarsest type computed in."""
    kind = next(batch.module.parameters()).device.type
    types = {t.dtype for t in (*found.values(), *batch.module.parameters())}
    if torch.is_autocast_enabled(kind):
        types.add(torch.get_autocast_dtype(kind))
    unit = max(torch.finfo(t).eps for t in types if t.is_floating_point)
    # accelerators may multiply float32 with the ten bits of TF32
    return max(unit, 2.0**-10) if kind != "cpu" and torch.float32 in types else unit
