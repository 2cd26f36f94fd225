"""The loop: batches in, steps, and now and then a log line, a sample grid, a checkpoint."""

import contextlib
import dataclasses
import math
import os
from collections.abc import Generator, Iterator
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stylegan2.data import ImageSource, Loader, open_source, shuffled_indices
from stylegan2.files import CheckpointError, load_tensors
from stylegan2.images import save_grid, to_float
from stylegan2.training.checkpoint import checkpoints, save_checkpoint
from stylegan2.training.config import Settings
from stylegan2.training.folder import (
    check_apart,
    check_same_classes,
    check_same_set,
    claim_folder,
    last_stretch,
    located,
    note_stretch,
    only_one,
    refuse_to_mix,
)
from stylegan2.training.log import Log, SilentLog
from stylegan2.training.meters import Means, StopSignal
from stylegan2.training.players import Players, sample
from stylegan2.training.processes import join_processes
from stylegan2.training.provenance import provenance
from stylegan2.training.start import take_over
from stylegan2.training.state import restore, state_tensors
from stylegan2.training.step import Step
from stylegan2.weights import read_networks


class Trainer:
    """A run in a folder: settings.json, run.json (on what and with what it was made), history.jsonl, samples/,
    checkpoints. One process, or each of those that `accelerate launch` started; the first of them writes, and only
    while it trains.

    Args:
        run: folder; created when missing.
        settings: what to compute.
        resume: go on from the newest checkpoint in the folder.
        device: a GPU where there is one, when not given.
        checkpoint_every, sample_every, log_every: in images.
        workers: processes that read images ahead; as many as suit the data when not given.

    Raises:
        FileExistsError: the folder holds a run, and `resume` was not asked for; or a record or converted network.
        FileNotFoundError: `resume`, but there is no checkpoint; or the data is missing.
        CheckpointError: the checkpoint cannot be read, or does not fit the settings.
        ValueError: the data holds no usable image, or no labels where the settings want them, or is not what the run
            was trained on; the folder lies in the data; the batch does not divide among the processes; the networks
            are too large for the memory; an interval is less than 1.
        OSError: the folder cannot be written.
    """

    def __init__(self, run: Path, settings: Settings, resume: bool = False, device: str | None = None,
                 checkpoint_every: int = 10_000, sample_every: int = 10_000, log_every: int = 1_000,
                 workers: int | None = None):
        run = Path(run)
        start = read_networks(settings.start) if settings.start and not resume else None
        if start is not None:
            settings = dataclasses.replace(settings, start=start.name)
        self.run, self.settings, self.resume = run, (settings := located(settings)), resume
        self.intervals = {"log": log_every, "sample": sample_every, "checkpoint": checkpoint_every}
        for name, images in self.intervals.items():
            if images < 1:
                raise ValueError(f"{name}_every is {images}: it counts images, and must be 1 or more")
        self.options = {"checkpoint_every": checkpoint_every, "sample_every": sample_every, "log_every": log_every,
                        "workers": workers, "device": device}
        self.processes = join_processes(device)
        self.device, self.writes = self.processes.device, self.processes.rank == 0
        settings.check_parts(self.processes.count)
        check_apart(run, settings.data)
        refuse_to_mix(run, resume)
        with self.processes.first_alone():  # a public set is downloaded once; and all have seen that the folder is free
            self.source = open_source(settings.data, settings.resolution, settings.background, white=settings.white,
                                      channels=settings.channels)
        if resume and last_stretch(run).get("set", {}).get("path") == settings.data:  # else another set is meant
            check_same_set(run, settings.data, self.source.fingerprint)
        if resume and settings.labels:
            check_same_classes(run, settings.data, list(self.source.class_names))
        self.chosen = chosen_images(self.source, settings)
        self.loader = Loader(self.source, self.device, workers)
        class_weights = frequencies(self.source, self.chosen, settings) if settings.labels else None
        n_classes = 0 if class_weights is None else len(class_weights)
        refuse_too_large(settings, n_classes, self.device)
        torch.manual_seed(settings.seed)  # the same weights in all processes
        self.players = Players(settings, n_classes)
        self.discriminator_is_new = start is not None and not take_over(self.players, start)
        if self.writes:
            claim_folder(run)  # last, so that a mistake in the settings leaves no folder behind
        self.players.to(self.device)
        torch.manual_seed(settings.seed + self.processes.rank)
        self.step = Step(self.players, self.processes, class_weights)
        self.steps_done, self.seconds, self.processor_seconds, self.whole = 0, 0.0, 0.0, True
        self.saved = checkpoints(run)[-1:] if resume else []
        for path in self.saved:
            self.load(path)

    @property
    def images_seen(self) -> int:
        return self.steps_done * self.settings.batch_size

    def train(self) -> bool:
        """Train until `settings.images`. A signal that asks the process to end (Ctrl-C, a closed terminal, kill; all
        but SIGKILL), or an output that nobody reads any more, finish the step, save, and return False.

        Raises:
            FileExistsError: another training writes into the folder, or has done so since this one was made.
            FloatingPointError: a loss is no longer finite; the last checkpoint is kept.
            OSError, ValueError: a file cannot be written, or an image no longer read; the last whole step is saved
                if that is still possible.
        """
        if self.steps_done >= self.total:
            return True
        if self.settings.compile:
            self.players.compile()
        means = Means()
        with contextlib.ExitStack() as stack:
            stop = stack.enter_context(StopSignal())
            stack.enter_context(self.alone())
            stack.enter_context(trying_algorithms(not self.settings.growing))
            log_of_run = stack.enter_context(self.open_log())
            batches = stack.enter_context(contextlib.closing(self.batches()))
            stack.enter_context(self.saving_what_is_whole(means))
            if self.steps_done == 0:
                self.save_samples()
            for step in log_of_run.steps(range(self.steps_done, self.total)):
                batch, self.whole = next(batches), False
                means.add(self.step(step, *batch))
                self.steps_done, self.whole = step + 1, True
                last = self.processes.any(stop.asked or log_of_run.unread) or self.steps_done == self.total
                if last or self.due("log") or self.due("checkpoint"):  # a line before a checkpoint: it must be finite
                    log_of_run.write(self.images_seen, self.measured(means))
                if last or self.due("sample"):
                    self.save_samples()
                if last or self.due("checkpoint"):
                    self.save()
                if last:
                    break
        return self.steps_done >= self.total

    @property
    def total(self) -> int:
        """Steps that the run will have made at its end."""
        return -(-self.settings.images // self.settings.batch_size)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Inside, the folder is this run's: no other training may write there, and it says what is about to happen."""
        refusal: OSError | None = None
        with contextlib.ExitStack() as stack:
            try:
                if self.writes:
                    stack.enter_context(only_one(self.run))
                    self.begin()
            except OSError as error:
                refusal = error
            if self.processes.any(refusal is not None):  # all end, where one would wait for the others
                raise refusal or FileExistsError(f"the first process cannot train into {self.run}")
            yield

    def begin(self) -> None:
        """Write what is about to happen: settings.json, and a stretch of run.json.

        Raises:
            FileExistsError: the folder is not as this run found it.
        """
        if checkpoints(self.run)[-1:] != self.saved:
            raise FileExistsError(f"{self.run} has been trained into since this run was opened: open it again")
        source = self.source
        stretch = {**provenance(self.device, self.processes.count), "settings": dataclasses.asdict(self.settings),
                   "options": self.options,
                   "set": {"path": self.settings.data, "images": len(source), "fingerprint": source.fingerprint,
                           "classes": list(source.class_names) if self.settings.labels else []}}
        self.settings.save(self.run / "settings.json")
        note_stretch(self.run, self.images_seen, stretch)

    @contextlib.contextmanager
    def saving_what_is_whole(self, means: Means) -> Iterator[None]:
        """An error between two steps (a full disk, a set that is gone) must not cost the steps made. One process alone:
        several would wait for one another.
        """
        try:
            yield
        except FloatingPointError:
            raise
        except Exception:
            if self.whole and self.processes.count == 1 and self.steps_done > 0:
                with contextlib.suppress(Exception):
                    self.measured(means)  # finite?
                    self.save()
            raise

    def batches(self) -> Generator[
            tuple[Float[Tensor, "share channels side side"], Int[Tensor, "share"] | None], None, None]:
        """This process's share of every batch to come: real images in [−1, 1] on the device, and labels."""
        s = self.settings
        shares = (self.processes.share(
            self.chosen[shuffled_indices(len(self.chosen), step * s.batch_size, s.batch_size, s.seed)])
            for step in range(self.steps_done, self.total))
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
        means_here, steps, seconds, processor_seconds = means.take()
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
        self.processor_seconds += processor_seconds
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
                     "processor_seconds": self.processor_seconds, "processes": self.processes.count}
            self.saved = [save_checkpoint(self.run, self.images_seen, tensors, state)]
        self.processes.wait()

    def load(self, path: Path) -> None:
        """Go on from a checkpoint."""
        tensors, state = load_tensors(path)
        if not {"steps", "batch_size", "seconds", "processes"} <= state.keys():
            raise CheckpointError(f"{path} is no checkpoint of a run: move it away to go on from the one before it")
        images = state["steps"] * state["batch_size"]
        if path.stem.split("-")[-1] != f"{images:010d}":
            raise CheckpointError(f"{path} was written after {images} images, which its name denies: it is another "
                                  "run's, or was renamed. Put back the one that belongs there")
        if images % self.settings.batch_size:
            fitting = ", ".join(str(2**k) for k in range(2, 12) if images % 2**k == 0)
            raise ValueError(f"the run has seen {images} images, which batches of {self.settings.batch_size} do not "
                             f"divide: where it is in its set and its schedules could not be told. Batches of "
                             f"{fitting or images} would")
        restore(self.step, tensors, images, state["processes"], path)
        self.steps_done, self.seconds = images // self.settings.batch_size, state["seconds"]
        self.processor_seconds = state.get("processor_seconds", 0.0)  # which version 1 did not count


@contextlib.contextmanager
def trying_algorithms(wanted: bool) -> Iterator[None]:
    """Inside, cuDNN tries out which of its algorithms is the fastest for a shape: it pays where shapes stand still."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = wanted
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def refuse_too_large(settings: Settings, n_classes: int, device: torch.device) -> None:
    """
    Raises:
        ValueError: the networks, with their gradients and Adam's two moments, would not fit into the memory.
    """
    with torch.device("meta"):  # sizes without memory
        players = Players(settings, n_classes)
    need = 4 * sum(p.numel() * p.element_size() for p in players.parameters())
    if device.type == "cuda":
        have = torch.cuda.mem_get_info(device)[1]
    elif hasattr(os, "sysconf"):
        have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    else:  # Windows does not say
        return
    if need > have:
        raise ValueError(f"networks of these settings take {need / 2**30:,.0f} GiB to train, and {device} has "
                         f"{have / 2**30:,.0f}: take fewer n_features, max_features or d_latent")


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
                         "class into a folder of its own, side by side (in an .npz, give labels; in a dataset.json, "
                         "numbers), or train without")
    return torch.bincount(labels, minlength=source.n_classes).float()
