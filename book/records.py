"""The recorded runs that pages replay: `results/`, in a checkout or in an installation."""

from __future__ import annotations

import json
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional

from stylegan2.images import to_float

ROOT = Path(__file__).resolve().parent.parent


def record(name: str) -> Path:
    """The folder of a recorded run.

    In a checkout it is `results/<name>`; `pip install` puts a copy under `share/` of the environment, which is what a
    notebook finds on Colab.

    Raises:
        FileNotFoundError: there is no record of that name.
    """
    shelves = [ROOT / "results", Path(sysconfig.get_path("data")) / "share/annotated-stylegan2-gradnorm/results"]
    for shelf in shelves:
        if (shelf / name).is_dir():
            return shelf / name
    known = sorted({path.name for shelf in shelves if shelf.is_dir() for path in shelf.iterdir() if path.is_dir()})
    raise FileNotFoundError(f"there is no record {name!r}; the records are {', '.join(known) or 'none'}")


def series(name: str) -> dict[str, dict[str, Any]]:
    """The runs of a recorded series, by their names in order: `book.experiments` says what each is and made them.

    Each has command, commit, device, threads, torch, python, seed, images (seen), minutes, ended (why it stopped early,
    or None), settings, history (as in history.jsonl) and measures (what was measured at so many images).

    Raises:
        FileNotFoundError: there is no record of that name.
    """
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(record(name).glob("*.json"))}


def strip(name: str, run: str) -> Path:
    """The picture of a run of a series: a row of 8 samples for each entry of its measures, the same z in every row.

    Raises:
        FileNotFoundError: there is no record of that name.
    """
    path = record(name) / f"{run}.png"
    if not path.is_file():
        raise FileNotFoundError(f"the record {name!r} has no run {run!r}")
    return path


def last_samples(name: str, run: str) -> Float[Tensor, "8 3 side side"]:
    """The samples of a run of a series at its end, in [-1, 1]: the last row of its `strip`.

    Raises:
        FileNotFoundError: there is no record of that name.
    """
    return rows_of(strip(name, run))[-1]


def on_the_way(run: Path, most: int = 6) -> dict[int, Float[Tensor, "8 3 side side"]]:
    """The first eight samples of a few of the grids that a training saved, by the images seen, in [-1, 1]; the same z
    in all, and all of one size where the network grew. Without those from before the first step; with the last.
    """
    grids = sorted((run / "samples").glob("*.png"))[1:]
    chosen = grids[:: -max(1, -(-len(grids) // most))][::-1]
    rows = {int(path.stem): rows_of(path)[0] for path in chosen}
    side = max(images.shape[-1] for images in rows.values())
    return {seen: functional.interpolate(images, side) for seen, images in rows.items()}


def rows_of(picture: Path) -> Float[Tensor, "rows 8 3 side side"]:
    """The images of a picture with eight in a row, in [-1, 1]."""
    pixels = torch.from_numpy(np.array(Image.open(picture).convert("RGB")))  # [rows · side, 8 · side, 3]
    side = pixels.shape[1] // 8
    return to_float(pixels.unflatten(1, (8, side)).unflatten(0, (-1, side)).permute(0, 2, 4, 1, 3))
