"""The recorded runs that pages replay: `results/`, in a checkout or in an installation."""

from __future__ import annotations

import sysconfig
from pathlib import Path

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
