"""The loop: batches in, steps, and now and then a log line, a sample grid, a checkpoint."""

import contextlib
import dataclasses
import math
from collections.abc import Generator
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stylegan2.data import ImageSource, Loader, open_source, shuffled_indices
from stylegan2.images import save_grid, to_float
from stylegan2.training.checkpoint import checkpoints, load_tensors, save_checkpoint
from stylegan2.training.config import Settings
from stylegan2.training.folder import claim_folder, note_provenance, refuse_to_mix
from stylegan2.training.log import Log, SilentLog
from stylegan2.training.meters import Means, StopSignal
from stylegan2.training.players import Players, sample
from stylegan2.training.processes import join_processes
from stylegan2.training.provenance import provenance
from stylegan2.training.state import restore, state_tensors
from stylegan2.training.step import Step


class Trainer:
    """A run in a folder: settings.json, run.json (on what and with what it was made), history.jsonl, samples/,
    checkpoints. One process, or each of those that `accelerate launch` started; the first of them writes.

    Args:
        run: folder; created when missing.
        settings: what to compute.
        resume: go on from the newest checkpoint in the folder.
        device: a GPU where there is one, when not given.
        checkpoint_every, sample_every, log_every: in images.
        workers: processes that read images ahead; as many as suit the data when not given.

    Raises:
        FileExistsError: the folder holds a run, and `resume` was not asked for.
        FileNotFoundError: `resume`, but there is no checkpoint; or the data is missing.
        CheckpointError: the checkpoint cannot be read, or does not fit the settings.
        ValueError: the data holds no usable image, or no labels where the settings want them; or the batch does not
            divide among the processes.
        OSError: the folder cannot be written.
    """

    def __init__(self, run: Path, settings: Settings, resume: bool = False, device: str | None = None,
                 checkpoint_every: int = 10_000, sample_every: int = 10_000, log_every: int = 1_000,
                 workers: int | None = None):
        self.run, self.settings = run, settings
        self.intervals = {"log": log_every, "sample": sample_every, "checkpoint": checkpoint_every}
        self.processes = join_processes(device)
        self.device, self.writes = self.processes.device, self.processes.rank == 0
        settings.check_parts(self.processes.count)
        refuse_to_mix(run, resume)
        with self.processes.first_alone():  # a public set is downloaded once; and all have seen that the folder is free
            self.source = open_source(settings.data, settings.resolution, settings.background)
        self.chosen = chosen_images(self.source, settings)
        self.loader = Loader(self.source, self.device, workers)
        class_weights = frequencies(self.source, self.chosen, settings) if settings.labels else None
        if self.writes:
            claim_folder(run)  # last, so that a mistake in the settings leaves no folder behind
        torch.manual_seed(settings.seed)  # the same weights in all processes
        self.players = Players(settings, n_classes=0 if class_weights is None else len(class_weights)).to(self.device)
        torch.manual_seed(settings.seed + self.processes.rank)
        self.step = Step(self.players, self.processes, class_weights)
        self.steps_done, self.seconds = 0, 0.0
        if resume:
            self.load(checkpoints(run)[-1])
        if self.writes:
            settings.save(run / "settings.json")
            note_provenance(run, self.images_seen, provenance(self.device, self.processes.count))

    @property
    def images_seen(self) -> int:
        return self.steps_done * self.settings.batch_size

    def train(self) -> bool:
        """Train until `settings.images`. Ctrl-C (SIGINT) or SIGTERM finish the step, save, and return False.

        Raises:
            FloatingPointError: a loss is no longer finite; the last checkpoint is kept.
        """
        if self.settings.compile:
            self.players.compile()
        total, means = -(-self.settings.images // self.settings.batch_size), Means()
        with contextlib.ExitStack() as stack:
            stop, log_of_run = stack.enter_context(StopSignal()), stack.enter_context(self.open_log())
            batches = stack.enter_context(contextlib.closing(self.batches(total)))
            if self.steps_done == 0:
                self.save_samples()
            for step in log_of_run.steps(range(self.steps_done, total)):
                means.add(self.step(step, *next(batches)))
                self.steps_done = step + 1
                last = self.processes.any(stop.asked) or self.steps_done == total
                if last or self.due("log") or self.due("checkpoint"):  # a line before a checkpoint: it must be finite
                    log_of_run.write(self.images_seen, self.measured(means))
                if last or self.due("sample"):
                    self.save_samples()
                if last or self.due("checkpoint"):
                    self.save()
                if last:
                    break
        return self.steps_done >= total

    def batches(self, total: int) -> Generator[
            tuple[Float[Tensor, "share 3 side side"], Int[Tensor, "share"] | None], None, None]:
        """This process's share of every batch to come: real images in [−1, 1] on the device, and labels."""
        s = self.settings
        shares = (self.processes.share(
            self.chosen[shuffled_indices(len(self.chosen), step * s.batch_size, s.batch_size, s.seed)])
            for step in range(self.steps_done, total))
        with contextlib.closing(self.loader.batches(shares)) as batches:
            for pixels, labels in batches:
                images = to_float(pixels)
                if s.x_flip:
                    flip = self.processes.share(torch.rand(s.batch_size, 1, 1, 1, generator=self.step.random) < 0.5)
                    images = torch.where(flip.to(self.device), images.flip(-1), images)
                yield images, labels if s.labels else None

    def open_log(self) -> Log | SilentLog:
        """Only the first process writes."""
        if not self.writes:
            return SilentLog()
        return Log(self.run, dataclasses.asdict(self.settings), self.images_seen, self.settings.images)

    def measured(self, means: Means) -> dict[str, float]:
        """The means since the last line, over all processes, and the speed.

        Raises:
            FloatingPointError: one of them is not finite.
        """
        means_here, steps, seconds = means.take()
        self.processes.average(list(means_here.values()))
        values = {name: float(value) for name, value in means_here.items()}
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            saved = checkpoints(self.run)
            raise FloatingPointError(
                f"{', '.join(bad)} is not finite at step {self.steps_done} ({self.images_seen} images). "
                f"Last checkpoint: {saved[-1] if saved else 'none'}. "
                "Try a lower learning_rate, a larger r1_gamma, or precision fp32")
        self.seconds += seconds
        speed = steps * self.settings.batch_size / seconds
        return {**values, "images_per_second": speed, "seconds": self.seconds}

    def due(self, what: str) -> bool:
        """Whether this step crossed a multiple of the interval."""
        every = self.intervals[what]
        return self.images_seen // every > (self.images_seen - self.settings.batch_size) // every

    def save_samples(self) -> None:
        """64 images of the averaged generator, from the same z every time."""
        if self.writes:
            images = sample(self.players.average, 64)
            save_grid(images, self.run / "samples" / f"{self.images_seen:010d}.png", columns=8)

    def save(self) -> None:
        """Write a checkpoint."""
        tensors = state_tensors(self.step)
        if self.writes:
            state = {"steps": self.steps_done, "batch_size": self.settings.batch_size, "seconds": self.seconds,
                     "processes": self.processes.count}
            save_checkpoint(self.run, self.images_seen, tensors, state)
        self.processes.wait()

    def load(self, path: Path) -> None:
        """Go on from a checkpoint."""
        tensors, state = load_tensors(path)
        images = state["steps"] * state["batch_size"]
        restore(self.step, tensors, images, state["processes"], path)
        self.steps_done, self.seconds = images // self.settings.batch_size, state["seconds"]


def chosen_images(source: ImageSource, settings: Settings) -> Int[Tensor, "chosen"]:
    """The indices of the images that are trained on: a subset is a fair sample, since sets are often sorted, and the
    same one for every seed.

    Raises:
        ValueError: the subset is larger than the set.
    """
    if settings.subset > len(source):
        raise ValueError(f"subset is {settings.subset}, but {settings.data} has {len(source)} images: 0 takes all")
    if not settings.subset:
        return torch.arange(len(source))
    return torch.randperm(len(source), generator=torch.Generator().manual_seed(0))[:settings.subset]


def frequencies(source: ImageSource, chosen: Int[Tensor, "chosen"], settings: Settings) -> Float[Tensor, "classes"]:
    """How often each class occurs among the chosen images.

    Raises:
        ValueError: the images have no labels.
    """
    labels = source.labels(chosen)
    if labels is None or source.n_classes < 2:
        raise ValueError(f"labels is set, but the images of {settings.data} are not in two classes or more: put each "
                         "class into a folder of its own, side by side, or train without")
    return torch.bincount(labels, minlength=source.n_classes).float()
