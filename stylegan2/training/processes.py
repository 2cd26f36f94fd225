"""The processes of a run: one, or as many as `accelerate launch` started.

Every process holds the whole networks and takes its share of each batch. What it takes are every count-th samples, not
a block of them: sample i of a batch belongs to group i mod (number of groups) of the minibatch standard deviation, so
that a strided share holds whole groups, and the processes together compute what one process would.

The gradients of a step are averaged once, after the backward passes, by Accelerate. `DistributedDataParallel` would do
it during the backward pass, but counts on every parameter taking part in every forward and backward pass. Here the
discriminator is frozen in the generator's step, R1 alone gives the last bias no gradient, and a growing network leaves
layers out.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from jaxtyping import Shaped
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This process among the others.

    Args:
        rank: number of this process, from 0.
        count: how many there are.
        device: that this process computes on.
    """

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def share(self, batch: Shaped[Tensor, "batch *rest"]) -> Shaped[Tensor, "share *rest"]:
        """The samples of a batch that this process takes."""
        return batch[self.rank::self.count]

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over the processes."""
        if self.count == 1 or not tensors:
            return
        from accelerate.utils import reduce

        mean = reduce(torch.cat([tensor.flatten() for tensor in tensors]), "mean")
        for tensor, part in zip(tensors, mean.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def any(self, here: bool) -> bool:
        """Whether it is so in any process."""
        if self.count == 1:
            return here
        from accelerate.utils import reduce

        return bool(reduce(torch.tensor(float(here), device=self.device), "sum") > 0)

    def collect(self, thing: T) -> list[T]:
        """What every process gives, in the order of their ranks."""
        if self.count == 1:
            return [thing]
        from accelerate.utils import gather_object

        return gather_object([thing])

    @contextlib.contextmanager
    def first_alone(self) -> Iterator[None]:
        """The first process does what is inside before the others may."""
        if self.rank > 0:
            self.wait()
        yield
        if self.rank == 0:
            self.wait()

    def wait(self) -> None:
        """Go on when all processes have come here."""
        if self.count > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()


def join_processes(device: str | None = None) -> Processes:
    """This process alone; or, under `accelerate launch` or torchrun, its place among the others.

    Args:
        device: cpu, cuda, cuda:1 …; a GPU where there is one when not given. In several processes cpu, or each its own
            GPU.

    Raises:
        ValueError: there is no such device here; or one GPU is named for several processes; or they do not find each
            other.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes(device=usable_device(device))
    if device not in (None, "cpu", "cuda"):
        raise ValueError(f"device is {device} for {os.environ['WORLD_SIZE']} processes: leave it out (each takes a GPU "
                         "of its own), or give cpu")
    try:
        from accelerate import PartialState
    except ImportError:
        raise ValueError("several processes need the package accelerate: pip install accelerate") from None
    state = PartialState(cpu=device == "cpu" or not torch.cuda.is_available())
    if state.num_processes != int(os.environ["WORLD_SIZE"]):  # else each would train alone, into the same folder
        raise ValueError(f"{os.environ['WORLD_SIZE']} processes were started, and accelerate joined "
                         f"{state.num_processes}: look at what `accelerate env` says")
    return Processes(state.process_index, state.num_processes, state.device)


def usable_device(name: str | None) -> torch.device:
    """The device of this name; a GPU where there is one, when none is given.

    Raises:
        ValueError: there is no such device here.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.zeros(1, device=device).item()  # which a device without numbers ("meta") refuses
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        message = f"this torch cannot use the device {name!r} ({reason}); leave --device out, or use cpu"
        raise ValueError(message) from error
    return device
