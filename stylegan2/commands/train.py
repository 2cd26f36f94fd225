"""python -m stylegan2 train"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from stylegan2.fields import Count, Range, check_fields
from stylegan2.training.checkpoint import checkpoints
from stylegan2.training.config import PRESETS, Settings
from stylegan2.training.folder import last_stretch


@dataclass
class Train:
    """Train a generator: cartoon faces at 32² by StyleGAN2, unless told otherwise, on the GPU if there is one.

    Ctrl-C saves and stops; --resume goes on, with another batch size, rate or number of images if you like; what shapes
    the networks stays. `accelerate launch -m stylegan2 train …` trains on several GPUs or machines,
    `torchrun --nproc-per-node 2 -m -- stylegan2 train …` in several processes on CPUs.
    """

    settings: Annotated[Settings, tyro.conf.arg(name="")] = field(default_factory=Settings)
    run: Path | None = None
    """Folder of the run; runs/<data>-<resolution> when not given (runs/<model>-… for the other models)."""
    resume: bool = False
    """Go on with the run in the folder from its newest checkpoint, with its settings and options but for those given
    here."""
    device: str | None = None
    """cpu, cuda, cuda:1 …; a GPU where there is one when not given."""
    workers: Annotated[int, Range(0, 1000)] | None = None
    """Processes that read images ahead of the training; as many as suit the data when not given."""
    checkpoint_every: Count = 10_000
    """Images between two checkpoints."""
    sample_every: Count = 10_000
    """Images between two sample grids."""
    log_every: Count = 1_000
    """Images between two log lines."""

    def __post_init__(self) -> None:
        check_fields(self)

    def folder(self) -> Path:
        s = self.settings
        model = "" if s.model == Settings.model else f"{s.model}-"
        return self.run or Path("runs") / f"{model}{Path(s.data).absolute().stem}-{s.resolution}"

    def execute(self) -> None:
        from stylegan2.training.trainer import Trainer  # labml, the log, is only needed here

        trainer = Trainer(self.folder(), self.settings, self.resume, self.device, self.checkpoint_every,
                          self.sample_every, self.log_every, self.workers)
        tell = print if trainer.writes else lambda *_: None
        count = trainer.processes.count
        where = f"{trainer.device}" if count == 1 else f"{count} × {trainer.device.type}"
        tell(f"training on {self.settings.images} images from a set of {len(trainer.source)}, at "
             f"{self.settings.resolution}², on {where}, into {self.folder()}")
        if self.resume:
            tell(f"going on from {trainer.saved[0].name}, {trainer.images_seen} images")
        if trainer.images_seen >= self.settings.images:
            tell(f"nothing to do: the run has seen {trainer.images_seen} images; give more with --images")
        elif trainer.train():
            tell(f"done: {trainer.images_seen} images. See {self.folder() / 'samples'}, or python -m stylegan2 sample "
                 f"--run {shlex.quote(str(self.folder()))}")
        else:
            tell(f"stopped after {trainer.images_seen} images; go on with: python -m stylegan2 train --resume "
                 f"--run {shlex.quote(str(self.folder()))}")


def parse_train(arguments: Sequence[str], prog: str) -> Train:
    """The command, in two goes: the model, or the run to resume, decides what the other settings start from.

    Raises:
        FileNotFoundError: there is no run to resume.
        ValueError: a setting that shapes the networks is given, and is not the run's.
    """
    command = tyro.cli(Train, args=arguments, prog=prog)
    if command.resume:
        return resumed(command.folder(), arguments, prog)
    return tyro.cli(Train, args=arguments, default=Train(settings=PRESETS[command.settings.model]), prog=prog)


def resumed(folder: Path, arguments: Sequence[str], prog: str) -> Train:
    """Parse again with the run's own settings as defaults: what is not given stays as it was."""
    path = folder / "settings.json"
    if not path.exists() and checkpoints(folder):
        raise FileNotFoundError(f"{folder} has checkpoints and no settings.json, without which they cannot be read: "
                                'put it back (run.json has its content, under "settings")')
    if not path.exists():
        raise FileNotFoundError(f"{folder} holds no run to resume: name its folder with --run, or leave out --resume "
                                "to start one")
    settings = Settings.load(path)
    default = Train(settings=settings, **last_stretch(folder).get("options", {}))
    command = tyro.cli(Train, args=arguments, default=default, prog=prog)
    for name in ("model", "resolution", "n_features", "max_features", "d_latent", "mapping_layers", "style",
                 "generator", "discriminator", "labels", "growing", "grow_from", "grow_images", "augment"):
        kept, given = getattr(settings, name), getattr(command.settings, name)
        if kept != given:
            raise ValueError(f"{name} is {kept} in the run in {folder}, not {given}: what shapes the networks cannot "
                             "change when a run goes on")
    return command
