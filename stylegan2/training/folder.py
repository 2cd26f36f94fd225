"""The folder of a run: settings.json, run.json, history.jsonl, samples/, checkpoints.

run.json says how the run was made, in stretches: the first at its top, and under "resumed" every one
that went on after it. Each has the settings and options that it ran with, the set that it read, and
where it ran.
"""

import contextlib
import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from stylegan2.data.named import NAMED_SETS
from stylegan2.files import read_json, write_text
from stylegan2.training.checkpoint import checkpoints
from stylegan2.training.config import Settings
from stylegan2.training.presets import command

log = logging.getLogger(__name__)
Stretch = dict[str, Any]
PARTS = ("settings.json", "run.json", "history.jsonl", "samples", "labml")
"""What a run has in its folder before its first checkpoint."""


def refuse_to_mix(run: Path, resume: bool) -> None:
    """
    Raises:
        FileExistsError: the folder holds a run, and `resume` was not asked for; or networks that are
            not a run's; or anything else, which a new run would be mixed with.
        FileNotFoundError: `resume`, but there is no checkpoint.
    """
    if (run / "generator.safetensors").exists():
        raise FileExistsError(f"{run} holds a record or a converted network, which training would spoil: name another "
                              "folder with --run")
    if resume and not checkpoints(run):
        raise FileNotFoundError(f"there is no checkpoint in {run} to resume from: name the folder of a run with --run, "
                                "or a new one and leave out --resume")
    if resume or not run.is_dir():
        return
    if checkpoints(run):
        raise FileExistsError(f"{run} already holds a run: --resume goes on with it, --run FOLDER starts another")
    others = sorted(path.name for path in run.iterdir() if path.name not in PARTS and not path.name.startswith("."))
    if not others and (run / "history.jsonl").exists() and (run / "history.jsonl").stat().st_size:
        others = ["history.jsonl"]  # what a run without a checkpoint has left is not ours to delete
    if not others and any((run / name).exists() for name in PARTS):
        try:
            Settings.load(run / "settings.json")
        except (ValueError, OSError):
            others = sorted(name for name in PARTS if (run / name).exists())
    if others:
        raise FileExistsError(f"{run} is not empty ({', '.join(others[:5])}), and a run wants a folder of its own: "
                              "name a new one with --run, or move away what is there")


def claim_folder(run: Path) -> None:
    """Make the folder of a run, and see that it can be written.

    Raises:
        OSError: it cannot.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
        (run / ".writable").touch()
        (run / ".writable").unlink()
    except OSError as error:
        raise type(error)(f"cannot write to {run} ({error.strerror}): name a folder of yours with --run") from error


@contextlib.contextmanager
def only_one(run: Path) -> Iterator[None]:
    """Inside, no other training writes into the folder. The system ends this with the process, also with a killed one.

    Raises:
        FileExistsError: another training is in it.
    """
    # Not the kind of lock that is a file, for drives without the other kind: it would outlive a machine that was lost.
    lock = FileLock(run / ".lock", fallback_to_soft=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise FileExistsError(f"another training is writing into {run}: wait for it, or name another folder with --run"
                              ) from None
    except (OSError, NotImplementedError) as error:  # some network drives
        log.warning("%s cannot be locked (%s): see to it that no second training writes there", run, error)
    try:
        for part in (*run.glob(".*.*[0-9].part*"), *(run / "samples").glob(".*.*[0-9].part*")):  # left by a kill
            if part.is_file():
                part.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


def located(settings: Settings) -> Settings:
    """The same settings with the set's path made absolute, so that it is found again from any folder."""
    if settings.data in NAMES:
        return settings
    return replace(settings, data=str(Path(settings.data).absolute()))


def unlocated(settings: Settings) -> Settings:
    """The same settings with names in place of paths, of the set and of what was started from, for a record."""
    start = None if settings.start is None else Path(settings.start).name  # with its checksum
    return replace(settings, data=Path(settings.data).name, start=start)


NAMES = frozenset(("toyfaces", *NAMED_SETS))


def check_apart(run: Path, data: str) -> None:
    """
    Raises:
        ValueError: the run would write its samples into the set that it is trained on.
    """
    if data not in NAMES and Path(data).is_dir() and run.resolve().is_relative_to(Path(data).resolve()):
        raise ValueError(f"the run's folder {run} lies in {data}, whose images it is trained on: its own samples would "
                         "become part of them. Name a folder elsewhere with --run")


def check_same_set(run: Path, data: str, fingerprint: str) -> None:
    """
    Args:
        run: folder of a run or of a record.
        data: where the set is now.
        fingerprint: of the set there.

    Raises:
        ValueError: the run was trained on another one.
    """
    known = last_stretch(run).get("set", {})
    if known.get("fingerprint", fingerprint) != fingerprint:
        raise ValueError(
            f"{data} is not the set that the run in {run} was trained on, which had {known['images']} images and the "
            f"fingerprint {known['fingerprint']}: put that back; or, if this one is meant, give it another name and "
            "say --data NAME")


def check_same_classes(run: Path, data: str, names: list[str]) -> None:
    """
    Raises:
        ValueError: the classes of the set are not those of the run, in their order: each number would mean another one.
    """
    known = last_stretch(run).get("set", {}).get("classes")
    if known and known != names:
        raise ValueError(f"the classes of {data} are {', '.join(names[:20])}; the run in {run} was trained with "
                         f"{', '.join(known[:20])}: put each image into the folder of its old class")


def note_stretch(run: Path, images: int, stretch: Stretch) -> None:
    """Write run.json: where and how the run began, and every place where it went on."""
    path = run / "run.json"
    if images:  # where run.json is gone, its beginning is not known
        made = read_json(path) if path.exists() else {}
        made.setdefault("resumed", []).append({"images": images, **stretch})
    else:
        made = stretch
    write_text(path, json.dumps(made, indent=2) + "\n")


def stretches(run: Path) -> list[Stretch]:
    """The stretches of a run, first to last, each with the images seen when it began; none where there is no run.json.

    Raises:
        ValueError: run.json is damaged.
    """
    path = run / "run.json"
    if not path.exists():
        return []
    made = read_json(path)
    later = made.pop("resumed", []) if isinstance(made, dict) else None
    if not isinstance(later, list) or not all(isinstance(stretch, dict) for stretch in later):
        raise ValueError(f"{path} is damaged: it does not say how a run was made")
    return [{"images": 0, **made}, *later]


def last_stretch(run: Path) -> Stretch:
    """The newest stretch; empty where none is known."""
    return (stretches(run) or [{}])[-1]


def told(run: Path) -> dict[str, Any]:
    """run.json for a record: the command that makes the run again, or a command for each stretch where it went on with
    other settings; no path of this machine.
    """
    found = stretches(run) or [{"images": 0}]
    last = unlocated(Settings.load(run / "settings.json"))
    settings = [unlocated(Settings.from_dict(s.pop("settings"))) if "settings" in s else last for s in found]
    alike = all(replace(each, images=last.images) == last for each in settings)
    for stretch, each in zip(found, settings, strict=True):
        stretch.pop("options", None)
        stretch.get("set", {}).pop("path", None)
        if not alike:
            stretch["command"] = command(each)
    first, *later = found
    first.pop("images")
    return {**({"command": command(last)} if alike else {}), **first, **({"resumed": later} if later else {})}
