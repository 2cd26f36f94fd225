"""Trained networks from disk: a run, a record, a converted folder, or somebody else's checkpoint."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from stylegan2.convert.ours import as_ours
from stylegan2.convert.reading import read_checkpoint
from stylegan2.files import check_fit, load_module, load_tensors, save_tensors, with_prefix
from stylegan2.training.checkpoint import checkpoints
from stylegan2.training.config import Settings
from stylegan2.training.players import Growing, TrainedGenerator, make_generator, make_mapping, sample

__all__ = ["Networks", "TrainedGenerator", "generator_of", "load", "read_networks", "sample", "save"]


class Networks(NamedTuple):
    """Everything that a folder or a file has of a trained network."""

    settings: Settings
    """Of their sizes; of a run and of a record also all else."""
    tensors: dict[str, Tensor]
    """Named as in a checkpoint of a run: `average.…`, and where there are such `trained.…`,
    `discriminator.…`, `path_length.…`."""
    path: Path
    sha256: str
    """Of the file with the generator."""
    images: int
    """That a run has seen; 0 where that is not known."""
    notes: tuple[str, ...] = ()
    """What was left out, or made up, in a sentence each."""

    @property
    def name(self) -> str:
        """Path and checksum, as `read_networks` takes them."""
        return f"{self.path.absolute()}#sha256={self.sha256}"

    @property
    def n_classes(self) -> int:
        """Classes that the mapping network knows, 0 for none."""
        embedding = self.tensors.get("average.mapping.embedding.linear.weight.weight")
        return 0 if embedding is None else embedding.shape[1]  # [features, classes]


def read_networks(source: str | Path) -> Networks:
    """The networks of a run (its newest checkpoint), of a record or of a converted folder; or of a file
    in one of the formats of `stylegan2.convert`.

    Args:
        source: the folder or file; with `#sha256=…` behind it, what the file must be.

    Raises:
        FileNotFoundError: there is nothing.
        CheckpointError: a file of ours is cut short.
        ValueError: the checksum is another; settings.json is damaged; or as `read_checkpoint` says.
    """
    name, _, wanted = str(source).partition("#sha256=")
    path = Path(name)
    files = files_of(path) if path.is_dir() else [path]
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}: name the folder of a run, of a record or of a "
                                "converted network, or a checkpoint file")
    digest = sha256_of(files[0])
    if wanted not in ("", digest):
        raise ValueError(f"{files[0]} has the checksum {digest}, not {wanted}: it is another network than "
                         "the one that was meant")
    if path.is_dir():
        tensors, state = load_tensors(files[0])
        for other in files[1:]:
            tensors |= load_tensors(other)[0]
        images = state.get("steps", 0) * state.get("batch_size", 0)
        return Networks(Settings.load(path / "settings.json"), tensors, path, digest, images)
    checkpoint = read_checkpoint(path)
    try:
        settings, tensors, notes = as_ours(checkpoint, path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return Networks(settings, tensors, path, digest, 0, notes)


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def files_of(folder: Path) -> list[Path]:
    """
    Raises:
        FileNotFoundError: the folder holds no networks.
    """
    files = [folder / f"{name}.safetensors" for name in ("generator", "discriminator")]
    files = [path for path in files if path.exists()]
    if not files and not (files := checkpoints(folder)[-1:]):
        raise FileNotFoundError(f"{folder} holds no generator.safetensors and no checkpoint of a run: name the "
                                "folder of a run with --run, or of a record, such as results/toyfaces-32")
    return files


def load(source: str | Path) -> TrainedGenerator:
    """The averaged generator of whatever `read_networks` reads, in evaluation mode, on the CPU.

    Raises:
        FileNotFoundError, CheckpointError, ValueError: as `read_networks` says; or a tensor does not fit the
            settings beside it.
    """
    return generator_of(read_networks(source))


def generator_of(networks: Networks, name: str = "average") -> TrainedGenerator:
    """A generator of networks that were read, in evaluation mode, on the CPU.

    Args:
        name: "average", or "trained" for the one that was being trained, where it is there.

    Raises:
        CheckpointError: a tensor does not fit the settings beside it.
    """
    settings, path = networks.settings, networks.path
    tensors = with_prefix(name, networks.tensors)
    with torch.device("meta"):  # settings that ask for more than the file has are refused before it is allocated
        check_fit(tensors, make_trained(settings, networks.n_classes), path)
    trained = make_trained(settings, networks.n_classes)
    load_module("", trained, tensors, path)
    if settings.growing and isinstance(trained.generator, Growing) and networks.images:
        trained.generator.stage = settings.stage(networks.images)
    return trained.eval()


def save(trained: TrainedGenerator, folder: Path) -> None:
    """Write generator.safetensors and settings.json, which `load` reads, into a folder that is there."""
    tensors = {f"average.{name}": tensor for name, tensor in trained.state_dict().items()}
    save_tensors(folder / "generator.safetensors", tensors, state={})
    trained.settings.save(folder / "settings.json")


def make_trained(settings: Settings, n_classes: int) -> TrainedGenerator:
    """Networks of these sizes, not trained."""
    return TrainedGenerator(settings, make_mapping(settings, n_classes), make_generator(settings))
