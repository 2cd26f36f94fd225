"""The engines that need no formulas of ours: one sample after another, vmap over the gradient, ExpandedWeights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.utils._pytree import tree_flatten, tree_unflatten

from gradnorm.per_sample.batch import Batch, EngineRefusal, check_reduction


def by_loop(batch: Batch) -> dict[str, Tensor]:
    """A batch of one at a time: slow, and right by definition."""
    parameters = batch.parameters()
    rows = []
    for index in range(batch.size):
        one = batch.sample(index)
        with torch.enable_grad():
            loss = one.loss(one.module(*one.inputs, **one.keywords), *one.targets)
        rows.append(torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, materialize_grads=True))
    return {name: torch.stack(column) for name, column in zip(parameters, zip(*rows, strict=True), strict=True)}


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
    try:
        found = vmap(grad(loss_of_one), in_dims=(None, *axes), randomness="different")(parameters, *leaves)
        return {name: gradient.detach() for name, gradient in found.items()}
    except RuntimeError as error:
        if any(word in str(error) for word in ("vmap", "functorch", "atching rule")):
            raise EngineRefusal(f"vmap: {error}") from error
        raise


def by_expanded_weights(batch: Batch) -> dict[str, Tensor]:
    """torch's private ExpandedWeights, which fill `grad_sample` while a gradient passes; what was there is put back.

    Raises:
        EngineRefusal: torch has no rule for a function that a parameter goes into; or this torch has none at all.
    """
    try:
        from torch.nn.utils._expanded_weights.expanded_weights_impl import ExpandedWeight
    except ImportError as error:
        raise EngineRefusal("expanded_weights: this release of torch has no ExpandedWeights") from error
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
        return {
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
