"""python -m stylegan2 sample | record"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from stylegan2.images import save_grid
from stylegan2.training.checkpoint import checkpoints, load_tensors, save_tensors
from stylegan2.training.config import Settings
from stylegan2.weights import load_generator, sample


@dataclass
class Sample:
    """Write a grid of images from the averaged generator of a run."""

    run: Path = Path("runs/toyfaces-32")
    """Folder of a run or of a record."""
    out: Path = Path("samples.png")
    """Where the grid goes."""
    rows: int = 4
    columns: int = 8
    psi: float = 1.0
    """Truncation: 1 gives all the variety, 0 the mean image; 0.7 is usual."""
    seed: int = 0
    """Of the latents."""
    label: int | None = None
    """The class to draw, where the run was trained with classes; all in turn when not given."""

    def execute(self) -> None:
        count = self.rows * self.columns
        labels = None if self.label is None else torch.full([count], self.label)
        images = sample(load_generator(self.run), count, self.psi, self.seed, labels)
        save_grid(images, self.out, self.columns)
        print(f"wrote {self.out}")


@dataclass
class Record:
    """Copy what is worth keeping of a run: settings, history, a sample grid, the averaged generator, and how it was
    made.
    """

    run: Path
    """Folder of the run."""
    to: Path
    """Folder of the record, such as results/toyfaces-32."""

    def execute(self) -> None:
        newest = checkpoints(self.run)
        if not newest:
            raise FileNotFoundError(f"there is no checkpoint in {self.run}")
        tensors, state = load_tensors(newest[-1])
        self.to.mkdir(parents=True, exist_ok=True)
        for name in ("settings.json", "history.jsonl"):
            shutil.copy(self.run / name, self.to / name)
        average = {name: tensor for name, tensor in tensors.items() if name.startswith("average.")}
        seen = {name: state[name] for name in ("steps", "batch_size")}
        save_tensors(self.to / "generator.safetensors", average, seen)
        save_grid(sample(load_generator(self.to), 64), self.to / "samples.png", columns=8)
        settings = Settings.load(self.to / "settings.json")
        made = {"command": settings.command(), **json.loads((self.run / "run.json").read_text()), "seed": settings.seed,
                "images": state["steps"] * state["batch_size"], "minutes": round(state["seconds"] / 60, 2)}
        (self.to / "run.json").write_text(json.dumps(made, indent=2) + "\n")
        print(f"wrote {self.to}")
