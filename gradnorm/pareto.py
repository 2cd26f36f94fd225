"""The shortest vector between the gradients of several losses: a direction that all of them go down along.

    d = Σ α_i g_i with α ≥ 0, Σ α = 1 and ‖d‖ smallest

d = 0 says that no direction lowers all losses (a Pareto stationary point); otherwise ⟨g_i, d⟩ ≥ ‖d‖² for every i, so a
small step along −d lowers each. The method is the multiple-gradient descent algorithm of Désidéri (2012); Sener and
Koltun, *Multi-Task Learning as Multi-Objective Optimization* (2018), arXiv 1810.04650, brought it to networks.

Only the inner products ⟨g_i, g_j⟩ matter: the solvers see the Gram matrix, in float64, and never the gradients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gradnorm._typing import Bool, Float, Float64
from gradnorm.checkpoint import reentrant_hint
from gradnorm.measure import Shared, tensors_of

EXACT_UP_TO = 10  # tasks: beyond, `min_norm_point` takes Frank-Wolfe
Gram = Float64[Tensor, "tasks tasks"]
Weights = Float64[Tensor, " tasks"]


class MinNormPoint(NamedTuple):
    """Where the shortest combination is, and how far from the shortest it can be at most."""

    weights: Weights  # α, on the CPU
    squared_norm: float  # ‖d‖² = αᵀ G α
    gap: float  # 2 (‖d‖² − min_i ⟨g_i, d⟩) ≥ ‖d‖² − ‖d*‖²: a certificate, whatever found α


class CommonDescent(NamedTuple):
    """What `common_descent` found: a step along −direction lowers every loss, unless it is 0."""

    weights: Float[Tensor, " tasks"]  # of the losses: ∇ Σ weights_i L_i = direction
    direction: tuple[Tensor, ...]  # d, in the shapes of `shared`
    squared_norm: float
    gap: float


def two_loss_weights(gram: Float64[Tensor, "2 2"]) -> Float64[Tensor, " 2"]:
    """The closed form: γ = clip((g1 − g0)·g1 / ‖g1 − g0‖², 0, 1), d = γ g0 + (1 − γ) g1.

    Equal gradients leave γ open; it is ½ there.
    """
    difference = gram[0, 0] - 2 * gram[0, 1] + gram[1, 1]  # ‖g1 − g0‖²
    if difference <= 0:
        return torch.full_like(gram[0], 0.5)
    first = ((gram[1, 1] - gram[0, 1]) / difference).clamp(0, 1)
    return torch.stack((first, 1 - first))


def affine_minimizer(gram: Gram, support: Bool[Tensor, " tasks"]) -> Weights:
    """The weights of sum 1, of any sign and 0 off the support, whose combination is shortest.

    With β_i = α_i ‖g_i‖ the gradients have length 1, and lengths that differ by many powers of ten do no harm.
    Lagrange's conditions are then C β = λ b and bᵀ β = 1, b_i ∝ 1/‖g_i‖; least squares solves them where C is singular,
    too.
    """
    chosen = gram[support][:, support]
    lengths = chosen.diagonal().sqrt()
    shrink = lengths.min() / lengths
    conditions = torch.zeros(len(chosen) + 1, len(chosen) + 1, dtype=gram.dtype)
    conditions[:-1, :-1] = chosen / (lengths * lengths[:, None])
    conditions[-1, :-1] = conditions[:-1, -1] = shrink
    one = torch.zeros(len(conditions), 1, dtype=gram.dtype)
    one[-1] = 1
    weights = gram.new_zeros(len(gram))
    weights[support] = shrink * torch.linalg.lstsq(conditions, one, driver="gelsd").solution[:-1, 0]
    return weights


def take_in(gram: Gram, weights: Weights, entering: int) -> Weights:
    """Wolfe's minor cycle: the best weights on the support and `entering`, after dropping who would turn negative."""
    support = weights > 0
    support[entering] = True
    while True:
        target = affine_minimizer(gram, support)
        falling = support & (target <= 0)
        if not falling.any():
            return target
        reach = torch.where(falling, weights / (weights - target), torch.inf)  # the share of the way until α_i = 0
        reach = reach.nan_to_num(0.0, posinf=torch.inf)  # 0/0: it is there already
        weights = weights + reach.min() * (target - weights)
        support &= reach > reach.min()
        weights = torch.where(support, weights.clamp(min=0), 0.0)


def active_set(gram: Gram) -> Weights:
    """The exact minimum, in about as many steps as tasks: Wolfe, *Finding the nearest point in a polytope* (1976).

    Starts at the shortest gradient. While some gradient lies on the near side of d (⟨g_i, d⟩ < ‖d‖²), takes it in.
    """
    weights = torch.zeros_like(gram[0])
    weights[gram.diagonal().argmin()] = 1
    while True:
        slopes = gram @ weights  # ⟨g_i, d⟩
        entering = int(slopes.argmin())
        value = weights @ slopes
        if value <= 0 or slopes[entering] >= value or weights[entering] > 0:
            return weights
        better = take_in(gram, weights, entering)
        if better @ (gram @ better) >= value:  # what is left to gain is below the rounding
            return weights
        weights = better


def frank_wolfe(gram: Gram, tolerance: float = 1e-9, max_steps: int = 10_000) -> Weights:
    """Pairwise Frank-Wolfe: moves weight from the worst gradient that has any to the best, as far as the norm falls.

    Its error falls geometrically, where the plain form's falls like 1/steps (Lacoste-Julien and Jaggi 2015, arXiv
    1511.05932). Ends where the duality gap is below `tolerance` times the smallest ‖g_i‖².
    """
    weights = torch.zeros_like(gram[0])
    weights[gram.diagonal().argmin()] = 1
    enough = tolerance * gram.diagonal().min() / 2
    for _ in range(max_steps):
        slopes = gram @ weights  # ⟨g_i, d⟩
        best = slopes.argmin()
        if weights @ slopes - slopes[best] <= enough:
            break
        worst = torch.where(weights > 0, slopes, -torch.inf).argmax()
        difference = (gram[best, best] - 2 * gram[best, worst] + gram[worst, worst]).clamp(min=0)  # ‖g_best − g_worst‖²
        step = torch.minimum((slopes[worst] - slopes[best]) / difference, weights[worst])
        weights[best] += step
        weights[worst] -= step
    return weights


def min_norm_point(gram: Float[Tensor, "tasks tasks"]) -> MinNormPoint:
    """The shortest convex combination of gradients, from their inner products.

    The closed form for two, the active set up to `EXACT_UP_TO`, Frank-Wolfe beyond. Where a gradient is 0 it gets all
    the weight.

    Raises:
        TypeError: not a tensor.
        ValueError: the matrix is empty, complex, not symmetric, or has an element that
            is not finite or a negative diagonal.
    """
    if not isinstance(gram, Tensor):
        raise TypeError(f"min_norm_point takes a tensor [tasks, tasks] of inner products; got {type(gram).__name__}")
    if gram.is_complex():
        raise ValueError("inner products are to be real: pass Re⟨g_i, g_j⟩, gram.real")
    gram = gram.detach().double().cpu()
    tasks = len(gram)
    if not tasks or not gram.isfinite().all() or (gram.diagonal() < 0).any():
        raise ValueError(f"expected the inner products of one or more gradients, all finite; got {gram.tolist()}")
    if (gram - gram.T).abs().max() > 1e-6 * gram.abs().max():
        raise ValueError(f"a Gram matrix is symmetric; got {gram.tolist()}")
    solve = two_loss_weights if tasks == 2 else active_set if tasks <= EXACT_UP_TO else frank_wolfe
    weights = solve(gram)
    slopes = gram @ weights
    value = weights @ slopes
    return MinNormPoint(weights, max(float(value), 0.0), max(float(2 * (value - slopes.min())), 0.0))


def gram_matrix(gradients: Sequence[Sequence[Tensor | None]]) -> Gram:
    """⟨g_i, g_j⟩, each g_i a list of pieces that make one vector (None: zeros). In float64, piece by piece."""
    gram = torch.zeros(len(gradients), len(gradients), dtype=torch.float64)
    for pieces in zip(*gradients, strict=True):
        used = [i for i, piece in enumerate(pieces) if piece is not None]
        if used:
            rows = torch.stack([piece.flatten().double() for piece in pieces if piece is not None])
            gram[torch.tensor(used)[:, None], used] += (rows @ rows.T).cpu()
    return gram


def common_descent(
    losses: Sequence[Tensor] | Mapping[str, Tensor] | Tensor,
    shared: Shared | Sequence[Shared],
    max_norm: float | None = None,
) -> CommonDescent:
    """The direction that all losses go down along, and the weights that make their sum's gradient it.

    Nothing but the return value changes: no `.grad` is read or written, and the graph is kept, so that the caller may
    back-propagate Σ weights_i L_i, or `shared` may be the shared features z and `z.backward(*direction)` follow.

    Args:
        losses: scalars, in a list or by name; `weights` come in their order.
        shared: all shared parameters (the trunk itself, or tensors in a list), or the features that all losses are
            computed from; then all losses go down along the direction in the features, which a step of the trunk's
            parameters need not reach.
        max_norm: a longer g_i is shortened to this length first. The weights include the factor and may sum to less
            than 1.

    Raises:
        TypeError: a loss that is no tensor, or something shared that is neither tensor nor module.
        ValueError: no losses, or one that is not a scalar, has no graph, does not depend on anything shared, or has a
            gradient that is not finite; nothing shared, or something that is complex or
            does not require a gradient; or max_norm ≤ 0.
    """
    if max_norm is not None and not max_norm > 0:
        raise ValueError(f"max_norm is a length, greater than 0 (or None: gradients as they are); got {max_norm}")
    tensors = tensors_of(shared)
    named = losses if isinstance(losses, Mapping) else {str(i): loss for i, loss in enumerate(losses)}
    if not tensors or not named:
        raise ValueError(f"a direction needs losses and what they share; got {len(named)} and {len(tensors)} of these")
    gradients = [gradient_of(name, loss, tensors) for name, loss in named.items()]
    gram = gram_matrix(gradients)
    lengths = gram.diagonal().sqrt()
    shorten = torch.ones_like(lengths) if max_norm is None else (max_norm / lengths).clamp(max=1)
    point = min_norm_point(shorten * gram * shorten[:, None])
    weights = (point.weights * shorten).to(tensors[0])
    direction = tuple(
        sum((w * g for w, g in zip(weights, pieces, strict=True) if g is not None), torch.zeros_like(tensor))
        for tensor, pieces in zip(tensors, zip(*gradients, strict=True), strict=True)
    )
    return CommonDescent(weights, direction, point.squared_norm, point.gap)


def gradient_of(name: str, loss: Tensor, shared: Sequence[Tensor]) -> list[Tensor | None]:
    """The loss's gradient by every one of `shared`; the graph is kept. Raises as `common_descent` says."""
    if not isinstance(loss, Tensor):
        raise TypeError(f"loss {name!r} must be a scalar tensor, got {type(loss).__name__}")
    if loss.ndim != 0:
        raise ValueError(f"loss {name!r} must be a scalar, got shape {tuple(loss.shape)}; reduce it with .mean()")
    if not loss.requires_grad:
        raise ValueError(f"loss {name!r} has no graph: compute it outside of torch.no_grad(), and do not detach it")
    if any(tensor.is_complex() for tensor in shared):
        raise ValueError(
            "a common direction is sought among real numbers, and something shared is "
            "complex: share a real tensor of its two parts, and make the complex one "
            "of it by torch.view_as_complex"
        )
    if not all(tensor.requires_grad for tensor in shared):
        raise ValueError(
            "something shared does not require a gradient: share trainable parameters, "
            f"or features computed from them with a graph{reentrant_hint(loss)}"
        )
    found = torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True)
    pieces = [piece for piece in found if piece is not None]
    if not pieces:
        raise ValueError(
            f"loss {name!r} does not depend on any of the shared tensors: pass parameters or features that every loss "
            f"uses, or leave this loss out{reentrant_hint(loss)}"
        )
    if not all(piece.isfinite().all() for piece in pieces):
        raise ValueError(f"loss {name!r} has a gradient that is not finite: no direction can be found; skip this step")
    return list(found)
