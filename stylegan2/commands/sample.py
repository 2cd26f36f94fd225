"""python -m stylegan2 sample | record"""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch

from stylegan2.commands.loading import check_label, load_here
from stylegan2.explore import image_side
from stylegan2.fields import Few, Psi, Range, Seed, check_fields
from stylegan2.files import load_tensors, new_folder, output, save_tensors, write_text
from stylegan2.images import check_grid, check_picture, save_grid, save_picture, tile
from stylegan2.training.checkpoint import checkpoints
from stylegan2.training.config import Settings
from stylegan2.training.folder import told, unlocated
from stylegan2.weights import TrainedGenerator, load, sample

MAX_SEEDS = 1_000_000


@dataclass
class Sample:
    """Write images from the averaged generator of a run: a grid, or with --seeds and --to a file for each seed."""

    run: Path = Path("runs/toyfaces-32")
    """Folder of a run, of a record or of a converted network, or a checkpoint file."""
    out: Path = Path("samples.png")
    """Where the grid goes."""
    seeds: str | None = None
    """A picture for each of these seeds, such as 0-99 or 3,5,8-12, into the folder --to."""
    to: Path | None = None
    """New folder for the pictures of --seeds: seed0000.png, …"""
    rows: Few = 4
    columns: Few = 8
    psi: Psi = 1.0
    """Truncation: 1 gives all the variety, 0 the mean image; 0.7 is usual."""
    cutoff: Annotated[int, Range(0, 64)] | None = None
    """Truncate only the first so many layers, so that fine detail keeps its variety."""
    noise: Literal["fixed", "fresh", "none"] | None = None
    """Noise maps: those stored with the network, new ones for every image, or none; as in training, but fixed, when
    not given."""
    seed: Seed = 0
    """Of the latents of a grid."""
    label: Annotated[int, Range(0, 10**6)] | None = None
    """The class to draw, where the run was trained with classes; all in turn when not given."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_picture(self.out)
        if (self.seeds is None) != (self.to is None):
            raise ValueError("--seeds and --to go together: a picture for each seed, into a new folder")

    def execute(self) -> None:
        trained = load_here(self.run)
        check_label(trained, self.run, self.label)
        if self.noise is not None:
            trained.noise = {"fixed": "const", "fresh": "random", "none": None}[self.noise]
        if self.to is not None and self.seeds is not None:
            return self.write_each(trained, seeds_of(self.seeds), self.to)
        check_grid(self.rows, self.columns, image_side(trained))
        count = self.rows * self.columns
        with output(self.out, "picture") as part:
            images = sample(trained, count, self.psi, self.seed, self.labels(count), self.cutoff)
            save_picture(tile(images, self.columns), part)
        print(f"wrote {self.out}")

    def write_each(self, trained: TrainedGenerator, seeds: list[int], to: Path) -> None:
        """A picture for each seed: all of them, or nothing."""
        digits = max(4, len(str(max(seeds))))
        with new_folder(to) as folder:
            for seed in seeds:
                image = sample(trained, 1, self.psi, seed, self.labels(1), self.cutoff)
                save_picture(tile(image, 1), folder / f"seed{seed:0{digits}}.png")
        print(f"wrote {len(seeds)} pictures into {to}")

    def labels(self, count: int) -> torch.Tensor | None:
        return None if self.label is None else torch.full([count], self.label)


def seeds_of(text: str) -> list[int]:
    """The numbers that a list such as 3,5,8-12 names, each once, in its order.

    Raises:
        ValueError: it is no such list, or names more than a million.
    """
    seeds: dict[int, None] = {}
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if last < first:
            raise ValueError(f"seeds is {text!r}: give numbers and spans, such as 0-99 or 3,5,8-12")
        if last - first + len(seeds) >= MAX_SEEDS:
            raise ValueError(f"seeds is {text!r}: these are more than {MAX_SEEDS:,} pictures; make them in parts")
        seeds |= dict.fromkeys(range(first, last + 1))
    return list(seeds)


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
