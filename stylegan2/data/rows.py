"""Where images come from before they are decoded: a folder, a zip, an array.

Nothing is ever unpacked to disk, so that no entry of an archive can write anywhere.
"""

import logging
import os
import zipfile
from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int
from PIL import Image

from stylegan2.data.decode import scaled
from stylegan2.data.fingerprint import array_fingerprint, fingerprint_of
from stylegan2.data.labels import (
    LIST,
    MAX_LIST_BYTES,
    Labels,
    check_labels,
    labels_of_files,
    numbers,
)
from stylegan2.data.names import is_image, printable, with_slashes

log = logging.getLogger(__name__)
MAX_BYTES = 2**28  # of one image file, unpacked: above, it is a zip bomb or no image


@runtime_checkable
class Rows(Protocol):
    """Numbered images that can be opened. Must survive pickling, for the processes that decode."""

    @property
    def what(self) -> str:
        """The path of it all, for messages: printable, as `name` is."""

    @property
    def labels(self) -> Int[np.ndarray, "n"] | None:
        """The class of each image."""

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def fingerprint(self) -> str:
        """As `ImageSource` says."""

    def __len__(self) -> int: ...

    def name(self, i: int) -> str:
        """What to call image i in a message."""
        ...

    def open(self, i: int) -> Image.Image:
        """Image i, its header read and its pixels not yet.

        Raises:
            Exception: nearly anything, out of Pillow and zipfile, when the file is broken.
        """
        ...


class FolderRows:
    """The image files in a folder and its subfolders, links followed, in the order of
    their names.

    Raises:
        ValueError: its `dataset.json` is broken, or not that of these files.
    """

    def __init__(self, path: Path):
        self.path, self.what = path, printable(path)
        self.files = sorted(image_files(path))
        self.labels, self.class_names = labels_of_files(self.files, self.files,
                                                        self.read_list, self.what)

    def read_list(self, name: str) -> bytes | None:
        """The bytes of a list of labels; nothing where there is no such file.

        Raises:
            ValueError: it cannot be read, or is too large for a list.
        """
        path = self.path / name
        if not path.is_file():
            return None
        check_list_size(path.stat().st_size, printable(path))
        try:
            return path.read_bytes()
        except OSError as error:
            raise ValueError(f"{printable(path)} cannot be read ({error}): make it "
                             "readable, or remove it to train without its labels"
                             ) from error

    @cached_property
    def fingerprint(self) -> str:
        parts = ((os.fsencode(file), b"%d" % (self.path / file).stat().st_size)
                 for file in self.files)
        return fingerprint_of(chain.from_iterable(parts), self.labels, self.class_names)

    def __len__(self) -> int:
        return len(self.files)

    def name(self, i: int) -> str:
        return printable(self.path / self.files[i])

    def open(self, i: int) -> Image.Image:
        return Image.open(self.path / self.files[i])


class ZipRows:
    """The image files in a zip, in the order of their names.

    Args:
        path: the zip.
        under: only entries whose name begins so.
        labelled: whether its folders, or its `dataset.json`, are classes.

    Raises:
        ValueError: the zip's table of contents is broken; or its `dataset.json` is, or
            is not that of these files.
    """

    def __init__(self, path: Path, under: str = "", labelled: bool = True):
        self.path, self.what = path, printable(path)
        try:
            entries = [entry for entry in self.archive.infolist() if entry.filename.startswith(under)]
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise ValueError(f"{self.what} cannot be read as a zip ({error}): fetch or "
                             "pack it again") from error
        images = [entry for entry in entries
                  if not entry.is_dir() and is_image(entry.filename)]
        self.files = sorted({entry.filename for entry in images if self.admits(entry)})
        known = [entry.filename for entry in images]
        labels: Labels = (labels_of_files(self.files, known, self.read_list, self.what)
                          if labelled else (None, ()))
        self.labels, self.class_names = labels

    def read_list(self, name: str) -> bytes | None:
        """The bytes of a list of labels; nothing where there is no such file.

        Raises:
            ValueError: it cannot be read, or is too large for a list.
        """
        lists = (entry for entry in self.archive.infolist()
                 if entry.filename.endswith(LIST))
        found = [entry for entry in lists if with_slashes(entry.filename) == name]
        if not found:
            return None
        entry = found[-1]  # as zipfile does with a name that is there twice
        check_list_size(entry.file_size, f"{name} of {self.what}")
        try:
            return self.archive.read(entry)  # no more bytes than were checked
        except Exception as error:  # zipfile's decoders raise nearly anything
            raise ValueError(f"{name} of {self.what} cannot be read ({error}): pack "
                             "the zip again, without a password") from error

    @cached_property
    def fingerprint(self) -> str:
        entries = map(self.archive.getinfo, self.files)
        parts = ((entry.filename.encode(), b"%d %d" % (entry.file_size, entry.CRC))
                 for entry in entries)
        return fingerprint_of(chain.from_iterable(parts), self.labels, self.class_names)

    @cached_property
    def archive(self) -> zipfile.ZipFile:
        """Opened by each process for itself: two that share a file share its position."""
        return zipfile.ZipFile(self.path)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "archive"}

    def admits(self, entry: zipfile.ZipInfo) -> bool:
        """Whether an image file is safe to read; what is not gets named in the log."""
        path, refusal = PurePosixPath(entry.filename.replace("\\", "/")), ""
        if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
            refusal = "its name climbs out of the zip"
        elif entry.flag_bits & 1:
            refusal = "it is encrypted; pack the zip again without a password"
        elif entry.file_size > MAX_BYTES:
            refusal = f"it would unpack to {entry.file_size} bytes, more than {MAX_BYTES}"
        if refusal:
            log.warning("skipped %s:%s: %s", self.what, entry.filename, refusal)
        return not refusal

    def __len__(self) -> int:
        return len(self.files)

    def name(self, i: int) -> str:
        return f"{self.what}:{self.files[i]}"

    def open(self, i: int) -> Image.Image:
        return Image.open(self.archive.open(self.files[i]))  # gives no more bytes than the size that was checked


class ArrayRows:
    """An array of images: [n, h, w], or [n, h, w, c] or [n, c, h, w] with c = 1 (grey), 3 (RGB), 4 (RGBA).

    Where both of the last two fit, it is the one that makes the images square; for
    3 × 3 and 4 × 4 pixels [n, h, w, c].

    Args:
        source: bytes, 0 … 255; or the path of an .npy file of them, which is read piece by piece as it is needed.
        labels: the class of each image, 0, 1, 2, …; or one-hot vectors.
        class_names: of the labels; their numbers, when left out.

    Raises:
        ValueError: the array does not hold bytes, or the labels no integers; the shapes are not those above; a label
            is negative, or above 65535; the file is no array; the shape is that of one
            picture, or can be read in two ways.
    """

    def __init__(self, source: np.ndarray | Path, labels: np.ndarray | None = None, class_names: Sequence[str] = ()):
        self.source = source
        self.what = printable(source) if isinstance(source, Path) else "the array"
        self.channels_last = check_array(self.array, self.what)
        self.labels, n_classes = None, 0
        if labels is not None:
            self.labels, n_classes = check_labels(labels, len(self.array), self.what)
        self.class_names = tuple(class_names) or numbers(n_classes)

    @cached_property
    def array(self) -> np.ndarray:
        return load_npy(self.source) if isinstance(self.source, Path) else self.source

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "array"}  # each process maps the file itself

    @cached_property
    def fingerprint(self) -> str:
        return array_fingerprint(self.array, self.labels, self.class_names)

    def __len__(self) -> int:
        return len(self.array)

    def name(self, i: int) -> str:
        return f"{self.what}[{i}]"

    def open(self, i: int) -> Image.Image:
        pixels = self.array[i]
        if pixels.ndim == 3 and not self.channels_last:
            pixels = np.moveaxis(pixels, 0, 2)  # [c, h, w] -> [h, w, c]
        return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels))

    def pixels(self, resolution: int, white: int | None, channels: int) -> np.ndarray | None:
        """All images as [n, channels, resolution, resolution], where they need no decoding, no resizing and no other
        colours; 0 … white (as `Preparation` says) scaled to 0 … 255.
        """
        array = self.array[:, None] if self.array.ndim == 3 else self.array
        if self.channels_last:
            array = np.moveaxis(array, 3, 1)
        as_they_are = array.shape[1] in (1, 3) and (array.shape[1], channels) != (3, 1)
        if not as_they_are or channels == 4 or array.shape[2:] != (resolution, resolution):
            return None
        if white is not None and white < 255:
            array = scaled(np.arange(256), white)[array]
        return np.array(np.broadcast_to(array, (len(array), channels, resolution, resolution)), order="C")


def load_npy(path: Path) -> np.ndarray:
    """
    Raises:
        ValueError: the file is no array, or one of Python objects, which could run code when read.
    """
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{printable(path)} cannot be read as an array of images "
                         f"({error}): write it again with numpy.save") from error


def read_npz(path: Path) -> ArrayRows:
    """The arrays `images` and, where there is one, `labels` of an .npz file.

    Raises:
        ValueError: as `ArrayRows` says; and there is no array of that name.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if "images" not in arrays:
                raise ValueError(f"it holds {', '.join(arrays) or 'nothing'}; name the array images, and labels theirs")
            return ArrayRows(arrays["images"], arrays.get("labels"))
    except (ValueError, EOFError, OSError, MemoryError, zipfile.BadZipFile) as error:
        raise ValueError(f"{printable(path)} cannot be used as arrays of images: "
                         f"{error}") from error


def check_array(array: np.ndarray, what: str) -> bool:
    """
    Returns:
        Whether the last axis holds the channels.

    Raises:
        ValueError: as `ArrayRows` says.
    """
    shape = list(array.shape)
    if array.dtype != np.uint8:
        raise ValueError(f"{what} holds {array.dtype}: images must be uint8, 0 … 255; "
                         "convert them first, with ((array - black) * (255 / (white - "
                         "black))).clip(0, 255).round().astype(np.uint8), where black "
                         "and white are the values of a black and a white pixel")
    first, last = (len(shape) == 4 and shape[axis] in (1, 3, 4) for axis in (1, 3))
    if not (len(shape) == 3 or first or last) or 0 in shape:
        raise ValueError(f"{what} has the shape {shape}: images are [n, h, w], "
                         "[n, h, w, c] or [n, c, h, w] with c = 1, 3 or 4; array[None] "
                         "makes a set of one image")
    narrow = len(shape) == 3 and shape[2] <= 4 and shape[1] != shape[2]
    if narrow or (len(shape) == 3 and shape[0] in (3, 4)):
        raise ValueError(f"{what} has the shape {shape}, which is that of one picture "
                         "with its channels: array[None] makes it a set of one, "
                         f"array[..., None] a set of {shape[0]} grey pictures")
    if first and last and shape[2] not in (shape[1], shape[3]):
        raise ValueError(f"{what} has the shape {shape}, which can be [n, h, w, c] and "
                         "[n, c, h, w]: turn the former into the latter with "
                         "array.transpose(0, 3, 1, 2), or the other way round with "
                         "array.transpose(0, 2, 3, 1)")
    return last and not (first and shape[2] == shape[3] != shape[1])


def check_list_size(size: int, what: str) -> None:
    """
    Raises:
        ValueError: so many bytes are no list of labels.
    """
    if size > MAX_LIST_BYTES:
        raise ValueError(f"{what} has {size} bytes, more than {MAX_LIST_BYTES}, so it "
                         "is no list of labels: remove it to train without its labels")


def image_files(folder: Path) -> list[str]:
    """Paths of the image files below a folder, relative to it, with slashes on every
    system. A folder that links lead to twice counts once.
    """
    found: list[str] = []
    visited: set[tuple[int, int]] = set()
    for here, folders, files in os.walk(folder, followlinks=True, onerror=lambda e: log.warning("skipped %s", e)):
        status = os.stat(here)
        if (status.st_dev, status.st_ino) in visited:  # a link to a folder above, or to one seen
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders.sort()
        paths = [os.path.join(here, file) for file in files if is_image(file)]
        found += [PurePath(os.path.relpath(path, folder)).as_posix()
                  for path in paths if os.path.isfile(path)]  # no pipe, no dead link
    return found
