"""GradNorm: weights for many losses, learned so that every loss pulls on the shared layers about equally hard.

The algorithm is that of Chen, Badrinarayanan, Lee and Rabinovich, *GradNorm* (2018), arXiv 1711.02257, in the
paper's symbols: L_i a task's loss, w_i its weight, W the last shared layer, G_i = ‖∇_W w_i L_i‖₂ the length of the
task's weighted gradient there, T the number of tasks, α the strength of the restoring force.

    gradient_lengths   G_i = w_i ‖∇_W L_i‖
    gradnorm_targets   r_i = (L_i / L_i(0)) / mean_j (L_j / L_j(0)),  target_i = mean_j(G_j) · r_i^α
    lgrad_gradient     L_grad = Σ_i |G_i − target_i|,  ∂L_grad/∂w_i = sign(G_i − target_i) ‖∇_W L_i‖
    balance_step       w ← w − η ∂L_grad/∂w, then rescaled to Σ w = T

The targets are constants, and G_i is linear in w_i: that is why nothing is differentiated twice.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

Losses = Mapping[str, Any] | Sequence[Any] | Tensor  # of scalar tensors: `losses_by_name` refuses the rest
Mask = Sequence[bool] | Bool[Tensor, " tasks"]
Named = dict[str, Tensor]
SMALLEST_WEIGHT = 1e-6  # of the mean weight: where `balance_step` stops a weight on its way to zero


class Weighing(NamedTuple):
    """What every call of a weighter returns: the weighted total and what was measured, by the losses' names; no graph.

    The weights are those this call used; an update that followed it shows in the next call. `norms` and `targets` are
    empty where nothing was measured (frozen, evaluation, no update due), and have the same keys as each other.
    """

    total: Float[Tensor, ""]  # Σ w_i L_i, before `scale`
    weights: dict[str, Tensor]  # w_i
    norms: dict[str, Tensor]  # G_i = w_i ‖∇_W L_i‖
    targets: dict[str, Tensor]  # mean(G) · r_i^α


def gradient_lengths(losses: Mapping[str, Tensor], shared: Sequence[Tensor]) -> Float[Tensor, " tasks"]:
    """‖∇_W L_i‖₂ for every loss, W being all of `shared` taken as one vector. Keeps the graph for the backward pass.

    Raises:
        ValueError: `shared` is empty or does not require gradients, or a loss does not depend on any of it.
    """
    if not shared:
        raise ValueError("gradients are measured nowhere: construct with grad_norm_parameters, or pass activations")
    if not all(tensor.requires_grad for tensor in shared):
        raise ValueError(
            "the parameter or activation at which gradients are measured does not require a gradient; "
            "pass a trainable shared parameter, or set frozen=True to keep the weights as they are"
        )
    lengths = []
    for name, loss in losses.items():
        found = torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True) if loss.requires_grad else ()
        pieces = [gradient.norm() for gradient in found if gradient is not None]
        if not pieces:
            raise ValueError(
                f"loss {name!r} does not depend on the parameter or activation at which gradients are measured; "
                "pass one that every loss uses (the last shared layer), or leave this loss out with loss_mask"
            )
        lengths.append(torch.stack(pieces).norm())
    return torch.stack(lengths)


def observe(
    losses: Mapping[str, Tensor], shared: Sequence[Tensor], positive: bool
) -> tuple[list[str], Float[Tensor, " some"], Float[Tensor, " some"]]:
    """The names, values and gradient lengths of the losses that can be balanced; a RuntimeWarning names the others.

    A loss can be balanced if it and its gradients are finite and, where `positive`, it is greater than 0.
    """
    lengths = gradient_lengths(losses, shared)
    values = torch.stack(tuple(losses.values())).detach()
    usable = values.isfinite() & lengths.isfinite() & ((values > 0) | (not positive))
    names = [name for name, good in zip(losses, usable.tolist(), strict=True) if good]
    if len(names) < len(losses):
        warnings.warn(
            f"GradNorm leaves the weights of {', '.join(losses.keys() - names)} as they are this time: a loss that it "
            "balances must be finite, have a finite gradient and, where restoring_force_alpha > 0, be positive",
            RuntimeWarning,
            stacklevel=2,
        )
    return names, values[usable], lengths[usable]


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
    """∂/∂w_i of Σ_j |w_j ‖∇_W L_j‖ − target_j| with the targets constant, in closed form."""
    off = (norms - targets).nan_to_num()  # a target that overflowed (inf/inf, 0·inf) asks for no step
    return off.sign() * lengths


def balance_step(
    weights: Float[Tensor, " tasks"], gradient: Float[Tensor, " tasks"], learning_rate: float
) -> Float[Tensor, " tasks"]:
    """One descent step on the weights, then the paper's rescaling: positive, and with the sum they came with.

    A weight stops at `SMALLEST_WEIGHT` of the mean on its way down and at the sum on its way up. Neither stop acts at
    a sensible learning rate; together they make the result positive and finite at any. From the lower stop a weight
    climbs again as soon as its gradient says so, which it could not if the step were a factor.
    """
    total = weights.sum()
    moved = (weights - learning_rate * gradient).clamp(SMALLEST_WEIGHT * weights.mean(), total)
    return moved * (total / moved.sum())


def require(value: float, name: str, at_least: float = 0.0, at_most: float = sys.float_info.max) -> None:
    """Raise a ValueError that names the value, unless it is a finite number in [at_least, at_most]."""
    if not at_least <= value <= at_most:
        raise ValueError(f"{name} must be finite, at least {at_least:g} and at most {at_most:g}; got {value}")


def name_losses(num_losses: int | None, weights: Sequence | Tensor | None, names: Sequence[str] | None) -> list[str]:
    """The losses' names ("0", "1", … if not given), their number being what all that was given agrees on.

    Raises:
        ValueError: nothing was given, or fewer than two losses, or numbers that disagree, or a name twice.
    """
    counts = {len(given) for given in (weights, names) if given is not None}
    counts |= set() if num_losses is None else {num_losses}
    if len(counts) != 1 or min(counts) < 2:
        raise ValueError(
            "give the number of losses, at least two, by num_losses, loss_weights or loss_names, and let those given "
            f"agree; got num_losses={num_losses}, loss_weights={weights}, loss_names={names}"
        )
    if names is None:
        return [str(i) for i in range(counts.pop())]
    if len(set(names)) < len(names):
        raise ValueError(f"loss_names must differ from one another, got {tuple(names)}")
    return list(names)


def losses_by_name(losses: Losses, names: Sequence[str]) -> dict[str, Tensor]:
    """The losses by name, in the order of `names`, whatever form they come in.

    A dict is read by its keys, and a named tuple by its fields where names were chosen; everything else by position.

    Raises:
        KeyError: keys or fields that are not `names`.
        TypeError: a loss that is no tensor.
        ValueError: a wrong number of losses, or one that is not a scalar.
    """
    if hasattr(losses, "_asdict") and names[0] != "0":  # no field can be called "0": these names were chosen
        losses = losses._asdict()
    if isinstance(losses, Mapping):
        if set(losses) != set(names):
            raise KeyError(
                f"got losses named {tuple(losses)}, this weighter has {tuple(names)}; pass exactly these, or construct "
                f"the weighter with loss_names={tuple(losses)}"
            )
        losses = [losses[name] for name in names]
    if isinstance(losses, Tensor) and losses.ndim != 1:
        raise ValueError(f"losses in one tensor must be 1-D, an entry for each loss; got shape {tuple(losses.shape)}")
    if len(losses) != len(names):
        raise ValueError(f"got {len(losses)} losses, this weighter has {len(names)}: {', '.join(names)}")
    for name, loss in zip(names, losses, strict=True):
        if not isinstance(loss, Tensor):
            raise TypeError(f"loss {name!r} must be a scalar tensor, got {type(loss).__name__}")
        if loss.ndim != 0:
            raise ValueError(f"loss {name!r} must be a scalar, got shape {tuple(loss.shape)}; reduce it with .mean()")
    return dict(zip(names, losses, strict=True))


def masked_in(names: Sequence[str], mask: Mask | None) -> list[str]:
    """The losses that a mask lets GradNorm balance; all of them without a mask.

    Raises:
        ValueError: a mask of another length, or with fewer than two losses in it.
    """
    if mask is None:
        return list(names)
    chosen = [name for name, inside in zip(names, mask, strict=False) if inside]
    if len(mask) != len(names) or len(chosen) < 2:
        raise ValueError(
            f"loss_mask needs one entry for each of {', '.join(names)} and at least two that are True, got {mask}; "
            "to balance nothing, set freeze=True"
        )
    return chosen


class Borrowed(tuple):
    """Tensors that belong to another module: a deep copy holds their copies where these exist already, else them."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Borrowed:
        return Borrowed(memo.get(id(tensor), tensor) for tensor in self)


class BalancedWeights(nn.Module):
    """Weights that GradNorm moves: what is remembered between calls, and the update. Nothing here looks at a network.

    Buffers beside `loss_weights`: `initial_losses` L(0) and `initted`, which of them are known (to give one yourself,
    such as log C for a cross-entropy over C classes, set both); `loss_weights_grad`, ∂L_grad/∂w summed over the
    measurements since the last update, and `measurements`, how many.
    """

    loss_weights: Tensor
    initial_losses: Tensor
    initted: Tensor
    loss_weights_grad: Tensor
    measurements: Tensor

    def __init__(
        self, names: list[str], weights: Float[Tensor, " tasks"], learning_rate: float, alpha: float, decay: float
    ) -> None:
        super().__init__()
        self.loss_names = names
        self.learning_rate, self.restoring_force_alpha, self.initial_losses_decay = learning_rate, alpha, decay
        self.register_buffer("loss_weights", weights)
        self.register_buffer("initial_losses", torch.ones_like(weights))
        self.register_buffer("initted", torch.zeros_like(weights, dtype=torch.bool))
        self.register_buffer("loss_weights_grad", torch.zeros_like(weights))
        self.register_buffer("measurements", torch.zeros_like(weights, dtype=torch.long))

    def remember(self, losses: Float[Tensor, " tasks"]) -> None:
        """Take L(0) from the first positive, finite value of each loss; with a decay below 1, follow the later ones."""
        fresh = losses.isfinite() & (losses > 0)
        start = torch.where(self.initted, self.initial_losses, losses)
        followed = start.lerp(losses, 1 - self.initial_losses_decay)
        self.initial_losses.copy_(torch.where(fresh, followed, self.initial_losses))
        self.initted |= fresh

    def measure(
        self, names: list[str], losses: Float[Tensor, " some"], lengths: Float[Tensor, " some"]
    ) -> tuple[Named, Named]:
        """Add a measurement of ∂L_grad/∂w, with means over these losses; return their G and targets by name."""
        tasks = [self.loss_names.index(name) for name in names]
        losses, lengths = losses.to(self.loss_weights), lengths.to(self.loss_weights)
        norms = self.loss_weights[tasks] * lengths
        targets = gradnorm_targets(norms, losses, self.initial_losses[tasks], self.restoring_force_alpha)
        self.loss_weights_grad[tasks] += lgrad_gradient(norms, targets, lengths)
        self.measurements[tasks] += 1
        return dict(zip(names, norms, strict=True)), dict(zip(names, targets, strict=True))

    def update(self) -> None:
        """Step the measured weights by the mean of their measurements. Their sum stays, and so do the other weights."""
        moving = self.measurements > 0
        gradient = self.loss_weights_grad[moving] / self.measurements[moving]
        self.loss_weights[moving] = balance_step(self.loss_weights[moving], gradient, self.learning_rate)
        self.loss_weights_grad.zero_()
        self.measurements.zero_()


class BalancedBackward(BalancedWeights):
    """The backward pass of Σ w_i L_i, with a look at the tasks' gradients before it and an update of w after it.

    `GradNormLossWeighter` gives it its settings and documents them.
    """

    step: Tensor
    grad_norm_parameters: Sequence[Tensor]
    accelerator: Any
    frozen: bool
    update_after_step: int
    update_every: int
    loss_mask: Mask | None

    def backward(
        self,
        losses: Losses,
        activations: Tensor | None = None,
        freeze: bool = False,
        scale: float | Tensor = 1.0,
        grad_step: bool = True,
        loss_mask: Mask | None = None,
        **backward_kwargs: Any,
    ) -> Weighing:
        """Back-propagate scale · Σ w_i L_i, and move the weights where the schedule says so.

        Args:
            losses: scalars in a dict (with `loss_names`), list, tuple or named tuple, or the entries of a 1-D tensor.
                In a list each gradient is measured through its own graph; in one tensor, through everybody's.
            activations: a tensor that all losses come through; gradients are measured there in W's place.
            freeze: weigh only, this once.
            scale: multiplies what is back-propagated (1/N for N micro-batches, a loss scale); the weights never see it.
            grad_step: False for every micro-batch of an accumulation but the last. The weights move once, by the mean
                of what the micro-batches measured, and `update_every` counts accumulations.
            loss_mask: which losses are balanced, this once.
            backward_kwargs: for `Tensor.backward`, or the accelerator's.

        Raises:
            KeyError, TypeError, ValueError: the losses (`losses_by_name`), the mask (`masked_in`) or W
                (`gradient_lengths`) do not fit. Nothing has been back-propagated then.
        """
        named = losses_by_name(losses, self.loss_names)
        stacked = torch.stack(tuple(named.values()))  # [tasks]
        weights = self.loss_weights.clone()  # what the graph holds on to: the update below is in place
        learning = self.training and not (self.frozen or freeze)
        since = int(self.step) - self.update_after_step
        due = learning and since >= 0 and since % self.update_every == 0
        norms: Named = {}
        targets: Named = {}
        if learning:
            self.remember(stacked.detach().to(weights))
        if due:
            chosen = masked_in(self.loss_names, self.loss_mask if loss_mask is None else loss_mask)
            shared = self.grad_norm_parameters if activations is None else (activations,)
            seen = observe({name: named[name] for name in chosen}, shared, positive=self.restoring_force_alpha > 0)
            norms, targets = self.measure(*seen)
        total = (weights * stacked).sum()
        run = torch.Tensor.backward if self.accelerator is None else self.accelerator.backward
        run(total * scale, **backward_kwargs)
        if due and grad_step:
            self.update()
        self.step += int(learning and grad_step)
        return Weighing(total.detach(), dict(zip(named, weights, strict=True)), norms, targets)


class GradNormLossWeighter(BalancedBackward):
    """Stands where a training loop has `loss.backward()`, and keeps the tasks' gradients in balance.

    Call it, or its `backward`, with the losses. The network receives the gradients of Σ w_i L_i and nothing else; the
    weights move by GradNorm, stay positive and sum to T, the number of losses. A loss that is not finite, or not
    positive while α > 0 (r_i^α has no meaning then), is left out of the balancing in that call, with a RuntimeWarning;
    it is still weighed and back-propagated. `state_dict` holds what an exact resume needs. The buffers are made where W
    is; without W, on the CPU: `.to(device)` moves them.

    Args:
        loss_weights: initial weights, 1 each if not given; rescaled to Σ w = T unless `frozen`.
        num_losses: their number, if neither `loss_weights` nor `loss_names` tells it.
        loss_names: what the losses are called; needed where they come in a dict.
        learning_rate: η of the plain step on the weights, which is η‖∇_W L_i‖ long: choose it for your losses' scale.
        restoring_force_alpha: α ≥ 0. With 0 all gradients become equally long; the larger it is, the more a slow task's
            exceed the others'.
        grad_norm_parameters: W, a parameter that all losses share, best the last one; several count as one vector.
            Without it every call that measures needs `activations`. A deep copy looks at the same W, or at its copy
            where the network was copied first: `copy.deepcopy((network, weighter))`.
        accelerator: has a `backward(loss)` to be called in place of `loss.backward()` (Hugging Face Accelerate).
        frozen: weigh only, as in evaluation mode; the weights given are used as they are.
        initial_losses_decay: 1 keeps L(0); below 1 it follows: L(0) ← decay · L(0) + (1 − decay) · L(t).
        update_after_step: the first step that measures and updates. A step is a call with `grad_step=True`
            that was not frozen.
        update_every: measure and update on every so many steps.
        loss_mask: which losses are balanced, at least two; the means are over these, the others keep their weights.

    Raises:
        ValueError: fewer than two losses, or settings out of range or that disagree.
    """

    def __init__(
        self,
        loss_weights: Sequence[float] | Tensor | None = None,
        *,
        num_losses: int | None = None,
        loss_names: Sequence[str] | None = None,
        learning_rate: float = 1e-4,
        restoring_force_alpha: float = 0.0,
        grad_norm_parameters: Tensor | Sequence[Tensor] | None = None,
        accelerator: Any = None,
        frozen: bool = False,
        initial_losses_decay: float = 1.0,
        update_after_step: int = 0,
        update_every: int = 1,
        loss_mask: Mask | None = None,
    ) -> None:
        names = name_losses(num_losses, loss_weights, loss_names)
        weights = torch.ones(len(names)) if loss_weights is None else torch.as_tensor(loss_weights).detach().float()
        if not (weights.isfinite() & (weights > 0)).all():
            raise ValueError(f"loss_weights must be positive and finite, got {weights.tolist()}")
        require(learning_rate, "learning_rate")
        require(restoring_force_alpha, "restoring_force_alpha")
        require(initial_losses_decay, "initial_losses_decay", at_most=1.0)
        require(float(update_every), "update_every", at_least=1.0)
        masked_in(names, loss_mask)
        scale = 1.0 if frozen else len(names) / weights.sum()
        super().__init__(names, weights * scale, learning_rate, restoring_force_alpha, initial_losses_decay)
        self.register_buffer("step", torch.tensor(0))
        shared = (grad_norm_parameters,) if isinstance(grad_norm_parameters, Tensor) else grad_norm_parameters
        self.grad_norm_parameters = Borrowed(shared or ())  # a tuple: the network's parameters, not this module's
        if self.grad_norm_parameters:
            self.to(self.grad_norm_parameters[0].device)
        self.loss_mask, self.accelerator, self.frozen = loss_mask, accelerator, frozen
        self.update_after_step, self.update_every = update_after_step, update_every

    def forward(self, *args: Any, **kwargs: Any) -> Weighing:
        """`backward`, by another name."""
        return self.backward(*args, **kwargs)
