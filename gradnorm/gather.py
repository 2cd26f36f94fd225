"""What is gathered between two updates of the weights: from micro-batches, and from the processes that train together.

The batch that they are parts of has the mean of their losses. On parameters its gradient is the mean of theirs. On
activations every sample has a gradient of its own, which the mean divides by the number of parts: lengths add as
squares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from gradnorm._typing import Float
from gradnorm.distributed import processes, summed
from gradnorm.measure import gradient_lengths, gradient_vectors, length, parameter_lengths, unreached


class Taps:
    """Views of activations, one for each loss, that note the length of the gradient that comes back through each.

    They note nothing before they `listen` to the total, so gradients that are part of a loss do not count. What comes
    back to the total is the factor that somebody multiplied it by.
    """

    def __init__(self) -> None:
        self.factor: Tensor | None = None
        self.noted: dict[int, list[Tensor]] = {}

    def views(self, activations: Tensor, count: int) -> tuple[Tensor, ...]:
        """The same activations `count` times, for one loss each."""
        views = tuple(activations.view_as(activations) for _ in range(count))
        for task, view in enumerate(views):
            view.register_hook(partial(self.note, task))
        return views

    def listen(self, total: Tensor, weights: Float[Tensor, " tasks"]) -> None:
        """Note what comes back in the backward pass of this total, in which the losses have these weights."""
        self.weights = weights
        if total.requires_grad:
            total.register_hook(lambda gradient: setattr(self, "factor", gradient.detach()))

    def note(self, task: int, gradient: Tensor) -> None:
        if self.factor is not None:
            self.noted.setdefault(task, []).append(length(gradient.detach()))

    def lengths(self, names: Mapping[int, str]) -> Float[Tensor, " some"]:
        """‖∇_z L_i‖ of the losses with these positions.

        Raises:
            RuntimeError: the total was not back-propagated.
            ValueError: nothing came back from a loss.
        """
        if self.factor is None:
            raise RuntimeError("update() needs the gradients of the backward pass: call total.backward() before it")
        for task, name in names.items():
            if task not in self.noted:
                raise unreached(name)
        found = [self.noted[task] for task in names]
        noted = torch.stack([pieces[0] if len(pieces) == 1 else torch.stack(pieces).norm() for pieces in found])
        return noted / (self.weights[list(names)] * self.factor)


class Parts:
    """What was measured in the micro-batches since the last update, one part after another.

    Args:
        names: of the losses that are balanced, by position; None in a step that has no update.
    """

    def __init__(self, names: dict[int, str] | None) -> None:
        self.names = names
        self.losses: list[Tensor] = []  # [tasks] each
        self.lengths: list[Tensor] = []  # [some] each
        self.taps: list[Taps] = []
        self.vectors: Tensor | None = None  # the sum of the gradients on parameters, [some, numbers]
        self.complete = False  # the last part is in

    def add(self, losses: Float[Tensor, " tasks"], names: dict[int, str], complete: bool) -> None:
        """Begin with another part.

        Raises:
            ValueError: other losses are balanced than in the parts before.
        """
        if self.names not in (None, names):
            told = f"{', '.join(names.values())} after {', '.join((self.names or {}).values())}"
            raise ValueError(f"loss_mask must be the same in all micro-batches of a step, got {told}")
        self.losses.append(losses)
        self.complete = complete

    def look(
        self,
        losses: Mapping[str, Tensor],
        activations: Sequence[Tensor],
        taps: Taps | None,
        shared: Sequence[Tensor],
        scale: float | Tensor,
    ) -> None:
        """Measure the balanced losses: at activations, else in the views of them, else on parameters.

        The gradients are those of the losses under a scale, lest they vanish in float16; it is divided out again.
        On parameters the lengths alone will do where no other part is to be added.
        """
        if taps is not None and not activations:
            for name in (self.names or {}).values():
                if not losses[name].requires_grad:
                    raise unreached(name, losses[name])
            self.taps.append(taps)
            return
        as_is = isinstance(scale, float) and scale == 1.0
        losses = {name: losses[name] if as_is else losses[name] * scale for name in (self.names or {}).values()}
        if activations:
            self.lengths.append(gradient_lengths(losses, activations) / scale)
        elif self.complete and len(self.losses) == 1 and processes() == 1:
            self.lengths.append(parameter_lengths(losses, shared) / scale)
        else:
            vectors = gradient_vectors(losses, shared) / scale
            self.vectors = vectors if self.vectors is None else self.vectors + vectors


class Gathered(Parts):
    """The parts as one: what the batch that they are parts of would have measured."""

    def joined(self) -> tuple[Float[Tensor, " tasks"], Float[Tensor, " some"] | None]:
        """The losses of the joined batch and, if measured, the lengths of its gradients; the same in each process.

        Raises:
            RuntimeError, ValueError: the gradients have not come back (`Taps.lengths`).
        """
        lengths = self.lengths + [taps.lengths(self.names or {}) for taps in self.taps]
        losses, parts = torch.stack(self.losses).sum(dim=0), len(self.losses) * processes()  # [tasks]
        if self.vectors is not None:
            numbers = summed(torch.cat([losses, self.vectors.flatten()])) / parts
            return numbers[: len(losses)].to(losses), numbers[len(losses) :].view_as(self.vectors).norm(dim=1)
        if not lengths:
            return summed(losses) / parts, None
        if parts == 1:
            return losses, lengths[0]
        squares = torch.stack(lengths).double().square().sum(dim=0)  # [some]
        numbers = summed(torch.cat([losses, squares])) / torch.cat([losses * 0 + parts, squares * 0 + parts**2])
        return numbers[: len(losses)].to(losses), numbers[len(losses) :].sqrt()
