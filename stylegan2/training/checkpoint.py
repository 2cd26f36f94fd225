"""Checkpoints that a kill cannot spoil: one safetensors file each, written beside the last and renamed into place."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

State = dict[str, Any]
KEEP = 2


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or that does not fit the networks."""


def write_text(path: Path, text: str) -> None:
    """Write a small file: all of it, or nothing and what was there before stays."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    os.replace(part, path)


def save_tensors(path: Path, tensors: dict[str, Tensor], state: State) -> None:
    """Write tensors and a JSON-able state to `path`: all of it, or nothing and what was there before stays.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    part = path.with_name(path.name + ".part")
    try:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(tensors, part, {"state": json.dumps(state)})
        with open(part, "rb") as file:
            os.fsync(file.fileno())  # on the disk before it takes the name
        os.replace(part, path)
    except SafetensorError as error:
        raise OSError(f"could not write {path}: {error}") from error
    finally:
        part.unlink(missing_ok=True)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], State]:
    """What `save_tensors` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is cut short, or not one of ours.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with safe_open(path, "pt") as file:
            state = json.loads((file.metadata() or {})["state"])
            return {name: file.get_tensor(name) for name in file.keys()}, state  # noqa: SIM118 (not a dict)
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): it is cut short or was not written by this program. "
                              "Delete it to go on from the checkpoint before it") from error


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


def load_module(name: str, module: torch.nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Put back a module's state_dict that was saved under the prefix `name` (or, when that is empty, under none).

    Raises:
        CheckpointError: a tensor is missing, is one too many, or has another shape; the first is named.
    """
    prefix = name + "." if name else ""
    saved = {key[len(prefix):]: value for key, value in tensors.items() if key.startswith(prefix)}
    wanted = module.state_dict()
    for key in sorted(saved.keys() ^ wanted.keys()):
        what = "missing in the file" if key in wanted else "not part of this network"
        raise CheckpointError(f"{path} was written by another network: {key} is {what}. "
                              "Use the settings that it was trained with")
    for key, value in saved.items():
        if value.shape != wanted[key].shape:
            raise CheckpointError(f"{path} does not fit these settings: {key} is {list(value.shape)} in the file and "
                                  f"{list(wanted[key].shape)} here. Use the settings that it was trained with")
    module.load_state_dict(saved)
