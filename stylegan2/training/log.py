"""Where a run's numbers go: labml's tracker on the screen and in the run's folder, and history.jsonl.

labml redraws its lines in place, which a terminal and a notebook can show and a file cannot. Where the output is piped,
plain lines stand in for its screen.
"""

import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

from labml import experiment, lab, monit, tracker
from labml.internal.computer import configs as labml_computer

from stylegan2.files import silence_stdout, write_text


class Log:
    """The log of a run; a context manager.

    labml writes under `run`/labml and sends nothing over a network. history.jsonl holds one JSON object a line. Where
    the screen is gone (a closed pipe or terminal), `unread` becomes true, and history.jsonl is still written.

    Args:
        run: folder of the run.
        settings: shown and recorded by labml.
        images: seen so far; lines of history.jsonl beyond it (of an interrupted run) are dropped.
        total: images that the run will have seen at its end.
    """

    def __init__(self, run: Path, settings: dict, images: int, total: int):
        self.history, self.first, self.total = run / "history.jsonl", images, total
        self.plain, self.unread = not (sys.stdout.isatty() or in_notebook()), False
        keep_until(self.history, images)
        keep_labml_in(run / "labml")
        # labml warns that the run's folder is no repository and has no .labml.yaml: both are as they should be.
        with contextlib.redirect_stdout(io.StringIO()):
            lab.configure({"path": str(run.resolve()), "experiments_path": "labml", "check_repo_dirty": False})
            experiment.create(name=run.name, writers={"file"} if self.plain else {"screen", "file"},
                              python_file=str(run.resolve() / "train"))
            experiment.configs(dict(settings))
        for name in ("loss.*", "penalty.*", "score.*", "path_length", "augment.*", "images_per_second"):
            tracker.set_scalar(name, name.startswith(("loss", "images")))

    def __enter__(self) -> "Log":
        with contextlib.redirect_stdout(io.StringIO()) if self.plain else contextlib.nullcontext():
            self.watcher = experiment.start()
            self.watcher.__enter__()
        self.started = time.perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        with contextlib.redirect_stdout(io.StringIO()) if self.plain else contextlib.nullcontext():
            self.watcher.__exit__(kind, error, trace)
        if not (self.plain or self.unread):
            print()  # labml leaves the cursor at the end of its line

    def steps(self, steps: Iterable[int]) -> Iterator[int]:
        """Go through the steps with labml's progress display: images seen, numbers, time a step, time passed and in
        all.
        """
        return iter(steps if self.plain else monit.loop(steps))

    def write(self, images: int, values: dict[str, float]) -> None:
        """Numbers at so many images seen."""
        with open(self.history, "a", encoding="utf-8") as file:
            file.write(json.dumps({"images": images, **{key: round(value, 6) for key, value in values.items()}}) + "\n")
        try:
            tracker.save(images, {key: value for key, value in values.items() if key != "seconds"})
            if self.plain:
                print(self.line(images, values), flush=True)
            else:
                tracker.new_line()
        except OSError:
            self.unread = True
            silence_stdout()

    def line(self, images: int, values: dict[str, float]) -> str:
        """Images seen, images a second, time left, and what was measured."""
        left = (time.perf_counter() - self.started) * (self.total - images) / max(1, images - self.first)
        numbers = "  ".join(f"{key} {value:.3g}" for key, value in values.items()
                            if key not in ("images_per_second", "seconds"))
        return (f"{images:,} of {self.total:,} images  {values['images_per_second']:.1f} images/s  "
                f"{max(0, round(left)) // 60} min {max(0, round(left)) % 60:02} s left  {numbers}")


class SilentLog(contextlib.AbstractContextManager):
    """The log of a process that leaves the writing to another."""

    unread = False

    def __exit__(self, *_: object) -> None:
        pass

    def steps(self, steps: Iterable[int]) -> Iterator[int]:
        return iter(steps)

    def write(self, images: int, values: dict[str, float]) -> None:
        pass


def in_notebook() -> bool:
    """Whether this is a kernel's process, whose output can redraw lines."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None


def keep_labml_in(folder: Path) -> None:
    """labml keeps notes on the computer and its projects in the user's home, which need not be writable, and where two
    runs that begin together would make the same files. A training has no use for them: they go into its own folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    home = {name: os.environ.get(name) for name in ("HOME", "USERPROFILE")}
    os.environ.update(dict.fromkeys(home, str(folder.resolve())))
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            labml_computer._internal = labml_computer.Computer()
        labml_computer._internal.add_project = lambda path: None  # of a list that only its own server reads
    finally:
        for name, value in home.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def keep_until(history: Path, images: int) -> None:
    """Drop the lines after `images`, and a last line that a kill cut short.

    Raises:
        ValueError: another line is not as this program writes it.
    """
    if not history.exists():
        return
    kept, lines = [], history.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            if json.loads(line)["images"] <= images:
                kept.append(line + "\n")
        except (ValueError, TypeError, KeyError) as error:
            if number < len(lines):
                raise ValueError(f"{history} is damaged: line {number} is not one of a run's history. Mend or remove "
                                 "the line") from error
    write_text(history, "".join(kept))
