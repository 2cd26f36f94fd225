"""python -m stylegan2 sample | record"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch

from stylegan2.commands.loading import check_label, load_here
from stylegan2.explore import image_side
from stylegan2.fields import Few, Psi, Range, Seed, check_fields
from stylegan2.files import load_tensors, new_folder, output, save_tensors, write_text
from stylegan2.images import check_grid, check_picture, save_grid, save_picture, tile
from stylegan2.training.checkpoint import checkpoints
from stylegan2.training.config import Settings
from stylegan2.training.folder import told, unlocated
from stylegan2.weights import load, sample


@dataclass
class Sample:
    """Write a grid of images from the averaged generator of a run."""

    run: Path = Path("runs/toyfaces-32")
    """Folder of a run or of a record."""
    out: Path = Path("samples.png")
    """Where the grid goes."""
    rows: Few = 4
    columns: Few = 8
    psi: Psi = 1.0
    """Truncation: 1 gives all the variety, 0 the mean image; 0.7 is usual."""
    seed: Seed = 0
    """Of the latents."""
    label: Annotated[int, Range(0, 10**6)] | None = None
    """The class to draw, where the run was trained with classes; all in turn when not given."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_picture(self.out)

    def execute(self) -> None:
        trained, count = load_here(self.run), self.rows * self.columns
        check_label(trained, self.run, self.label)
        check_grid(self.rows, self.columns, image_side(trained))
        with output(self.out, "picture") as part:
            labels = None if self.label is None else torch.full([count], self.label)
            save_picture(tile(sample(trained, count, self.psi, self.seed, labels), self.columns), part)
        print(f"wrote {self.out}")


@dataclass
class Record:
    """Copy what is worth keeping of a run: settings, history, a sample grid, the averaged generator, and how it was
    made.
    """

    run: Path
    """Folder of the run."""
    to: Path
    """New folder for the record, such as results/toyfaces-32."""

    def execute(self) -> None:
        newest = checkpoints(self.run)
        if not newest:
            raise FileNotFoundError(f"there is no checkpoint in {self.run}")
        tensors, state = load_tensors(newest[-1])
        trained, settings = load(self.run), unlocated(Settings.load(self.run / "settings.json"))
        made = {**told(self.run), "seed": settings.seed, "images": state["steps"] * state["batch_size"],
                "minutes": round(state["seconds"] / 60, 2),
                "processor_minutes": round(state.get("processor_seconds", 0.0) / 60, 2)}
        with new_folder(self.to) as folder:
            shutil.copy(self.run / "history.jsonl", folder / "history.jsonl")
            average = {name: tensor for name, tensor in tensors.items() if name.startswith("average.")}
            seen = {name: state[name] for name in ("steps", "batch_size")}
            save_tensors(folder / "generator.safetensors", average, seen)
            settings.save(folder / "settings.json")
            write_text(folder / "run.json", json.dumps(made, indent=2) + "\n")
            save_grid(sample(trained, 64), folder / "samples.png", columns=8)
        print(f"wrote {self.to}")
