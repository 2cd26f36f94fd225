"""What several commands do first: load a generator, and see to its classes."""

from pathlib import Path

import torch

from stylegan2.training.folder import last_stretch
from stylegan2.weights import TrainedGenerator, load


def load_here(run: Path) -> TrainedGenerator:
    """The generator of a run or a record, on a GPU where there is one.

    Raises:
        FileNotFoundError, CheckpointError: as `load` says.
    """
    return load(run).to("cuda" if torch.cuda.is_available() else "cpu")


def check_label(trained: TrainedGenerator, run: Path, label: int | None) -> None:
    """
    Args:
        label: the class that is asked for; None for none in particular.

    Raises:
        ValueError: the run has no classes; or it has, and not this one.
    """
    count = trained.mapping.n_classes
    if label is not None and not count:
        raise ValueError(f"the run in {run} was trained without classes: leave out --label")
    if label is not None and label >= count:
        raise ValueError(f"there is no class {label}: {classes_of(run, count)}")


def need_label(trained: TrainedGenerator, run: Path, label: int | None) -> None:
    """
    Raises:
        ValueError: as `check_label` says; or the run has classes and none is chosen.
    """
    check_label(trained, run, label)
    if label is None and trained.mapping.n_classes:
        raise ValueError("this run was trained with classes, and one must be chosen: "
                         f"{classes_of(run, trained.mapping.n_classes)}")


def classes_of(run: Path, count: int) -> str:
    """The classes by number and name, in a sentence."""
    names = last_stretch(run).get("set", {}).get("classes", [])
    if len(names) != count:
        return f"give --label N, from 0 to {count - 1}"
    listed = ", ".join(f"{number} ({name})" for number, name in enumerate(names[:20]))
    return f"give --label N: {listed}{' …' if count > 20 else ''}"
