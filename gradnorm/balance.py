"""Weights that GradNorm moves: what is remembered between updates, and the update. Nothing here looks at a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gradnorm._typing import Float
from gradnorm.algorithm import adam_direction, balance_step, gradnorm_targets, lgrad_gradient
from gradnorm.gather import Gathered
from gradnorm.losses import BadLosses

OPTIMIZERS = ("plain", "adam")


class BalancedWeights(nn.Module):
    """The weights, the losses they started from, and GradNorm's update.

    Buffers beside `loss_weights`: `initial_losses` L(0) and `initted`, which of them are known; `loss_weights_grad`,
    ∂L_grad/∂w at the last update; with Adam, its `moments` and how many `updates` each weight has had.
    """

    loss_weights: Tensor
    initial_losses: Tensor
    initted: Tensor
    loss_weights_grad: Tensor
    moments: Tensor | None
    updates: Tensor | None

    def __init__(
        self,
        weights: Float[Tensor, " tasks"],
        learning_rate: float,
        alpha: float,
        decay: float,
        optimizer: str,
        known: Mapping[int, float],
    ) -> None:
        super().__init__()
        self.learning_rate, self.restoring_force_alpha, self.initial_losses_decay = learning_rate, alpha, decay
        self.register_buffer("loss_weights", weights)
        self.register_buffer("initial_losses", torch.tensor([known.get(i, 1.0) for i in range(len(weights))]))
        self.register_buffer("initted", torch.tensor([i in known for i in range(len(weights))]))
        self.register_buffer("loss_weights_grad", torch.zeros_like(weights))
        self.register_buffer("moments", torch.zeros(2, len(weights)) if optimizer == "adam" else None)
        self.register_buffer("updates", torch.zeros(len(weights), dtype=torch.long) if optimizer == "adam" else None)

    def balance(
        self, tasks: list[int], losses: Float[Tensor, " some"], lengths: Float[Tensor, " some"]
    ) -> tuple[Float[Tensor, " some"], Float[Tensor, " some"]]:
        """Move the weights of these tasks, and return their G and targets; they keep the sum they have among them."""
        everyone = len(tasks) == len(self.loss_weights)
        some = slice(None) if everyone else torch.tensor(tasks, device=lengths.device)
        weights = self.loss_weights[some]
        norms = weights * lengths
        targets = gradnorm_targets(norms, losses, self.initial_losses[some], self.restoring_force_alpha)
        slopes = direction = lgrad_gradient(norms, targets, lengths)
        if self.moments is not None and self.updates is not None:
            self.updates[some] += 1
            direction, self.moments[:, some] = adam_direction(slopes, self.moments[:, some], self.updates[some])
        total = weights.new_tensor(len(tasks)) if everyone else weights.sum()
        self.loss_weights_grad.zero_()[some] = slopes
        self.loss_weights[some] = balance_step(weights, direction, self.learning_rate, total)
        return norms, targets


class Weighing(NamedTuple):
    """What every call of a weighter returns: the weighted total and what was measured, by the losses' names; no graph.

    The weights are those this call used; an update that followed it shows in the next call. `norms` and `targets` are
    empty where no update was due (frozen, evaluation, the schedule, a micro-batch before the last), and have the same
    keys as each other: the losses that were balanced.
    """

    total: Float[Tensor, ""]  # Σ w_i L_i, before `scale`
    weights: dict[str, Tensor]  # w_i
    norms: dict[str, Tensor]  # G_i = w_i ‖∇_W L_i‖
    targets: dict[str, Tensor]  # mean(G) · r_i^α


NOTHING = Weighing(torch.zeros(()), {}, {}, {})


class ScheduledWeights(BalancedWeights):
    """Which steps end with an update, and the losses that training started from. `step` counts the steps."""

    step: Tensor
    update_after_step: int
    update_every: int
    steps_taken: int | None = None  # `step` once more, and whether every L(0) is known and stays:
    settled: bool = False  # both without a wait for the device

    def due(self) -> bool:
        """Whether the schedule has this step end with an update."""
        if self.steps_taken is None:
            self.steps_taken = int(self.step)
        since = self.steps_taken - self.update_after_step
        return since >= 0 and since % self.update_every == 0

    def remember(self, losses: Float[Tensor, " tasks"]) -> None:
        """Take L(0) from the first positive, finite value of each loss; with a decay below 1, follow the later ones."""
        fresh = losses.isfinite() & (losses > 0)
        start = torch.where(self.initted, self.initial_losses, losses)
        followed = start.lerp(losses, 1 - self.initial_losses_decay)
        self.initial_losses.copy_(torch.where(fresh, followed, self.initial_losses))
        self.initted.logical_or_(fresh)
        self.settled = self.initial_losses_decay == 1 and bool(self.initted.all())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        """Move the buffers, but never cast below float32: a step of bfloat16 weights would round back to none."""

        def wide(buffer: Tensor) -> Tensor:
            applied = fn(buffer)
            dtype = torch.promote_types(applied.dtype, torch.float32)
            narrowed = applied.is_floating_point() and applied.dtype != dtype
            return buffer.to(applied.device, dtype) if narrowed else applied

        return super()._apply(wide, recurse)

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self.steps_taken, self.settled = None, False


class UpdatedWeights(ScheduledWeights):
    """Weights that are updated on schedule by what was gathered since the last update."""

    loss_names: list[str]
    bad_losses: BadLosses
    gathered: Gathered | None = None
    latest: Weighing = NOTHING

    def update(self) -> Weighing:
        """End the step: move the weights where the schedule says so, by what was measured since the last update.

        Returns what the last `weigh` gave, with the norms and targets of the whole step. Nothing is moved where nothing
        was weighed since the last update, or only with frozen weights.

        Raises:
            RuntimeError: nothing has been weighed yet; or the last micro-batch was weighed with `grad_step=False`, and
                more are to come; or lengths are to come out of the backward pass, and none ran.
            ValueError: a bad loss, where `on_bad_loss` is "raise".
        """
        if not self.latest.weights:
            raise RuntimeError("update() ends a step: weigh the losses and back-propagate the total before it")
        gathered = self.gathered
        if gathered is None:
            return self.latest
        if not gathered.complete:
            raise RuntimeError("update() ends a step: call it after the last micro-batch, weigh(..., grad_step=True)")
        self.gathered = None
        norms: dict[str, Tensor] = {}
        targets: dict[str, Tensor] = {}
        if gathered.names is not None or not self.settled:
            losses, lengths = gathered.joined()
            if not self.settled:
                self.remember(losses)
            if gathered.names is not None and lengths is not None:
                norms, targets = self.move(gathered.names, losses, lengths.to(losses))
        self.step.add_(1)
        self.steps_taken = None if self.steps_taken is None else self.steps_taken + 1
        self.latest = self.latest._replace(norms=norms, targets=targets)
        return self.latest

    def move(
        self, names: dict[int, str], losses: Float[Tensor, " tasks"], lengths: Float[Tensor, " some"]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Balance those of these losses that can be; their norms and targets by name."""
        tasks = list(names)
        losses = losses if len(tasks) == len(losses) else losses[tasks]  # [some]
        places = self.bad_losses.sort_out(names, losses, lengths)
        if len(places) < 2:  # one loss alone is in balance
            return {}, {}
        if len(places) < len(tasks):
            tasks, losses, lengths = [tasks[place] for place in places], losses[places], lengths[places]
        norms, targets = self.balance(tasks, losses, lengths)
        chosen = [names[task] for task in tasks]
        return dict(zip(chosen, norms.unbind(), strict=True)), dict(zip(chosen, targets.unbind(), strict=True))
