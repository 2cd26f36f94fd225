"""The folder of a run: settings.json, run.json, history.jsonl, samples/, checkpoints."""

import json
from pathlib import Path

from stylegan2.training.checkpoint import checkpoints, write_text


def refuse_to_mix(run: Path, resume: bool) -> None:
    """
    Raises:
        FileExistsError: the folder holds a run, and `resume` was not asked for.
        FileNotFoundError: `resume`, but there is no checkpoint.
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


def note_provenance(run: Path, images: int, here: dict[str, str]) -> None:
    """Write run.json: where the run began, and every place where it went on."""
    path = run / "run.json"
    if images and path.exists():
        made = json.loads(path.read_text())
        made.setdefault("resumed", []).append({"images": images, **here})
    else:
        made = here
    write_text(path, json.dumps(made, indent=2) + "\n")
