"""GradNorm's arithmetic: from the lengths of the tasks' gradients to new weights. Pure functions; no network is seen.

The algorithm is that of Chen, Badrinarayanan, Lee and Rabinovich, *GradNorm* (2018), arXiv 1711.02257, in the
paper's symbols: L_i a task's loss, w_i its weight, W the last shared layer, G_i = ‖∇_W w_i L_i‖₂ the length of the
task's weighted gradient there, T the number of tasks, α the strength of the restoring force.

    gradient_lengths   G_i = w_i ‖∇_W L_i‖  (in `gradnorm.measure`)
    gradnorm_targets   r_i = (L_i / L_i(0)) / mean_j (L_j / L_j(0)),  target_i = mean_j(G_j) · r_i^α
    lgrad_gradient     L_grad = Σ_i `|G_i − target_i|`,  ∂L_grad/∂w_i = sign(G_i − target_i) ‖∇_W L_i‖
    balance_step       w ← w − η ∂L_grad/∂w, then rescaled to Σ w = T

The targets are constants, and G_i is linear in w_i: that is why nothing is differentiated twice.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gradnorm._typing import Float, Int

SMALLEST_WEIGHT = 1e-6  # of the mean weight: where `balance_step` stops a weight on its way to zero
LONGEST_SLOPE = 1e18  # for `adam_direction`: float32 holds its square


def gradnorm_targets(
    norms: Float[Tensor, " tasks"],
    losses: Float[Tensor, " tasks"],
    initial_losses: Float[Tensor, " tasks"],
    alpha: float,
) -> Float[Tensor, " tasks"]:
    """mean(G) · r_i^α: the length each task's gradient should have (paper, equation 1).

    r_i > 1 where a task has kept more of its initial loss than the tasks have on average. α = 0 asks for equal lengths
    whatever the losses are (anything to the power 0 is 1).
    """
    ratios = losses / initial_losses
    rates = ratios / ratios.mean()
    return norms.mean() * rates**alpha


def lgrad_gradient(
    norms: Float[Tensor, " tasks"], targets: Float[Tensor, " tasks"], lengths: Float[Tensor, " tasks"]
) -> Float[Tensor, " tasks"]:
    """∂/∂w_i of Σ_j `|w_j ‖∇_W L_j‖ − target_j|` with the targets constant, in closed form."""
    off = (norms - targets).nan_to_num()  # a target that overflowed (inf/inf, 0·inf) asks for no step
    return off.sign() * lengths


def adam_direction(
    slopes: Float[Tensor, " tasks"], moments: Float[Tensor, "2 tasks"], updates: Int[Tensor, " tasks"]
) -> tuple[Float[Tensor, " tasks"], Float[Tensor, "2 tasks"]]:
    """The direction that Adam takes (arXiv 1412.6980, β = 0.9, 0.999, ε = 1e-8), and the new moments.

    Args:
        slopes: ∂L_grad/∂w_i.
        moments: running means of the slopes and of their squares; zeros at first.
        updates: how many updates each weight has had, this one included.
    """
    slopes = slopes.clamp(-LONGEST_SLOPE, LONGEST_SLOPE)
    decays = slopes.new_tensor([[0.9], [0.999]])
    moments = decays * moments + (1 - decays) * torch.stack([slopes, slopes**2])  # [2, tasks]
    mean, square = moments / (1 - decays**updates)  # [tasks] each
    return mean / (square.sqrt() + 1e-8), moments


def balance_step(
    weights: Float[Tensor, " tasks"],
    direction: Float[Tensor, " tasks"],
    learning_rate: float,
    total: Float[Tensor, ""] | None = None,
) -> Float[Tensor, " tasks"]:
    """One descent step on the weights, then the paper's rescaling: positive, with sum `total` (that they had, if None).

    A weight stops at `SMALLEST_WEIGHT` of the mean on its way down and at the sum on its way up. Neither stop acts at
    a sensible learning rate; together they make the result positive and finite at any. From the lower stop a weight
    climbs again as soon as its gradient says so, which it could not if the step were a factor. Weights of another sum
    (frozen as they were given, and now let go) step from their proportions, rescaled.
    """
    total = weights.sum() if total is None else total
    weights = weights * (total / weights.sum())
    step = (learning_rate * direction).nan_to_num()  # a rate beyond float32's range, times 0
    moved = (weights - step).clamp(SMALLEST_WEIGHT * total / len(weights), total)
    return moved * (total / moved.sum())
