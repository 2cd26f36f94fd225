"""python -m stylegan2 train | sample | record"""

import json
import logging
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

try:
    import tyro
except ImportError:
    raise SystemExit("python -m stylegan2 needs the [train] extra: pip install 'annotated-stylegan2-gradnorm[train]' "
                     "(from a checkout: pip install '.[train]')") from None

from stylegan2.images import save_grid
from stylegan2.training.checkpoint import checkpoints, load_tensors, save_tensors
from stylegan2.training.config import Settings
from stylegan2.weights import load_generator, sample


@dataclass
class Train:
    """Train StyleGAN2. Without arguments: cartoon faces at 32², on the GPU if there is one; Ctrl-C saves and stops."""

    settings: Annotated[Settings, tyro.conf.arg(name="")] = field(default_factory=Settings)
    run: Path | None = None
    """Folder of the run; runs/<data>-<resolution> when not given."""
    resume: bool = False
    """Go on with the run in the folder from its newest checkpoint, with its settings but for those given here."""
    device: str | None = None
    """cpu, cuda, cuda:1 …; a GPU where there is one when not given."""
    checkpoint_every: int = 10_000
    """Images between two checkpoints."""
    sample_every: int = 10_000
    """Images between two sample grids."""
    log_every: int = 1_000
    """Images between two log lines."""

    def folder(self) -> Path:
        return self.run or Path("runs") / f"{Path(self.settings.data).stem}-{self.settings.resolution}"

    def execute(self) -> None:
        from stylegan2.training.trainer import Trainer  # labml, the log, is only needed here

        trainer = Trainer(self.folder(), self.settings, self.resume, self.device, self.checkpoint_every,
                          self.sample_every, self.log_every)
        print(f"training on {self.settings.images} images from a set of {len(trainer.source)}, at "
              f"{self.settings.resolution}², on {trainer.device}, into {self.folder()}")
        if trainer.images_seen >= self.settings.images:
            print(f"nothing to do: the run has seen {trainer.images_seen} images; give more with --images")
        elif trainer.train():
            print(f"done: {trainer.images_seen} images. See {self.folder() / 'samples'}, or python -m stylegan2 sample "
                  f"--run {self.folder()}")
        else:
            print(f"stopped after {trainer.images_seen} images; go on with: python -m stylegan2 train --resume "
                  f"--run {self.folder()}")


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

    def execute(self) -> None:
        images = sample(load_generator(self.run), self.rows * self.columns, self.psi, self.seed)
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
        save_tensors(self.to / "generator.safetensors", average, state={})
        save_grid(sample(load_generator(self.to), 64), self.to / "samples.png", columns=8)
        settings = Settings.load(self.to / "settings.json")
        made = {"command": settings.command(), **json.loads((self.run / "run.json").read_text()), "seed": settings.seed,
                "images": state["steps"] * state["batch_size"], "minutes": round(state["seconds"] / 60, 2)}
        (self.to / "run.json").write_text(json.dumps(made, indent=2) + "\n")
        print(f"wrote {self.to}")


COMMANDS: dict[str, Callable[..., Any]] = {"train": Train, "sample": Sample, "record": Record}


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and run it; what the user can mend is told in one line, with exit status 2."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    try:
        command = parse(sys.argv[1:] if arguments is None else arguments)
        command.execute()
    except KeyboardInterrupt:  # before the first step, or a second Ctrl-C: there is nothing new to save
        raise SystemExit(130) from None
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def parse(arguments: list[str]) -> Train | Sample | Record:
    command = tyro.extras.subcommand_cli_from_dict(COMMANDS, args=arguments, prog="python -m stylegan2",
                                                   description=__doc__)
    if isinstance(command, Train) and command.resume:
        return resumed(command.folder(), arguments[1:])
    return command


def resumed(folder: Path, arguments: list[str]) -> Train:
    """Parse again with the run's own settings as defaults: what is not given stays as it was.

    Raises:
        FileNotFoundError: the folder holds no run.
        ValueError: a setting that shapes the networks is given, and is not the run's.
    """
    path = folder / "settings.json"
    if not path.exists():
        raise FileNotFoundError(f"{folder} holds no run to resume: name its folder with --run, or leave out --resume "
                                "to start one")
    settings = Settings.load(path)
    command = tyro.cli(Train, args=arguments, default=Train(settings=settings), prog="python -m stylegan2 train")
    for name in ("resolution", "n_features", "max_features", "d_latent", "mapping_layers"):
        kept, given = getattr(settings, name), getattr(command.settings, name)
        if kept != given:
            raise ValueError(f"{name} is {kept} in the run in {folder}, not {given}: what shapes the networks cannot "
                             "change when a run goes on")
    return command
