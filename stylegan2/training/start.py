"""Training that starts from a trained network instead of random weights."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from stylegan2.files import load_module, load_tensors, with_prefix
from stylegan2.training.checkpoint import checkpoints
from stylegan2.training.config import Settings
from stylegan2.training.players import Players

SIZES = ("model", "resolution", "n_features", "max_features", "d_latent",
         "mapping_layers", "style", "generator", "discriminator", "labels")
"""Settings that the tensors of the networks follow from."""


class Start(NamedTuple):
    """Trained networks to go on from."""

    settings: Settings
    """Of their sizes; what else they hold was the earlier run's."""
    tensors: dict[str, Tensor]
    """Named as in a checkpoint: `average.` and perhaps `trained.`, `discriminator.`,
    `path_length.`"""
    path: Path
    """What they come from: a folder."""
    sha256: str
    """Of the file with the generator."""

    @property
    def name(self) -> str:
        """Path and checksum, as `read_start` takes them."""
        return f"{self.path.absolute()}#sha256={self.sha256}"

    @property
    def n_classes(self) -> int:
        """Classes that the mapping network knows, 0 for none."""
        embedding = self.tensors.get("average.mapping.embedding.linear.weight.weight")
        return 0 if embedding is None else embedding.shape[1]  # [features, classes]


def read_start(start: str) -> Start:
    """The networks of a run (its newest checkpoint), of a record, or of a converted folder.

    Args:
        start: the folder; with `#sha256=…` behind it, what its file must be.

    Raises:
        FileNotFoundError: there is nothing.
        CheckpointError: a file is cut short.
        ValueError: the checksum is another; or settings.json is damaged.
    """
    name, _, wanted = start.partition("#sha256=")
    folder = Path(name)
    settings = Settings.load(folder / "settings.json")
    files = files_of(folder)
    tensors = {key: tensor for path in files for key, tensor in load_tensors(path)[0].items()}
    found = hashlib.sha256(files[0].read_bytes()).hexdigest()
    if wanted not in ("", found):
        raise ValueError(f"{files[0]} has the checksum {found}, not {wanted}: it is another "
                         "network than the one that was meant")
    return Start(settings, tensors, folder, found)


def files_of(folder: Path) -> list[Path]:
    """
    Raises:
        FileNotFoundError: the folder holds no networks.
    """
    names = ("generator.safetensors", "discriminator.safetensors")
    files = [folder / name for name in names if (folder / name).exists()]
    if not files and not (files := checkpoints(folder)[-1:]):
        raise FileNotFoundError(f"{folder} holds no network to start from: name the folder of a "
                                "run, of a record or of a converted network")
    return files


def started_from(settings: Settings, default: Settings) -> Settings:
    """The defaults of a run that starts from networks with these settings."""
    kept = {name: getattr(settings, name) for name in (*SIZES, "noise", "minibatch_std")}
    return replace(default, growing=False, **kept)


def take_over(players: Players, start: Start) -> bool:
    """Give the players the weights of trained networks; the generator is the averaged one where
    there is no other. The running mean of path lengths is that of the generator.

    Returns:
        whether there was a discriminator: without one, that of the players stays as it is.

    Raises:
        ValueError: they know other classes; or nothing is there of what is to be frozen.
        CheckpointError: the networks have other sizes than the players.
    """
    if (known := start.n_classes) != (wanted := players.mapping.n_classes):
        raise ValueError(f"{start.path} was trained with {known or 'no'} classes, and the set has "
                         f"{wanted or 'none that are asked for'}: start from another network, "
                         f"or leave out --labels")
    if players.settings.freeze_d and not with_prefix("discriminator", start.tensors):
        raise ValueError(f"{start.path} has no discriminator, of which --freeze-d could keep "
                         "something: leave that out")
    average = with_prefix("average", start.tensors)
    found = {"average": average, "trained": with_prefix("trained", start.tensors) or average}
    for name in ("discriminator", "path_length"):
        if part := with_prefix(name, start.tensors):
            found[name] = part
    for name, part in found.items():
        load_module("", getattr(players, name), part, start.path)
    return "discriminator" in found
