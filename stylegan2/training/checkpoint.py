"""The checkpoints of a run: one safetensors file each, of which the newest few are kept."""

from pathlib import Path

import torch
from torch import Tensor

from stylegan2.files import State, save_tensors

KEEP = 2


def save_checkpoint(run: Path, images: int, tensors: dict[str, Tensor], state: State) -> Path:
    """Write the checkpoint of a run at so many images, and delete all but the newest few."""
    path = run / f"checkpoint-{images:010d}.safetensors"
    save_tensors(path, tensors, state)
    for old in checkpoints(run)[:-KEEP]:
        old.unlink()
    return path


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted(run.glob("checkpoint-*.safetensors"))


def adam_tensors(name: str, adam: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Adam's moments and step counts, by the position of their parameter."""
    state = adam.state_dict()["state"]
    return {f"{name}.{i}.{key}": value for i, moments in state.items() for key, value in moments.items()}


def load_adam(name: str, adam: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what `adam_tensors` gave; rates and betas stay those of `adam`."""
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(name + "."):
            index, field = key[len(name) + 1:].split(".")
            moments.setdefault(int(index), {})[field] = value
    adam.load_state_dict({**adam.state_dict(), "state": moments})
