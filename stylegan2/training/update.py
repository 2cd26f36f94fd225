"""One player's optimizer, with lazy regularization."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stylegan2.equalized import scaled_at_once
from stylegan2.precision import exact_float32
from stylegan2.training.processes import Processes

Losses = Iterable[Float[Tensor, ""]]


class Update:
    """Adam with β = (0, 0.99) for one player; each batch may come in parts, and is divided among processes.

    A penalty that comes every k steps, k > 1, is a step of its own with its loss times k. Adam then counts k + 1 steps
    where it would count k; StyleGAN2 (arXiv 1912.04958), appendix B, corrects for it: rate·c and β^c, c = k/(k + 1).

    Args:
        module: the player; of its parameters those that require a gradient are trained.
        learning_rate: before the correction.
        interval: k; 1 adds the penalty to the loss, None leaves it out.
        parts: in which each batch comes.
        processes: among which it is divided.
    """

    def __init__(self, module: nn.Module, learning_rate: float, interval: int | None, parts: int = 1,
                 processes: Processes | None = None):
        self.module, self.interval, self.parts, self.processes = module, interval, parts, processes or Processes()
        c = interval / (interval + 1) if interval and interval > 1 else 1.0
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.adam = torch.optim.Adam(self.parameters, lr=learning_rate * c, betas=(0.0, 0.99**c), eps=1e-8, fused=True)

    def __call__(self, step: int, loss: Losses, penalty: Losses) -> None:
        """Step down the loss, and where it is the penalty's turn, down the penalty.

        Args:
            step: steps made before this one.
            loss, penalty: one number per part; the penalty is not looked at where it is not its turn.
        """
        if self.interval == 1:
            self.descend(loss, penalty)
        else:
            self.descend(loss)
            if self.interval and step % self.interval == 0:
                self.descend((), (self.interval * part for part in penalty))

    def descend(self, losses: Losses, penalties: Losses = ()) -> None:
        """One step of Adam along the mean over the parts; penalties are exact, forward and backward."""
        self.adam.zero_grad(set_to_none=True)
        with scaled_at_once(self.module):
            self.walk_back(losses)
            with exact_float32():
                self.walk_back(penalties)
        self.processes.average([p.grad for p in self.parameters if p.grad is not None])
        self.adam.step()

    def walk_back(self, losses: Losses) -> None:
        """Add the gradients of the mean over the parts."""
        for loss in losses:
            (loss / self.parts if self.parts > 1 else loss).backward()
