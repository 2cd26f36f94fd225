"""Everything that the next step depends on, as named tensors."""

import logging
from pathlib import Path

import torch
from torch import Tensor

from stylegan2.files import load_module
from stylegan2.training.checkpoint import adam_tensors, load_adam
from stylegan2.training.step import Step

log = logging.getLogger(__name__)


def state_tensors(step: Step) -> dict[str, Tensor]:
    """Networks, averages, Adam's moments, and where every random generator stands. All processes must call it."""
    tensors = dict(step.players.state_dict())
    tensors |= adam_tensors("generator_adam", step.update_generator.adam)
    tensors |= adam_tensors("discriminator_adam", step.update_discriminator.adam)
    tensors["random.latents"] = step.random.get_state()
    for rank, states in enumerate(step.processes.collect(random_states(step.processes.device))):
        tensors |= {f"random.{kind}.{rank}": state for kind, state in states.items()}
    return tensors


def restore(step: Step, tensors: dict[str, Tensor], images: int, processes_before: int, path: Path) -> None:
    """Put everything back that `state_tensors` gave.

    Args:
        step: made with the settings of the run.
        tensors: the state.
        images: seen until then.
        processes_before: how many processes wrote it.
        path: of the checkpoint, for messages.

    Raises:
        CheckpointError: it does not fit the networks.
    """
    children = {name for name, _ in step.players.named_children()}
    load_module("", step.players, {k: v for k, v in tensors.items() if k.split(".")[0] in children}, path)
    load_adam("generator_adam", step.update_generator.adam, tensors)
    load_adam("discriminator_adam", step.update_discriminator.adam, tensors)
    step.random.set_state(tensors["random.latents"])
    rank, count = step.processes.rank, step.processes.count
    if count == processes_before:
        torch.set_rng_state(tensors[f"random.cpu.{rank}"])
        if step.processes.device.type == "cuda" and f"random.cuda.{rank}" in tensors:
            torch.cuda.set_rng_state(tensors[f"random.cuda.{rank}"], step.processes.device)
    else:
        torch.manual_seed(step.settings.seed + rank + 1_000_003 * (1 + images))
        if rank == 0:
            log.warning("%s was written by %d process%s, and %d go on: networks, optimizers, latents and the order of "
                        "the data are the same; noise maps, augmentation and path-length directions are drawn anew, "
                        "and sums are rounded otherwise", path, processes_before, "es" * (processes_before > 1), count)


def random_states(device: torch.device) -> dict[str, Tensor]:
    """Of torch's own generators in this process."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states
