"""What is gathered between two updates of the weights: from micro-batches, through
views of activations, and from the processes that train together.

The batch that they are parts of has the mean of their losses. On parameters its
gradient is the mean of theirs. At activations every sample has a gradient of its own,
which the mean divides by the number of parts: lengths add as squares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial, reduce

import torch
from torch import Tensor

from gradnorm._typing import Float
from gradnorm.distributed import processes, summed
from gradnorm.linear import parameter_lengths
from gradnorm.measure import gradient_lengths, gradient_vectors, length, unreached


class Gathered:
    """The losses of a step and, where it is due, their gradients: part by part, then
    joined.

    A part is a micro-batch of one process. It is measured in one of three places: by
    `measure` at activations or on parameters, or through `views` of activations in the
    backward pass of a total that is listened to.

    Args:
        due: whether the step ends with an update; the losses alone are gathered if not.
    """

    def __init__(self, due: bool) -> None:
        self.due = due
        self.complete = False  # the last part is in
        self.names: dict[int, str] = {}  # of the losses to balance, by position
        self.losses: list[Tensor] = []  # of each part, [tasks]
        self.lengths: list[Tensor] = []  # of the parts measured at activations, [some]
        self.vectors: Tensor | None = None  # summed over parts, [some, numbers]
        # Of each part with views: the lengths that came back, by task; w_i times what
        # the total was multiplied by, [tasks].
        self.noted: dict[int, dict[int, list[Tensor]]] = {}
        self.factors: dict[int, Tensor] = {}

    def views(self, activations: Tensor, count: int) -> tuple[Tensor, ...]:
        """The same activations `count` times, for one loss of the next part each.

        A hook notes how long the gradient is that comes back through each view.
        """
        part = len(self.losses)
        self.noted.setdefault(part, {})
        views = tuple(activations.view_as(activations) for _ in range(count))
        for task, view in enumerate(views):
            view.register_hook(partial(self.note, part, task))
        return views

    def note(self, part: int, task: int, gradient: Tensor) -> None:
        """Called by a view's hook; what comes back before the total's pass is not
        noted.
        """
        if part in self.factors:
            noted = self.noted[part].setdefault(task, [])
            noted.append(length(gradient.detach()))

    def add(
        self, losses: Float[Tensor, " tasks"], names: dict[int, str], complete: bool
    ) -> None:
        """Begin with another part: its losses, and which of them are balanced.

        Raises:
            ValueError: other losses are balanced than in the parts before.
        """
        if self.losses and self.due and self.names != names:
            told = f"{', '.join(names.values())} after {', '.join(self.names.values())}"
            raise ValueError(
                f"loss_mask must be the same in all micro-batches of a step, got {told}"
            )
        self.names, self.complete = names, complete
        self.losses.append(losses)

    def measure(
        self,
        losses: Mapping[str, Tensor],
        activations: Sequence[Tensor],
        shared: Sequence[Tensor],
        scale: float | Tensor,
    ) -> None:
        """Measure the part at activations or, where none are given, on parameters.

        The gradients are those of the losses under a scale, lest they vanish in
        float16; it is divided out again. On parameters the lengths alone will do where
        no other part is to be added.

        Raises:
            ValueError: nowhere to measure, or a loss that has no gradient there.
        """
        self.noted.pop(len(self.losses) - 1, None)
        if not (isinstance(scale, float) and scale == 1.0):
            losses = {name: loss * scale for name, loss in losses.items()}
        if activations:
            self.lengths.append(gradient_lengths(losses, activations) / scale)
        elif self.complete and len(self.losses) == 1 and processes() == 1:
            self.lengths.append(parameter_lengths(losses, shared) / scale)
        else:
            vectors = gradient_vectors(losses, shared) / scale
            self.vectors = vectors if self.vectors is None else self.vectors + vectors

    def listen(
        self,
        losses: Mapping[str, Tensor],
        total: Float[Tensor, ""],
        weights: Float[Tensor, " tasks"],
    ) -> bool:
        """Have the part measured through its views, if it has any, in the backward pass
        of this total, in which the losses have these weights.

        Raises:
            ValueError: a loss without a graph.
        """
        part = len(self.losses) - 1
        if part not in self.noted:
            return False
        for name, loss in losses.items():
            if not loss.requires_grad:
                raise unreached(name, loss)
        # What comes back to the total is the factor that somebody multiplied it by.
        total.register_hook(
            lambda factor: self.factors.update({part: weights * factor.detach()})
        )
        return True

    def joined(
        self,
    ) -> tuple[Float[Tensor, " tasks"], Float[Tensor, " some"] | None]:
        """The losses of the joined batch and, if the step is due, the lengths of its
        gradients; the same in each process.

        Raises:
            RuntimeError: the gradients are to come out of a backward pass, and none
                ran.
            ValueError: nothing came back from a loss.
        """
        losses = reduce(torch.add, self.losses)  # [tasks]
        parts = len(self.losses) * processes()
        if self.vectors is not None:
            numbers = summed(torch.cat([losses, self.vectors.flatten()])) / parts
            vectors = numbers[len(losses) :].view_as(self.vectors)
            return numbers[: len(losses)].to(losses), vectors.norm(dim=1).to(losses)
        lengths = self.lengths + [self.returned(part) for part in self.noted]
        if parts == 1:
            return losses, lengths[0].to(losses) if lengths else None
        if not lengths:
            return summed(losses) / parts, None
        squares = torch.stack(lengths).double().square().sum(dim=0)  # [some]
        joined = summed(torch.cat([losses, squares]))
        means = joined[: len(losses)] / parts
        return means.to(losses), (joined[len(losses) :].sqrt() / parts).to(losses)

    def returned(self, part: int) -> Float[Tensor, " some"]:
        """‖∇_z L_i‖ of a part's balanced losses, z being what it has views of."""
        if part not in self.factors:
            raise RuntimeError(
                "update() needs the gradients of the backward pass: "
                "call total.backward() before it"
            )
        noted, found = self.noted[part], []
        for task, name in self.names.items():
            if task not in noted:
                raise unreached(name)
            pieces = noted[task]
            found.append(pieces[0] if len(pieces) == 1 else torch.stack(pieces).norm())
        factors = self.factors[part]
        if len(found) < len(factors):
            factors = factors[list(self.names)]
        return torch.stack(found) / factors
