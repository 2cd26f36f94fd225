"""How long each task's gradient is on what the tasks share: parameters, or activations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gradnorm._typing import Float
from gradnorm.checkpoint import reentrant_hint

Shared = Tensor | nn.Module


class Borrowed(tuple):
    """Tensors that belong to another module: a deep copy holds their copies where these exist already, else them."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Borrowed:
        return Borrowed(memo.get(id(tensor), tensor) for tensor in self)


def tensors_of(shared: Shared | Iterable[Shared] | None) -> Borrowed:
    """W as a tuple of tensors: a module stands for its trainable parameters.

    Raises:
        TypeError: something that is neither a tensor nor a module.
        ValueError: a module without trainable parameters.
    """
    if shared is None:
        return Borrowed()
    found: list[Tensor] = []
    for item in (shared,) if isinstance(shared, Shared | str) or not isinstance(shared, Iterable) else shared:
        if not isinstance(item, Shared):
            raise TypeError(
                "gradients are measured on a tensor (parameter, activation) or a module, or several in a list; "
                f"got {type(item).__name__}"
            )
        own = [p for p in item.parameters() if p.requires_grad] if isinstance(item, nn.Module) else [item]
        if not own:
            raise ValueError(f"{type(item).__name__} has no trainable parameters on which to measure gradients")
        found += own
    return Borrowed(found)


def unreached(name: str, loss: Tensor | None = None) -> ValueError:
    """What to raise where a loss has no gradient on W; the loss tells more."""
    if loss is not None and not loss.requires_grad:
        return ValueError(
            f"loss {name!r} has no graph: it was detached or computed under no_grad; hand over the loss itself, or "
            "leave it out with loss_mask"
        )
    return ValueError(
        f"loss {name!r} does not depend on the parameter or activation at which gradients are measured; "
        "pass one that every loss uses (the last shared layer), or leave this loss out with loss_mask"
        + ("" if loss is None else reentrant_hint(loss))
    )


def task_gradient(name: str, loss: Tensor, shared: Sequence[Tensor]) -> list[Tensor | None]:
    """∇L_i on each of `shared`, None where it does not depend on it. Keeps the graph for the backward pass.

    Raises:
        ValueError: `shared` is empty or does not require gradients, or the loss depends on none of it or has no graph.
    """
    if not shared:
        raise ValueError(
            "gradients are measured nowhere: construct with grad_norm_parameters, pass activations, or let the heads "
            f"work on what share(z) returns{reentrant_hint(loss)}"
        )
    if not all(tensor.requires_grad for tensor in shared):
        raise ValueError(
            "the parameter or activation at which gradients are measured does not require a gradient; "
            "pass a trainable shared parameter, or set frozen=True to keep the weights as they are"
            + reentrant_hint(loss)
        )
    found = torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True) if loss.requires_grad else ()
    if all(gradient is None for gradient in found):
        raise unreached(name, loss)
    return list(found)


def gradient_lengths(losses: Mapping[str, Tensor], shared: Sequence[Tensor]) -> Float[Tensor, " tasks"]:
    """‖∇_W L_i‖₂ for every loss, W being all of `shared` taken as one vector.

    Raises:
        ValueError: no W, or a loss that does not depend on it (`task_gradient`).
    """
    lengths = []
    for name, loss in losses.items():
        pieces = [gradient for gradient in task_gradient(name, loss, shared) if gradient is not None]
        lengths.append(torch.stack([length(piece) for piece in pieces]).norm())
    return torch.stack(lengths)


def wide(tensor: Tensor) -> Tensor:
    """In float32 at least: squares and their sums overflow float16."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def length(gradient: Tensor) -> Float[Tensor, ""]:
    """The Euclidean length, real for complex ones too, summed in float32 at least."""
    return torch.linalg.vector_norm(gradient, dtype=torch.promote_types(gradient.dtype, torch.float32))


def real_numbers(tensor: Tensor) -> Float[Tensor, " numbers"]:
    """All components in one line; a complex one is two, real and imaginary part.

    Lengths stay what they are, and ⟨g, h⟩ = Re Σ g h̄ is what a loss changes by along
    h, so that all that is measured on real vectors holds for complex ones.
    """
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    return tensor.flatten()


def gradient_vectors(losses: Mapping[str, Tensor], shared: Sequence[Tensor]) -> Float[Tensor, "tasks numbers"]:
    """∇_W L_i for every loss, W being all of `shared` taken as one vector of reals.

    It is what joins batches by its mean.

    Raises:
        ValueError: no W, or a loss that does not depend on it (`task_gradient`).
    """
    vectors = []
    for name, loss in losses.items():
        pieces = zip(task_gradient(name, loss, shared), shared, strict=True)
        filled = [torch.zeros_like(w) if g is None else g for g, w in pieces]
        vectors.append(torch.cat([real_numbers(piece) for piece in filled]))
    return wide(torch.stack(vectors))
