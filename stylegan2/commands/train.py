"""python -m stylegan2 train"""

import contextlib
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from stylegan2.data import channels_of
from stylegan2.fields import Count, Range, check_fields, flag
from stylegan2.training.checkpoint import checkpoints
from stylegan2.training.config import Model, Settings
from stylegan2.training.folder import last_stretch
from stylegan2.training.presets import preset
from stylegan2.training.start import SIZES, started_from
from stylegan2.weights import read_networks


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
        if not self.resume and (self.settings.data != "toyfaces" or self.settings.start):
            tell(in_one_line(self.settings))
        if trainer.discriminator_is_new:
            tell(f"{self.settings.start} has no discriminator: a new one starts with random weights")
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


def in_one_line(s: Settings) -> str:
    """What the run computes with."""
    kind = {1: "grey", 3: "RGB", 4: "RGBA"}[s.channels]
    augment = f"augmentation up to full in {s.augment_images} images" if s.augment else "no augmentation"
    return (f"{kind} images, batch {s.batch_size}, rate {s.learning_rate:g}, γ {s.r1_gamma:.3g}, {augment}, average "
            f"over {s.ema_half_life} images, {s.n_features} to {s.max_features} features, {s.mapping_layers} mapping "
            f"layers, {'with' if s.noise else 'without'} noise: the published recipe where no flag says otherwise")


IN_ONE_RUN = ("growing", "grow_from", "grow_images", "augment", "start", "freeze_d")
"""Settings that cannot change in the middle of a run."""


@dataclass
class Which:
    """What the defaults of all other options follow from."""

    model: Model | None = None
    data: str = Settings.data
    resolution: int | None = None
    channels: Literal[1, 3, 4] | None = None
    start: Annotated[str | None, flag(name="from")] = None
    batch_size: int | None = None
    images: int | None = None
    run: Path | None = None
    resume: bool = False


def parse_train(arguments: Sequence[str], prog: str) -> Train:
    """The command, in two goes: the model, the set and what is started from, or the run to resume, decide
    what the other settings are where they are not given.

    Raises:
        FileNotFoundError: there is no run to resume, or nothing to start from.
        ValueError: a setting that shapes the networks is given, and is not that of the run or of what is
            started from.
    """
    named = [word for word in arguments if word not in ("-h", "--help")]
    which, _ = tyro.cli(Which, args=named, return_unknown_args=True, prog=prog)
    if which.resume:
        return resumed(Train(preset(which.model or Settings.model, which.data,
                                    which.resolution or Settings.resolution), which.run).folder(), arguments, prog)
    source = None if which.start is None else read_networks(which.start).settings
    like = source or Settings()
    default = preset(which.model or like.model, which.data, which.resolution or like.resolution,
                     int(os.environ.get("WORLD_SIZE", "1")), which.batch_size, which.images, which.start)
    if source is not None:
        default = started_from(source, default)
    elif which.channels is None:
        with contextlib.suppress(FileNotFoundError):  # which the trainer will name
            default = replace(default, channels=channels_of(which.data))
    command = tyro.cli(Train, args=arguments, default=Train(default), prog=prog)
    if source is not None:
        refuse_other(SIZES, source, command.settings, f"in {which.start}",
                     "sizes are those of the network that is started from")
    return command


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
    refuse_other(SIZES + IN_ONE_RUN, settings, command.settings, f"in the run in {folder}",
                 "what shapes the networks cannot change when a run goes on")
    return command


def refuse_other(names: Sequence[str], kept: Settings, given: Settings, where: str, why: str) -> None:
    """
    Raises:
        ValueError: one of the named settings is given otherwise than it is kept.
    """
    for name in names:
        if (old := getattr(kept, name)) != (new := getattr(given, name)):
            raise ValueError(f"{name} is {old} {where}, not {new}: {why}")
