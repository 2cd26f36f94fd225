"""The two things the weighter asks of torch.distributed. Both look when they are called, not when they are imported."""

from __future__ import annotations

from torch import Tensor
from torch import distributed as dist


def processes() -> int:
    """How many processes train together; 1 where no process group has been initialised (yet)."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def summed(tensor: Tensor) -> Tensor:
    """The sum over all processes, the same bits on each; the tensor itself where there is one process."""
    if processes() > 1:
        tensor = tensor.clone()
        dist.all_reduce(tensor)
    return tensor
