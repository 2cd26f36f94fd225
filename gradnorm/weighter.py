"""`GradNormLossWeighter`: what stands where a training loop has `loss.backward()`.

Its parts: the arithmetic is in `gradnorm.algorithm`, the weights and their update in `gradnorm.balance`, gradients are
measured by `gradnorm.measure`, micro-batches and processes joined by `gradnorm.gather`, and the forms in which losses
come are those of `gradnorm.losses`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gradnorm._typing import Float
from gradnorm.balance import OPTIMIZERS, UpdatedWeights, Weighing
from gradnorm.gather import Gathered, Taps
from gradnorm.losses import (
    ON_BAD_LOSS,
    BadLosses,
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


def loss_scale(accelerator: Any) -> float | Tensor:
    """The factor by which an accelerator's GradScaler multiplies losses; 1 without one."""
    scaler = getattr(accelerator, "scaler", None)
    return 1.0 if scaler is None else scaler.scale(torch.ones((), device=accelerator.device))


class WeighedLosses(UpdatedWeights):
    """Σ w_i L_i, with a look at the tasks' gradients on the way.

    `GradNormLossWeighter` gives it its settings and documents them.
    """

    grad_norm_parameters: Sequence[Tensor]
    frozen: bool
    loss_mask: Mask | None
    taps: Taps | None = None

    def share(self, activations: Tensor) -> tuple[Tensor, ...]:
        """The activations once for each loss, in the losses' order: the fast way to measure at a shared feature.

        Let each head work on its own. The lengths are then taken on the way of the one backward pass, whoever runs it;
        several calls before the losses are weighed (features of several sizes) count as one vector.
        """
        if not (activations.requires_grad and self.training and self.due() and not self.frozen):
            return (activations,) * len(self.loss_names)
        self.taps = self.taps or Taps()
        return self.taps.views(activations, len(self.loss_names))

    def weigh(
        self,
        losses: Losses,
        activations: Tensor | Sequence[Tensor] | None = None,
        freeze: bool = False,
        scale: float | Tensor = 1.0,
        grad_step: bool = True,
        loss_mask: Mask | None = None,
    ) -> Float[Tensor, ""]:
        """Σ w_i L_i to back-propagate yourself, then to call `update`: for loops that own `.backward`.

        The arguments are those of `GradNormLossWeighter.backward`; `scale` does not multiply the total, it is the
        factor under which float16 gradients are measured (`scaler.get_scale()`). Of several micro-batches
        the last has `grad_step=True`, and `update` comes after it alone. What was weighed with `grad_step=True`, and
        never followed by an update, is forgotten by the next call.
        """
        named = losses_by_name(losses, self.loss_names)
        stacked = torch.stack(tuple(named.values()))  # [tasks]
        if stacked.device != self.loss_weights.device:
            self.to(stacked.device)
        weights = self.loss_weights.clone()  # what the graph holds on to: the update is in place
        total = (weights * stacked).sum()
        self.latest = Weighing(total.detach(), dict(zip(named, weights.unbind(), strict=True)), {}, {})
        taps, self.taps = self.taps, None
        if taps is not None:
            taps.listen(total, weights)
        gathered, self.gathered = self.gathered, None
        if self.frozen or freeze or not self.training:
            return total
        names = masked_in(self.loss_names, self.loss_mask if loss_mask is None else loss_mask)
        if gathered is None or gathered.complete:
            gathered = Gathered(names if self.due() else None)
        gathered.add(stacked.detach().to(weights), names, grad_step)
        if gathered.names is not None:
            gathered.look(named, tensors_of(activations), taps, self.grad_norm_parameters, scale)
        self.gathered = gathered
        return total


class WeighedBackward(WeighedLosses):
    """The backward pass of Σ w_i L_i, in one call with what goes before and after it."""

    accelerator: Any

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
        """Back-propagate scale · Σ w_i L_i, and move the weights where the schedule says so.

        Args:
            losses: scalars in a dict (with `loss_names`), list, tuple or named tuple, or the entries of a 1-D tensor.
                In a list each gradient is measured through its own graph; in one tensor, through everybody's.
            activations: one tensor or several that all losses come through; gradients are measured there.
            freeze: weigh only, this once.
            scale: multiplies what is back-propagated (1/N for N micro-batches, a loss scale); the weights never see it.
            grad_step: False for every micro-batch of an accumulation but the last. The weights then move once, as they
                would have for the joined batch, and `update_every` counts accumulations. If not given, what the
                accelerator's `sync_gradients` says; True without one.
            loss_mask: which losses are balanced, this once.
            backward_kwargs: for `Tensor.backward`, or the accelerator's.

        Raises:
            KeyError, TypeError, ValueError: the losses (`losses_by_name`), the mask (`masked_in`) or W
                (`task_gradient`) do not fit. Nothing has been back-propagated then. ValueError also for a bad loss,
                where `on_bad_loss` is "raise"; the network's gradients are there then, and the weights as they were.
        """
        if grad_step is None:
            grad_step = getattr(self.accelerator, "sync_gradients", True)
        measured_under = scale * loss_scale(self.accelerator)
        total = self.weigh(losses, activations, freeze, measured_under, grad_step, loss_mask)
        latest = self.latest
        run = torch.Tensor.backward if self.accelerator is None else self.accelerator.backward
        run(total * scale, **backward_kwargs)
        return self.update() if grad_step else latest

    def forward(self, *args: Any, **kwargs: Any) -> Weighing:
        """`backward`, by another name."""
        return self.backward(*args, **kwargs)


class GradNormLossWeighter(WeighedBackward):
    """Stands where a training loop has `loss.backward()`, and keeps the tasks' gradients in balance.

    Call it, or its `backward`, with the losses. The network receives the gradients of Σ w_i L_i and nothing else; the
    weights move by GradNorm, stay positive and sum to T, the number of losses. Where several processes train together
    (torch.distributed, torchrun, Accelerate) their losses and gradients are joined, and the weights are the same in all
    of them: those of one process on the joined batch. `state_dict` holds what an exact resume between two steps needs.
    The buffers are made where W is, follow the losses to their device, and stay float32 when a cast narrows the rest.
    The weights now are the buffer `loss_weights`, in the order of `loss_names`:
    `dict(zip(weighter.loss_names, weighter.loss_weights.tolist()))`.

    Where to measure, from the most general to the fastest: on parameters (`grad_norm_parameters`); at activations,
    passed with the losses; at the views of them that `share` returns. A linear layer's weight costs little more than
    its output.

    The backward pass is the weighter's::

        weighter = GradNormLossWeighter(loss_names=["depth", "edges"], grad_norm_parameters=network.trunk[-1])
        for x, y in data:
            optimizer.zero_grad()
            result = weighter(losses_of(network(x), y))  # {"depth": …, "edges": …}, scalars
            optimizer.step()
            print(result.total, result.weights)  # the weights of this step

    or the loop's own; of several micro-batches all but the last have `grad_step=False`::

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
        loss_weights: initial weights, one for each loss or by name, 1 each if not given; rescaled to Σ w = T unless
            `frozen`.
        num_losses: their number, if neither `loss_weights` nor `loss_names` tells it.
        loss_names: what the losses are called; needed where they come in a dict.
        learning_rate: η. A plain step is η‖∇_W L_i‖ long: choose it for your losses' scale. Adam's is about η long.
        restoring_force_alpha: α ≥ 0. With 0 all gradients become equally long; the larger it is, the more a slow task's
            exceed the others'.
        grad_norm_parameters: W, a parameter that all losses share, best the last one; or a module for its trainable
            parameters; several count as one vector. A deep copy looks at the same W, or at its copy where the network
            was copied first: `copy.deepcopy((network, weighter))`.
        accelerator: has a `backward(loss)` to be called in place of `loss.backward()` (Hugging Face Accelerate).
        frozen: weigh only, as in evaluation mode; the weights given are used as they are.
        initial_losses: those L_i(0) that are known, by name or one for each: log C for a cross-entropy over C classes.
            The others are measured in the first step.
        initial_losses_decay: 1 keeps L(0); below 1 it follows: L(0) ← decay · L(0) + (1 − decay) · L(t).
        update_after_step: the first step that measures and updates. A step is a call with `grad_step=True`
            that was not frozen.
        update_every: measure and update on every so many steps.
        loss_mask: which losses are balanced: True or False for each, or by name, at least two of them True. The means
            are over these; the others keep their weights.
        optimizer: of the weights: "plain", or the "adam" of the paper's experiments (they have η = 0.025).
        on_bad_loss: a loss that is not finite, or not positive while α > 0 (r_i^α has no meaning then), is left out of
            the update with one RuntimeWarning ("skip") or refused before any weight moves ("raise"). It is weighed and
            back-propagated all the same. No weight ever becomes NaN.

    Raises:
        KeyError: an initial loss for a name that there is not, or weights or a mask by other names than the losses'.
        TypeError: a setting of the wrong kind: a mask not of bools, W neither tensor nor module, a number for weights.
        ValueError: fewer than two losses, settings out of range or that disagree, or W a module with nothing to train.
    """

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
        names = name_losses(num_losses, loss_weights, loss_names)
        weights = initial_weights(loss_weights, names, as_given=frozen)
        require(learning_rate, "learning_rate")
        require(restoring_force_alpha, "restoring_force_alpha")
        require(initial_losses_decay, "initial_losses_decay", at_most=1.0)
        require_integer(update_every, "update_every", at_least=1)
        require_one_of(optimizer, "optimizer", OPTIMIZERS)
        require_one_of(on_bad_loss, "on_bad_loss", ON_BAD_LOSS)
        require_backward(accelerator)
        masked_in(names, loss_mask)
        known = known_losses(names, initial_losses)
        super().__init__(weights, learning_rate, restoring_force_alpha, initial_losses_decay, optimizer, known)
        self.register_buffer("step", torch.tensor(0))
        self.grad_norm_parameters = tensors_of(grad_norm_parameters)  # a tuple: they stay the network's
        if self.grad_norm_parameters:
            self.to(self.grad_norm_parameters[0].device)
        self.loss_names, self.loss_mask, self.accelerator, self.frozen = names, loss_mask, accelerator, frozen
        self.update_after_step, self.update_every = update_after_step, update_every
        self.bad_losses = BadLosses(restoring_force_alpha, on_bad_loss)
