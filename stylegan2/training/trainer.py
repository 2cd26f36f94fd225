"""The loop: batches in, steps, and now and then a log line, a sample grid, a checkpoint."""

import dataclasses
import json
import math
import platform
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from types import FrameType

import torch
from jaxtyping import Float
from torch import Tensor

from stylegan2.data import open_source, shuffled_indices
from stylegan2.generator import Noise
from stylegan2.images import save_grid, to_float
from stylegan2.training.checkpoint import (
    adam_tensors,
    checkpoints,
    load_adam,
    load_module,
    load_tensors,
    save_checkpoint,
    write_text,
)
from stylegan2.training.config import Settings
from stylegan2.training.log import Log
from stylegan2.training.step import Metrics, Players, Step


class Trainer:
    """A run in a folder: settings.json, run.json (on what and with what it was made), history.jsonl, samples/,
    checkpoints.

    Args:
        run: folder; created when missing.
        settings: what to compute.
        resume: go on from the newest checkpoint in the folder.
        device: a GPU where there is one, when not given.
        checkpoint_every, sample_every, log_every: in images.

    Raises:
        FileExistsError: the folder holds a run, and `resume` was not asked for.
        FileNotFoundError: `resume`, but there is no checkpoint; or the data is missing.
        CheckpointError: the checkpoint cannot be read, or does not fit the settings.
        ValueError: the data holds no usable image.
        OSError: the folder cannot be written.
    """

    def __init__(self, run: Path, settings: Settings, resume: bool = False, device: str | None = None,
                 checkpoint_every: int = 10_000, sample_every: int = 10_000, log_every: int = 1_000):
        self.run, self.settings = run, settings
        self.intervals = {"log": log_every, "sample": sample_every, "checkpoint": checkpoint_every}
        self.device = usable_device(device)
        refuse_to_mix(run, resume)
        self.source = open_source(settings.data, settings.resolution, settings.background)
        claim_folder(run)  # last, so that a mistake in the settings leaves no folder behind
        torch.manual_seed(settings.seed)
        self.players = Players(settings).to(self.device)
        self.step = Step(self.players, settings)
        self.steps_done, self.seconds = 0, 0.0
        if resume:
            self.load(checkpoints(run)[-1])
        settings.save(run / "settings.json")
        self.note_provenance()

    @property
    def images_seen(self) -> int:
        return self.steps_done * self.settings.batch_size

    def train(self) -> bool:
        """Train until `settings.images`. Ctrl-C (SIGINT) or SIGTERM finish the step, save, and return False.

        Raises:
            FloatingPointError: a loss is no longer finite; the last checkpoint is kept.
        """
        total, means = -(-self.settings.images // self.settings.batch_size), Means()
        with StopSignal() as stop, Log(self.run, dataclasses.asdict(self.settings), self.images_seen) as log:
            if self.steps_done == 0:
                self.save_samples()
            for step in log.steps(range(self.steps_done, total)):
                means.add(self.step(step, self.next_batch()))
                self.steps_done = step + 1
                last = stop.asked or self.steps_done == total
                if last or self.due("log") or self.due("checkpoint"):  # a line before a checkpoint: it must be finite
                    log.write(self.images_seen, self.measured(means))
                if last or self.due("sample"):
                    self.save_samples()
                if last or self.due("checkpoint"):
                    self.save()
                if last:
                    break
        return self.steps_done >= total

    def measured(self, means: "Means") -> dict[str, float]:
        """The means since the last line, and the speed.

        Raises:
            FloatingPointError: one of them is not finite.
        """
        values, steps, seconds = means.take()
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

    def note_provenance(self) -> None:
        """Write run.json: where the run began, and every place where it went on."""
        path, here = self.run / "run.json", provenance(self.device)
        if self.images_seen and path.exists():
            made = json.loads(path.read_text())
            made.setdefault("resumed", []).append({"images": self.images_seen, **here})
        else:
            made = here
        write_text(path, json.dumps(made, indent=2) + "\n")

    def due(self, what: str) -> bool:
        """Whether this step crossed a multiple of the interval."""
        every = self.intervals[what]
        return self.images_seen // every > (self.images_seen - self.settings.batch_size) // every

    def next_batch(self) -> Float[Tensor, "batch 3 side side"]:
        """The next real images in [−1, 1], on the device."""
        s = self.settings
        images = self.source.images(shuffled_indices(len(self.source), self.images_seen, s.batch_size, s.seed))
        images = to_float(images.to(self.device, non_blocking=True))
        if s.x_flip:
            flip = torch.rand(len(images), 1, 1, 1, device=self.device) < 0.5
            images = torch.where(flip, images.flip(-1), images)
        return images

    @torch.no_grad()
    def save_samples(self) -> None:
        """64 images of the averaged generator, from the same z every time."""
        average = self.players.average
        z = torch.randn(64, self.settings.d_latent, generator=torch.Generator().manual_seed(0)).to(self.device)
        w = average["mapping"](z).expand(self.players.generator.n_blocks, -1, -1)
        noise: Noise = "const" if self.settings.noise else None
        save_grid(average["generator"](w, noise), self.run / "samples" / f"{self.images_seen:010d}.png", columns=8)

    def save(self) -> None:
        """Everything that the next step depends on."""
        tensors = {f"players.{k}": v for k, v in self.players.state_dict().items() if not k.startswith("average.")}
        tensors |= self.players.average.state_dict(prefix="average.")
        tensors |= adam_tensors("generator_adam", self.step.generator_adam)
        tensors |= adam_tensors("discriminator_adam", self.step.discriminator_adam)
        tensors["random.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self.device)
        state = {"steps": self.steps_done, "batch_size": self.settings.batch_size, "seconds": self.seconds}
        save_checkpoint(self.run, self.images_seen, tensors, state)

    def load(self, path: Path) -> None:
        """Put everything back that `save` wrote."""
        tensors, state = load_tensors(path)
        average = {f"players.{k}": v for k, v in tensors.items() if k.startswith("average.")}
        load_module("players", self.players, {**tensors, **average}, path)
        load_adam("generator_adam", self.step.generator_adam, tensors)
        load_adam("discriminator_adam", self.step.discriminator_adam, tensors)
        torch.set_rng_state(tensors["random.cpu"])
        if self.device.type == "cuda" and "random.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random.cuda"], self.device)
        self.steps_done = state["steps"] * state["batch_size"] // self.settings.batch_size
        self.seconds = state["seconds"]


class Means:
    """Running means of what the steps measure; summed on the device, so that a step need not wait for it."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: Counter[str] = Counter()
        self.steps, self.since = 0, time.perf_counter()

    def add(self, metrics: Metrics) -> None:
        for name, value in metrics.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.counts.update(metrics.keys())
        self.steps += 1

    def take(self) -> tuple[dict[str, float], int, float]:
        """The means, the number of steps and the seconds since the last call; starts again."""
        values = {name: float(total) / self.counts[name] for name, total in self.sums.items()}
        steps, seconds = self.steps, time.perf_counter() - self.since
        self.start()
        return values, steps, seconds


class StopSignal:
    """Turns the first SIGINT or SIGTERM into a wish to stop after the step; a second SIGINT interrupts at once."""

    def __enter__(self) -> "StopSignal":
        self.asked = False
        self.previous = {s: signal.signal(s, self.ask) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)


def usable_device(name: str | None) -> torch.device:
    """The device of this name; a GPU where there is one, when none is given.

    Raises:
        ValueError: there is no such device here.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        message = f"this torch cannot use the device {name!r} ({reason}); leave --device out, or use cpu"
        raise ValueError(message) from error
    return device


def refuse_to_mix(run: Path, resume: bool) -> None:
    """
    Raises:
        FileExistsError, FileNotFoundError: as `Trainer` says.
    """
    if resume and not checkpoints(run):
        raise FileNotFoundError(f"there is no checkpoint in {run} to resume from; leave out --resume to start a run")
    if not resume and checkpoints(run):
        raise FileExistsError(f"{run} already holds a run: --resume goes on with it, --run FOLDER starts another")


def claim_folder(run: Path) -> None:
    """Make the folder of a run, clear away what a kill left, and see that it can be written.

    Raises:
        OSError: it cannot.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
        for part in run.glob("*.part"):  # left by a kill
            part.unlink()
        (run / "settings.json.part").touch()
        (run / "settings.json.part").unlink()
    except OSError as error:
        raise type(error)(f"cannot write to {run} ({error.strerror}): name a folder of yours with --run") from error


def provenance(device: torch.device) -> dict[str, str]:
    """On what, and with which code, a run is made."""
    git = subprocess.run(["git", "-C", Path(__file__).parent, "describe", "--always", "--dirty", "--abbrev=12"],
                         capture_output=True, text=True, check=False)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    return {"commit": git.stdout.strip() or "unknown", "device": name, "threads": str(torch.get_num_threads()),
            "torch": torch.__version__, "python": platform.python_version()}


def cpu_name() -> str:
    """The processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
