"""Files: written whole or not at all, never over what this program did not write, and read
back with their checksum.
"""

import contextlib
import errno
import hashlib
import json
import mmap
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

State = dict[str, Any]
SOFTWARE = "annotated-stylegan2-gradnorm"
"""Stands, with the kind of the file, in every picture, film and report that is written, so that the
next one may take its place, and a photograph of the same name may not lose it."""


class CheckpointError(ValueError):
    """A file of tensors that cannot be read, or that does not fit the networks."""


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path to write to, beside `path`, with its suffix. It takes the name `path` when the
    block ends; when that raises, it is gone and what was at `path` stays. A kill leaves it.

    Raises:
        OSError: the folder cannot be made or written, or `path` is a folder; found out before
            the block begins.
    """
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder; give the name of a file")
        if path.exists() and not path.is_file():  # else a device would be replaced by a file
            raise OSError(errno.EINVAL, "it is no ordinary file")
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
    except OSError as error:
        message = f"cannot write {path}: {error.strerror}"
        raise type(error)(message) from error
    mode = part.stat().st_mode  # what the user's mask gives; safetensors would make it private
    try:
        yield part
        part.chmod(mode)
        with open(part, "rb") as file:
            os.fsync(file.fileno())  # on the disk before it takes the name
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def output(path: Path, kind: str) -> Iterator[Path]:
    """`whole`, for what a user asked for by name: only a file of ours, and of this kind, gives way.

    Args:
        kind: "picture", "report" or "latents": what `mark` put into it. Never "weights".

    Raises:
        FileExistsError: `path` is a file that this program did not write, or not as such.
        OSError: as `whole` says.
    """
    if path.is_file() and not is_ours(path, kind):
        raise FileExistsError(
            f"{path} is there already and was not written by this program as a {kind}, so it stays: "
            "give another name, or move it away")
    with whole(path) as part:
        yield part


def mark(kind: str) -> str:
    """What a file of ours says of itself."""
    return f"{SOFTWARE} {kind}"


def is_ours(path: Path, kind: str) -> bool:
    """Whether a file says that this program wrote it, as this kind; or is empty."""
    with open(path, "rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return True
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(mark(kind).encode()) >= 0


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, beside `path`; its content is moved there when the block ends. When that
    raises, nothing is left.

    Raises:
        FileExistsError: `path` is there, and is no empty folder.
        OSError: the folder cannot be made; found out before the block begins.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(
            f"{path} exists and is not an empty folder: nothing is overwritten; name another one, "
            "or move it away")
    part = path.absolute().with_name(f".{path.absolute().name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
    except OSError as error:
        raise type(error)(f"cannot write {path}: {error.strerror}") from error
    try:
        yield part
        if path.is_dir():  # an empty one keeps its owner and its rights
            for entry in part.iterdir():
                os.replace(entry, path / entry.name)
        else:
            os.replace(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a small file, in UTF-8 wherever this runs.

    Raises:
        OSError: as `whole` says, or the disk is full.
    """
    with whole(path) as part:
        part.write_text(text, encoding="utf-8")


def silence_stdout() -> None:
    """Send what is still printed nowhere, so that the interpreter does not stumble over a closed
    pipe at its end.
    """
    with contextlib.suppress(OSError, ValueError):  # a notebook's or a test's is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no JSON; the message names it.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: it holds no JSON ({error})") from error


def save_tensors(path: Path, tensors: dict[str, Tensor], state: State, kind: str = "weights") -> None:
    """Write tensors, a JSON-able state, and a checksum of both.

    Args:
        kind: of what they are, for `output`.

    Raises:
        OSError: the folder cannot be written, or the disk is full; what was there before stays.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    words = json.dumps(state)
    metadata = {"state": words, "sha256": checksum(tensors, words), "software": mark(kind)}
    try:
        with whole(path) as part:
            save_file(tensors, part, metadata)
    except SafetensorError as error:
        raise OSError(f"could not write {path}: {error}") from error


def load_tensors(path: Path) -> tuple[dict[str, Tensor], State]:
    """What `save_tensors` wrote. A file without a checksum, of an earlier version, is taken as it
    is.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be opened.
        CheckpointError: the file is cut short or changed, or not one of ours.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        path.open("rb").close()
    except OSError as error:
        raise type(error)(f"{path} cannot be opened ({error.strerror}): see to its rights, or copy "
                          "it to where you can read it") from error
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            words, state = metadata["state"], json.loads(metadata["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}): it is cut short or was not written by this program. "
            f"{ADVICE}") from error
    if metadata.get("sha256") not in (None, checksum(tensors, words)):
        raise CheckpointError(f"{path} has changed since it was written: its checksum is another. "
                              f"{ADVICE}")
    return tensors, state


ADVICE = ("Copy it again if it is a copy; of a run, move it away to go on from the checkpoint "
          "before it")


def checksum(tensors: dict[str, Tensor], words: str) -> str:
    """SHA-256 of names, types, shapes and numbers, and of the state."""
    digest = hashlib.sha256(words.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_module(name: str, module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Put back a module's state_dict that was saved under the prefix `name` (or, when that is
    empty, under none).

    Raises:
        CheckpointError: a tensor is missing, is one too many, or has another shape; the first is
            named.
    """
    saved = with_prefix(name, tensors)
    check_fit(saved, module, path)
    module.load_state_dict(saved)


def with_prefix(name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with `name.`, without it; all of them for an empty name."""
    prefix = name + "." if name else ""
    return {key[len(prefix):]: value for key, value in tensors.items() if key.startswith(prefix)}


def check_fit(saved: dict[str, Tensor], module: nn.Module, path: Path) -> None:
    """
    Args:
        module: may be on the meta device, so that a network of absurd size costs nothing.

    Raises:
        CheckpointError: as `load_module` says.
    """
    wanted = module.state_dict()
    for key in sorted(saved.keys() ^ wanted.keys()):
        what = "missing in the file" if key in wanted else "not part of this network"
        raise CheckpointError(f"{path} was written by another network: {key} is {what}. "
                              "Use the settings that it was trained with")
    for key, value in saved.items():
        if value.shape != wanted[key].shape:
            raise CheckpointError(
                f"{path} does not fit these settings: {key} is {list(value.shape)} in the file and "
                f"{list(wanted[key].shape)} here. Use the settings that it was trained with")
