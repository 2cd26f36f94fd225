"""A trained generator on disk: generator.safetensors and the settings.json beside it."""

from pathlib import Path

import torch

from stylegan2.files import check_fit, load_module, load_tensors, with_prefix
from stylegan2.training.checkpoint import checkpoints
from stylegan2.training.config import Settings
from stylegan2.training.players import Growing, TrainedGenerator, make_generator, make_mapping, sample

__all__ = ["TrainedGenerator", "load_generator", "sample"]


def load_generator(folder: str | Path) -> TrainedGenerator:
    """The averaged generator of a run's folder (its newest checkpoint), or of a record's (generator.safetensors).

    Raises:
        FileNotFoundError: the folder holds neither.
        CheckpointError: a file is cut short or does not fit its settings.
    """
    folder = Path(folder)
    path = folder / "generator.safetensors"
    if not path.exists():
        if not checkpoints(folder):
            raise FileNotFoundError(f"{folder} holds no generator.safetensors and no checkpoint of a run: name the "
                                    "folder of a run with --run, or of a record, such as results/toyfaces-32")
        path = checkpoints(folder)[-1]
    tensors, state = load_tensors(path)
    settings = Settings.load(folder / "settings.json")
    classes = tensors.get("average.mapping.embedding.linear.weight.weight")  # [features, classes]
    n_classes = 0 if classes is None else classes.shape[-1]
    with torch.device("meta"):  # settings that ask for more than the file has are refused before it is allocated
        check_fit(with_prefix("average", tensors), make_trained(settings, n_classes), path)
    trained = make_trained(settings, n_classes)
    load_module("average", trained, tensors, path)
    if settings.growing and isinstance(trained.generator, Growing) and "steps" in state:
        trained.generator.stage = settings.stage(state["steps"] * state["batch_size"])
    return trained.eval()


def make_trained(settings: Settings, n_classes: int) -> TrainedGenerator:
    """Networks of these sizes, not trained."""
    return TrainedGenerator(settings, make_mapping(settings, n_classes), make_generator(settings))
