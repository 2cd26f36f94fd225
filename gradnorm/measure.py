"""How long each task's gradient is on what the tasks share: parameters, or activations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

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


class LinearUse(NamedTuple):
    """The one place in a graph where a linear layer z = h Wᵀ + b is applied."""

    output: GradientEdge  # of z, flattened to [rows, out]
    inputs: Float[Tensor, "rows in"]  # h


def linear_use(losses: Mapping[str, Tensor], weight: Tensor) -> LinearUse | None:
    """Where the losses' graph applies a linear layer with this weight, if it does so once and uses it nowhere else.

    None in every other case: a convolution, a weight that is tied, a conversion by
    autocast, a compiled region, complex numbers (`linear_lengths` has no conjugates).
    """
    if weight.is_complex():
        return None
    leaf = get_gradient_edge(weight).node
    uses: Counter[Node] = Counter()
    layers: list[tuple[Any, Node]] = []
    waiting = [loss.grad_fn for loss in losses.values() if loss.grad_fn is not None]
    while waiting:
        node = waiting.pop()
        children = [child for child, _ in node.next_functions if child is not None]
        if children and node.name() in ("AddmmBackward0", "MmBackward0"):
            layers += [(node, children[-1])] if children[-1].next_functions[:1] == ((leaf, 0),) else []
        for child in children:
            uses[child] += 1
            waiting += [child] if uses[child] == 1 else []
    if len(layers) != 1 or uses[leaf] != 1:
        return None
    (node, transposed), *_ = layers
    if transposed.name() != "TBackward0" or uses[transposed] != 1:
        return None
    with_bias = node.name() == "AddmmBackward0"
    if with_bias and not node._saved_alpha == node._saved_beta == 1:
        return None
    inputs = node._saved_mat1 if with_bias else node._saved_self
    return LinearUse(GradientEdge(node, 0), inputs.detach())


def linear_lengths(losses: Mapping[str, Tensor], use: LinearUse) -> Float[Tensor, " tasks"]:
    """‖∇_W L_i‖₂ on the weight of a linear layer, from δ_i = ∇_z L_i and h, without the gradients themselves.

    ‖δᵀ h‖² = Σ (δ δᵀ) ∘ (h hᵀ): two matrices of [rows, rows], cheaper than δᵀ h where there are fewer rows than
    inputs. Where the rows cancel almost wholly, so do the digits: the length is then exact to ~3e-4 of ‖δ‖ ‖h‖.

    Raises:
        ValueError: a loss that does not depend on the layer.
    """
    deltas = []
    for name, loss in losses.items():
        (delta,) = torch.autograd.grad(loss, use.output, retain_graph=True, allow_unused=True)
        if delta is None:
            raise unreached(name, loss)
        deltas.append(wide(delta))
    delta = torch.stack(deltas)  # [tasks, rows, out]
    inputs = wide(use.inputs)  # [rows, in]
    with torch.autocast(delta.device.type, enabled=False):  # or it rounds the products
        kernel = inputs @ inputs.T  # [rows, rows]
        return (delta @ delta.mT).mul_(kernel).sum(dim=(1, 2)).clamp(min=0).sqrt()


def parameter_lengths(losses: Mapping[str, Tensor], shared: Sequence[Tensor]) -> Float[Tensor, " tasks"]:
    """`gradient_lengths`, or `linear_lengths` where W is a linear layer's weight and the batch smaller than it is wide.

    Raises:
        ValueError: no W, or a loss that does not depend on it.
    """
    if len(shared) == 1 and shared[0].ndim == 2 and all(t.requires_grad for t in (*shared, *losses.values())):
        use = linear_use(losses, shared[0])
        if use is not None and use.inputs.shape[0] < use.inputs.shape[1]:
            return linear_lengths(losses, use)
    return gradient_lengths(losses, shared)
