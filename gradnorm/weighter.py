"""`GradNormLossWeighter`: what stands where a training loop has `loss.backward()`.

The arithmetic is in `gradnorm.algorithm`; gradients are measured by `gradnorm.measure`,
and what comes from micro-batches and processes between two updates is held by
`gradnorm.gather`; the forms in which losses come are those of `gradnorm.losses`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gradnorm._typing import Bool, Float
from gradnorm.algorithm import (
    adam_direction,
    balance_step,
    gradnorm_targets,
    lgrad_gradient,
)
from gradnorm.gather import Gathered
from gradnorm.losses import (
    ON_BAD_LOSS,
    BadLosses,
    LateFlags,
    Losses,
    Mask,
    initial_weights,
    known_losses,
    losses_by_name,
    masked_in,
    name_losses,
    require,
    require_backward,
    require_integer,
    require_one_of,
)
from gradnorm.measure import Shared, tensors_of

OPTIMIZERS = ("plain", "adam")


class Weighing(NamedTuple):
    """What every call of a weighter returns: the weighted total and what was measured,
    by the losses' names; no graph.

    The weights are those this call used; an update that followed it shows in the next
    call. `norms` and `targets` are empty where no update was due (frozen, evaluation,
    the schedule, a micro-batch before the last). Else both have the losses that were to
    be balanced, with NaN for one that could not be.
    """

    total: Float[Tensor, ""]  # Σ w_i L_i, before `scale`
    weights: dict[str, Tensor]  # w_i
    norms: dict[str, Tensor]  # G_i = w_i ‖∇_W L_i‖
    targets: dict[str, Tensor]  # mean(G) · r_i^α


NOTHING = Weighing(torch.zeros(()), {}, {}, {})


def loss_scale(accelerator: Any) -> float | Tensor:
    """The factor by which an accelerator's GradScaler multiplies losses; 1 without
    one.
    """
    scaler = getattr(accelerator, "scaler", None)
    if scaler is None:
        return 1.0
    return scaler.scale(torch.ones((), device=accelerator.device))


def mean_for_others(
    values: Float[Tensor, "*rows tasks"], usable: Bool[Tensor, " tasks"]
) -> Float[Tensor, "*rows tasks"]:
    """The values that are usable, and in place of each other one the mean of these.

    So the mean over all is the mean over those that are usable.
    """
    kept = torch.where(usable, values, 0.0)
    return torch.where(usable, values, kept.sum(-1, keepdim=True) / usable.sum())


class GradNormLossWeighter(nn.Module):
    """Stands where a training loop has `loss.backward()`, and keeps the tasks'
    gradients in balance.

    Call it, or its `backward`, with the losses. The network receives the gradients of Σ
    w_i L_i and nothing else; the weights move by GradNorm, stay positive and sum to T,
    the number of losses. Where several processes train together (torch.distributed,
    torchrun, Accelerate) their losses and gradients are joined, and the weights are the
    same in all of them: those of one process on the joined batch. `state_dict` holds
    what an exact resume between two steps needs. The buffers are made where W is,
    follow the losses to their device, and stay float32 when a cast narrows the rest.
    The weights now are the buffer `loss_weights`, in the order of `loss_names`:
    `dict(zip(weighter.loss_names, weighter.loss_weights.tolist()))`.

    Where to measure, from the most general to the fastest: on parameters
    (`grad_norm_parameters`); at activations, passed with the losses; at the views of
    them that `view_for_each_loss` returns. A linear layer's weight costs little more
    than its output.

    The backward pass is the weighter's::

        weighter = GradNormLossWeighter(
            loss_names=["depth", "edges"], grad_norm_parameters=network.trunk[-1]
        )
        for x, y in data:
            optimizer.zero_grad()
            result = weighter(losses_of(network(x), y))  # {"depth": …, "edges": …}
            optimizer.step()
            print(result.total, result.weights)  # the weights of this step

    or the loop's own; of several micro-batches all but the last have
    `grad_step=False`::

        for x, y in data:
            optimizer.zero_grad()
            total = weighter.weigh(losses_of(network(x), y))
            total.backward()
            result = weighter.update()
            optimizer.step()

    with a `torch.amp.GradScaler`::

        for x, y in data:
            optimizer.zero_grad()
            with torch.autocast("cuda", torch.float16):
                losses = losses_of(network(x), y)
            total = weighter.weigh(losses, scale=scaler.get_scale())
            scaler.scale(total).backward()
            weighter.update()
            scaler.step(optimizer)
            scaler.update()

    Args:
        loss_weights: initial weights, one for each loss or by name, 1 each if not
            given; rescaled to Σ w = T unless `frozen`.
        num_losses: their number, if neither `loss_weights` nor `loss_names` tells it.
        loss_names: what the losses are called; needed where they come in a dict.
        learning_rate: η. A plain step is η‖∇_W L_i‖ long: choose it for your losses'
            scale. Adam's is about η long.
        restoring_force_alpha: α ≥ 0. With 0 all gradients become equally long; the
            larger it is, the more a slow task's exceed the others'.
        grad_norm_parameters: W, a parameter that all losses share, best the last one;
            or a module for its trainable parameters; several count as one vector. A
            deep copy looks at the same W, or at its copy where the network was copied
            first: `copy.deepcopy((network, weighter))`.
        accelerator: has a `backward(loss)` to be called in place of `loss.backward()`
            (Hugging Face Accelerate).
        frozen: weigh only, as in evaluation mode; the weights given are used as they
            are.
        initial_losses: those L_i(0) that are known, by name or one for each: log C for
            a cross-entropy over C classes. The others are measured in the first step.
        initial_losses_decay: 1 keeps L(0); below 1 it follows: L(0) ← decay · L(0) + (1
            − decay) · L(t).
        update_after_step: the first step that measures and updates. A step is a call
            with `grad_step=True` that was not frozen.
        update_every: measure and update on every so many steps.
        loss_mask: which losses are balanced: True or False for each, or by name, at
            least two of them True. The means are over these; the others keep their
            weights.
        optimizer: of the weights: "plain", or the "adam" of the paper's experiments
            (they have η = 0.025).
        on_bad_loss: a loss that is not finite, or not positive while α > 0 (r_i^α has
            no meaning then), is left out of the update with one RuntimeWarning ("skip";
            on a GPU the warning may come an update or two later, since nothing waits
            for it) or refused before any weight moves ("raise", which waits for the
            device in every update). It is weighed and back-propagated all the same. No
            weight ever becomes NaN.

    Raises:
        KeyError: an initial loss for a name that there is not, or weights or a mask by
            other names than the losses'.
        TypeError: a setting of the wrong kind: a mask not of bools, W neither tensor
            nor module, a number for weights.
        ValueError: fewer than two losses, settings out of range or that disagree, or W
            a module with nothing to train.
    """

    loss_weights: Tensor
    initial_losses: Tensor
    initial_losses_known: Tensor
    loss_weights_grad: Tensor
    moments: Tensor | None
    updates: Tensor | None
    step: Tensor

    def __init__(
        self,
        loss_weights: Mapping[str, float] | Sequence[float] | Tensor | None = None,
        *,
        num_losses: int | None = None,
        loss_names: Sequence[str] | None = None,
        learning_rate: float = 1e-4,
        restoring_force_alpha: float = 0.0,
        grad_norm_parameters: Shared | Sequence[Shared] | None = None,
        accelerator: Any = None,
        frozen: bool = False,
        initial_losses: Mapping[str, float] | Sequence[float] | None = None,
        initial_losses_decay: float = 1.0,
        update_after_step: int = 0,
        update_every: int = 1,
        loss_mask: Mask | None = None,
        optimizer: str = "plain",
        on_bad_loss: str = "skip",
    ) -> None:
        super().__init__()
        require(learning_rate, "learning_rate")
        require(restoring_force_alpha, "restoring_force_alpha")
        require(initial_losses_decay, "initial_losses_decay", at_most=1.0)
        require_integer(update_every, "update_every", at_least=1)
        require_one_of(optimizer, "optimizer", OPTIMIZERS)
        require_one_of(on_bad_loss, "on_bad_loss", ON_BAD_LOSS)
        require_backward(accelerator)
        self.loss_names = name_losses(num_losses, loss_weights, loss_names)
        masked_in(self.loss_names, loss_mask)
        self.loss_mask, self.accelerator, self.frozen = loss_mask, accelerator, frozen
        self.learning_rate = learning_rate
        self.restoring_force_alpha = restoring_force_alpha
        self.initial_losses_decay = initial_losses_decay
        self.update_after_step, self.update_every = update_after_step, update_every
        self.grad_norm_parameters = tensors_of(grad_norm_parameters)  # the network's
        weights = initial_weights(loss_weights, self.loss_names, as_given=frozen)
        known = known_losses(self.loss_names, initial_losses)
        self.remember_from(weights, known, with_moments=optimizer == "adam")
        self.bad_losses = BadLosses(self.loss_names, restoring_force_alpha, on_bad_loss)
        self.latest = NOTHING
        self.gathered: Gathered | None = None
        if self.grad_norm_parameters:
            self.to(self.grad_norm_parameters[0].device)

    def remember_from(
        self, weights: Tensor, known: Mapping[int, float], with_moments: bool
    ) -> None:
        """Make the state, all of it in buffers, for these weights and known L_i(0)."""
        tasks = range(len(weights))
        state = {
            "loss_weights": weights,
            "initial_losses": torch.tensor([known.get(task, 1.0) for task in tasks]),
            "initial_losses_known": torch.tensor([task in known for task in tasks]),
            "loss_weights_grad": torch.zeros_like(weights),  # ∂L_grad/∂w, last time
            "moments": torch.zeros(2, len(weights)) if with_moments else None,
            "updates": torch.zeros_like(weights).long() if with_moments else None,
            "step": torch.tensor(0),
        }
        for name, buffer in state.items():
            self.register_buffer(name, buffer)
        self.steps_taken = 0  # `step`, and whether every L(0) is known and stays,
        self.settled = False  # both for the host
        self.known_heard = LateFlags(len(weights))

    def forward(self, *args: Any, **kwargs: Any) -> Weighing:
        """`backward`, by another name."""
        return self.backward(*args, **kwargs)

    def backward(
        self,
        losses: Losses,
        activations: Tensor | Sequence[Tensor] | None = None,
        freeze: bool = False,
        scale: float | Tensor = 1.0,
        grad_step: bool | None = None,
        loss_mask: Mask | None = None,
        **backward_kwargs: Any,
    ) -> Weighing:
        """Back-propagate scale · Σ w_i L_i, and move the weights where the schedule
        says so.

        Args:
            losses: scalars in a dict (with `loss_names`), list, tuple or named tuple,
                or the entries of a 1-D tensor. In a list each gradient is measured
                through its own graph; in one tensor, through everybody's.
            activations: one tensor or several that all losses come through; gradients
                are measured there.
            freeze: weigh only, this once.
            scale: multiplies what is back-propagated (1/N for N micro-batches, a loss
                scale); the weights never see it.
            grad_step: False for every micro-batch of an accumulation but the last. The
                weights then move once, as they would have for the joined batch, and
                `update_every` counts accumulations. If not given, what the
                accelerator's `sync_gradients` says; True without one.
            loss_mask: which losses are balanced, this once.
            backward_kwargs: for `Tensor.backward`, or the accelerator's.

        Raises:
            KeyError, TypeError, ValueError: the losses (`losses_by_name`), the mask
                (`masked_in`) or W (`task_gradient`) do not fit. Nothing has been
                back-propagated then. ValueError also for a bad loss, where
                `on_bad_loss` is "raise"; the network's gradients are there then, and
                the weights as they were.
        """
        if grad_step is None:
            grad_step = getattr(self.accelerator, "sync_gradients", True)
        measured_under = scale * loss_scale(self.accelerator)
        total = self.weigh(
            losses, activations, freeze, measured_under, grad_step, loss_mask
        )
        weighed = self.latest
        owner = torch.Tensor if self.accelerator is None else self.accelerator
        owner.backward(total * scale, **backward_kwargs)
        return self.update() if grad_step else weighed

    def weigh(
        self,
        losses: Losses,
        activations: Tensor | Sequence[Tensor] | None = None,
        freeze: bool = False,
        scale: float | Tensor = 1.0,
        grad_step: bool = True,
        loss_mask: Mask | None = None,
    ) -> Float[Tensor, ""]:
        """Σ w_i L_i to back-propagate yourself, then to call `update`: for loops that
        own `.backward`.

        The arguments are those of `backward`; `scale` does not multiply the total, it
        is the factor under which float16 gradients are measured (`scaler.get_scale()`).
        Of several micro-batches the last has `grad_step=True`, and `update` comes after
        it alone. What was weighed with `grad_step=True`, and never followed by an
        update, is forgotten by the next call.
        """
        named = losses_by_name(losses, self.loss_names)
        stacked = torch.stack(tuple(named.values()))  # [tasks]
        if stacked.device != self.loss_weights.device:
            self.to(stacked.device)
        weights = self.loss_weights.clone()  # the graph's own: the update is in place
        total = (weights * stacked).sum()
        by_name = dict(zip(named, weights.unbind(), strict=True))
        self.latest = Weighing(total.detach(), by_name, {}, {})
        gathered, self.gathered = self.gathered, None
        if self.frozen or freeze or not self.training:
            return total
        if gathered is None or gathered.complete:
            gathered = Gathered(self.due())
        mask = self.loss_mask if loss_mask is None else loss_mask
        names = masked_in(self.loss_names, mask)
        gathered.add(stacked.detach().to(weights), names, grad_step)
        if gathered.due:
            chosen = {name: named[name] for name in names.values()}
            places = tensors_of(activations)
            if places or not gathered.listen(chosen, total, weights):
                gathered.measure(chosen, places, self.grad_norm_parameters, scale)
        self.gathered = gathered
        return total

    def view_for_each_loss(self, activations: Tensor) -> tuple[Tensor, ...]:
        """The activations once for each loss, in the losses' order: the fast way to
        measure at a shared feature.

        Let each head work on its own. The lengths are then taken on the way of the one
        backward pass, whoever runs it; several calls before the losses are weighed
        (features of several sizes) count as one vector.
        """
        measures = self.training and not self.frozen and self.due()
        if not (measures and activations.requires_grad):
            return (activations,) * len(self.loss_names)
        if self.gathered is None or self.gathered.complete:
            self.gathered = Gathered(due=True)
        return self.gathered.views(activations, len(self.loss_names))

    def share(self, activations: Tensor) -> tuple[Tensor, ...]:
        """`view_for_each_loss`, by its older name."""
        return self.view_for_each_loss(activations)

    def update(self) -> Weighing:
        """End the step: move the weights where the schedule says so, by what was
        measured since the last update.

        Returns what the last `weigh` gave, with the norms and targets of the whole
        step. Nothing is moved where nothing was weighed since the last update, or only
        with frozen weights. Waits for no device, unless `on_bad_loss` is "raise".

        Raises:
            RuntimeError: nothing has been weighed yet; or the last micro-batch was
                weighed with `grad_step=False`, and more are to come; or lengths are to
                come out of the backward pass, and none ran.
            ValueError: a bad loss, where `on_bad_loss` is "raise".
        """
        if not self.latest.weights:
            raise RuntimeError(
                "update() ends a step: weigh the losses and back-propagate the total "
                "before it"
            )
        gathered = self.gathered
        if gathered is None or not gathered.losses:
            return self.latest
        if not gathered.complete:
            raise RuntimeError(
                "update() ends a step: call it after the last micro-batch, "
                "weigh(..., grad_step=True)"
            )
        self.gathered = None
        if gathered.due or not self.settled:
            losses, lengths = gathered.joined()
            if not self.settled:
                self.remember(losses)
            if lengths is not None:
                norms, targets = self.move(losses, lengths, gathered.names)
                self.latest = self.latest._replace(norms=norms, targets=targets)
        self.step.add_(1)
        self.steps_taken += 1
        return self.latest

    def due(self) -> bool:
        """Whether the schedule has this step end with an update."""
        since = self.steps_taken - self.update_after_step
        return since >= 0 and since % self.update_every == 0

    def remember(self, losses: Float[Tensor, " tasks"]) -> None:
        """Take L(0) from the first positive, finite value of each loss; with a decay
        below 1, follow the later ones.
        """
        fresh = losses.isfinite() & (losses > 0)
        start = torch.where(self.initial_losses_known, self.initial_losses, losses)
        followed = start.lerp(losses, 1 - self.initial_losses_decay)
        self.initial_losses.copy_(torch.where(fresh, followed, self.initial_losses))
        self.initial_losses_known.logical_or_(fresh)
        known = self.known_heard.follow(self.initial_losses_known)
        self.settled = self.initial_losses_decay == 1 and all(known)

    def move(
        self,
        losses: Float[Tensor, " tasks"],
        lengths: Float[Tensor, " some"],
        names: Mapping[int, str],
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Balance the losses with these positions, as far as they can be balanced;
        their norms and targets by name.
        """
        if len(lengths) < len(losses):
            measured = dict(zip(names, lengths.unbind(), strict=True))
            nothing = torch.full_like(lengths[0], -1.0)
            tasks = range(len(losses))
            lengths = torch.stack([measured.get(task, nothing) for task in tasks])
        usable = self.bad_losses.usable(losses, lengths)
        if usable is None:
            total = losses.new_full((), len(losses))
            found = self.balance(losses, lengths, total)
        else:
            found = self.balance_usable(losses, lengths, usable)
        norms, targets = (values.unbind() for values in found)
        return (
            {name: norms[task] for task, name in names.items()},
            {name: targets[task] for task, name in names.items()},
        )

    def balance(
        self,
        losses: Float[Tensor, " tasks"],
        lengths: Float[Tensor, " tasks"],
        total: Float[Tensor, ""] | None = None,
    ) -> tuple[Float[Tensor, " tasks"], Float[Tensor, " tasks"]]:
        """Move the weights, and return G and the targets: the algorithm, line by line.

        Args:
            lengths: ‖∇_W L_i‖.
            total: what the weights then sum to; what they do already, if None.
        """
        norms = self.loss_weights * lengths
        targets = gradnorm_targets(
            norms, losses, self.initial_losses, self.restoring_force_alpha
        )
        slopes = direction = lgrad_gradient(norms, targets, lengths)
        if self.moments is not None and self.updates is not None:
            self.updates += 1
            direction, moments = adam_direction(slopes, self.moments, self.updates)
            self.moments.copy_(moments)
        self.loss_weights_grad.copy_(slopes)
        moved = balance_step(self.loss_weights, direction, self.learning_rate, total)
        self.loss_weights.copy_(moved)
        return norms, targets

    def balance_usable(
        self,
        losses: Float[Tensor, " tasks"],
        lengths: Float[Tensor, " tasks"],
        usable: Bool[Tensor, " tasks"],
    ) -> tuple[Float[Tensor, " tasks"], Float[Tensor, " tasks"]]:
        """`balance` for some of the losses, computed for all: no device is asked which.

        The others get values that change no mean, and afterwards their weights and
        moments back; the weights that move keep the sum that they had. One loss alone
        is in balance. Where a loss is not usable, NaN is returned.
        """
        usable = usable & (usable.sum() > 1)
        weights = self.loss_weights.clone()
        state = [buffer for buffer in (self.moments, self.updates) if buffer is not None]
        kept = [buffer.clone() for buffer in state]
        values = torch.stack([losses / self.initial_losses, weights * lengths])
        ratios, norms = mean_for_others(values, usable)  # [tasks] each
        found = self.balance(ratios * self.initial_losses, norms / weights)
        before, after = torch.where(usable, torch.stack([weights, self.loss_weights]), 0)
        after = after * (before.sum() / after.sum())
        self.loss_weights.copy_(torch.where(usable, after, weights))
        for buffer, old in zip(state, kept, strict=True):
            buffer.copy_(torch.where(usable, buffer, old))
        self.loss_weights_grad.masked_fill_(~usable, 0.0)
        norms, targets = torch.where(usable, torch.stack(found), torch.nan)
        return norms, targets

    @property
    def initted(self) -> Tensor:
        """`initial_losses_known`, by its older name."""
        return self.initial_losses_known

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        """Move the buffers, but never cast below float32: a step of bfloat16 weights
        would round back to none.
        """

        def wide(buffer: Tensor) -> Tensor:
            applied = fn(buffer)
            dtype = torch.promote_types(applied.dtype, torch.float32)
            narrowed = applied.is_floating_point() and applied.dtype != dtype
            return buffer.to(applied.device, dtype) if narrowed else applied

        return super()._apply(wide, recurse)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any
    ) -> None:
        """Load; a state of older versions has `initted` for `initial_losses_known`."""
        if f"{prefix}initted" in state_dict:
            known = state_dict.pop(f"{prefix}initted")
            state_dict[f"{prefix}initial_losses_known"] = known
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.steps_taken = int(state_dict.get(f"{prefix}step", self.steps_taken))
        self.settled = False
        self.known_heard = LateFlags(len(self.loss_names))
