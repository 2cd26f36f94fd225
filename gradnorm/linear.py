"""The length of a gradient on a linear layer's weight, without the gradient.

It pays where W is the weight of a last shared linear layer and the batch is smaller
than the layer is wide. `python benchmarks/gradnorm_step.py` has both, "W" and "W,
plainly": over a plain weighted backward, for the mock network of width 512 with T = 4,
a step takes 1.4 × instead of 2.1 × at batch 2, and 1.3 × instead of 1.7 × at batch 64.

What the layer was given is read from autograd's node, from attributes that torch saves
for its own backward pass and does not promise (`_saved_mat1`). Where a node is of
another kind, `parameter_lengths` measures plainly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from gradnorm._typing import Float
from gradnorm.graph import users
from gradnorm.measure import gradient_lengths, unreached, wide


class LinearUse(NamedTuple):
    """The one place in a graph where a linear layer z = h Wᵀ + b is applied."""

    output: GradientEdge  # of z, flattened to [rows, out]
    inputs: Float[Tensor, "rows in"]  # h


def linear_use(losses: Mapping[str, Tensor], weight: Tensor) -> LinearUse | None:
    """Where the losses' graph applies a linear layer with this weight, if it does so
    once and uses it nowhere else.

    None in every other case: a convolution, a weight that is tied, a conversion by
    autocast, a compiled region, complex numbers (`linear_lengths` has no conjugates).
    """
    if weight.is_complex():
        return None
    used_by = users(*losses.values())
    transposed = only(used_by.get(get_gradient_edge(weight).node), "TBackward0")
    layer = only(used_by.get(transposed), "AddmmBackward0", "MmBackward0")
    if layer is None or layer.next_functions[-1][0] is not transposed:
        return None
    with_bias = layer.name() == "AddmmBackward0"
    if with_bias and not layer._saved_alpha == layer._saved_beta == 1:
        return None
    inputs = layer._saved_mat1 if with_bias else layer._saved_self
    return LinearUse(GradientEdge(layer, 0), inputs.detach())


def only(nodes: Sequence[Any] | None, *kinds: str) -> Any:
    """The one node that there is, if it is of one of these kinds; else None."""
    node = nodes[0] if nodes and len(nodes) == 1 else None
    return node if node is not None and node.name() in kinds else None


def linear_lengths(
    losses: Mapping[str, Tensor], use: LinearUse
) -> Float[Tensor, " tasks"]:
    """‖∇_W L_i‖₂ on the weight of a linear layer, from δ_i = ∇_z L_i and h, without the
    gradients themselves.

    ‖δᵀ h‖² = Σ (δ δᵀ) ∘ (h hᵀ): two matrices of [rows, rows], cheaper than δᵀ h where
    there are fewer rows than inputs. Where the rows cancel almost wholly, so do the
    digits: the length is then exact to ~3e-4 of ‖δ‖ ‖h‖.

    Raises:
        ValueError: a loss that does not depend on the layer.
    """
    inputs, squares = wide(use.inputs), []  # [rows, in]
    with torch.autocast(inputs.device.type, enabled=False):  # or it rounds the products
        kernel = (inputs @ inputs.T).flatten()  # [rows · rows]
        for name, loss in losses.items():
            (delta,) = torch.autograd.grad(
                loss, use.output, retain_graph=True, allow_unused=True
            )
            if delta is None:
                raise unreached(name, loss)
            delta = wide(delta)  # [rows, out]
            squares.append((delta @ delta.T).flatten() @ kernel)
    return torch.stack(squares).clamp(min=0).sqrt()


def parameter_lengths(
    losses: Mapping[str, Tensor], shared: Sequence[Tensor]
) -> Float[Tensor, " tasks"]:
    """`gradient_lengths`, or `linear_lengths` where W is a linear layer's weight and
    the batch smaller than it is wide.

    Raises:
        ValueError: no W, or a loss that does not depend on it.
    """
    tensors = (*shared, *losses.values())
    if (
        len(shared) == 1
        and shared[0].ndim == 2
        and all(t.requires_grad for t in tensors)
    ):
        use = linear_use(losses, shared[0])
        if use is not None and use.inputs.shape[0] < use.inputs.shape[1]:
            return linear_lengths(losses, use)
    return gradient_lengths(losses, shared)
