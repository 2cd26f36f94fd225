"""Where images come from before they are decoded: a folder, a zip, an array.

Nothing is ever unpacked to disk, so that no entry of an archive can write anywhere.
"""

import logging
import os
import zipfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int
from PIL import Image

log = logging.getLogger(__name__)
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
MAX_BYTES = 2**28  # of one image file, unpacked: above, it is a zip bomb or no image


@runtime_checkable
class Rows(Protocol):
    """Numbered images that can be opened. Must survive pickling, for the processes that decode."""

    @property
    def what(self) -> str:
        """The path of it all, for messages."""

    @property
    def labels(self) -> Int[np.ndarray, "n"] | None:
        """The class of each image."""

    @property
    def class_names(self) -> tuple[str, ...]: ...

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
    """The image files in a folder and its subfolders, links followed, in the order of their names."""

    def __init__(self, path: Path):
        self.path, self.what = path, str(path)
        self.files = sorted(image_files(path))
        self.labels, self.class_names = classes([str(PurePosixPath(*Path(file).parts)) for file in self.files])

    def __len__(self) -> int:
        return len(self.files)

    def name(self, i: int) -> str:
        return str(self.path / self.files[i])

    def open(self, i: int) -> Image.Image:
        return Image.open(self.path / self.files[i])


class ZipRows:
    """The image files in a zip, in the order of their names.

    Args:
        path: the zip.
        under: only entries whose name begins so.
        labelled: whether its folders are classes.

    Raises:
        ValueError: the zip's table of contents is broken.
    """

    def __init__(self, path: Path, under: str = "", labelled: bool = True):
        self.path, self.what = path, str(path)
        try:
            entries = [entry for entry in self.archive.infolist() if entry.filename.startswith(under)]
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise ValueError(f"{path} cannot be read as a zip ({error}): fetch or pack it again") from error
        self.files = sorted({entry.filename for entry in entries if self.admits(entry)})
        self.labels, self.class_names = classes(self.files) if labelled else (None, ())

    @cached_property
    def archive(self) -> zipfile.ZipFile:
        """Opened by each process for itself: two that share a file share its position."""
        return zipfile.ZipFile(self.path)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "archive"}

    def admits(self, entry: zipfile.ZipInfo) -> bool:
        """Whether an entry is an image file that is safe to read; what is not gets named in the log."""
        if entry.is_dir() or not is_image(entry.filename):
            return False
        path, refusal = PurePosixPath(entry.filename.replace("\\", "/")), ""
        if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
            refusal = "its name climbs out of the zip"
        elif entry.flag_bits & 1:
            refusal = "it is encrypted; pack the zip again without a password"
        elif entry.file_size > MAX_BYTES:
            refusal = f"it would unpack to {entry.file_size} bytes, more than {MAX_BYTES}"
        if refusal:
            log.warning("skipped %s:%s: %s", self.path, entry.filename, refusal)
        return not refusal

    def __len__(self) -> int:
        return len(self.files)

    def name(self, i: int) -> str:
        return f"{self.path}:{self.files[i]}"

    def open(self, i: int) -> Image.Image:
        return Image.open(self.archive.open(self.files[i]))  # gives no more bytes than the size that was checked


class ArrayRows:
    """An array of images: [n, h, w], or [n, h, w, c] or [n, c, h, w] with c = 1 (grey), 3 (RGB), 4 (RGBA).

    Args:
        source: bytes, 0 … 255; or the path of an .npy file of them, which is read piece by piece as it is needed.
        labels: the class of each image, 0, 1, 2, …
        class_names: of the labels; their numbers, when left out.

    Raises:
        ValueError: the array does not hold bytes, or the labels no integers; the shapes are not those above; a label
            is negative; the file is no array.
    """

    def __init__(self, source: np.ndarray | Path, labels: np.ndarray | None = None, class_names: Sequence[str] = ()):
        self.source, self.what = source, str(source) if isinstance(source, Path) else "the array"
        check_array(self.array, self.what)
        self.labels = None if labels is None else check_labels(labels, len(self.array), self.what)
        n_classes = 0 if self.labels is None else int(self.labels.max()) + 1
        self.class_names = tuple(class_names) or tuple(str(k) for k in range(n_classes))

    @cached_property
    def array(self) -> np.ndarray:
        return load_npy(self.source) if isinstance(self.source, Path) else self.source

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "array"}  # each process maps the file itself

    def __len__(self) -> int:
        return len(self.array)

    def name(self, i: int) -> str:
        return f"{self.what}[{i}]"

    def open(self, i: int) -> Image.Image:
        pixels = self.array[i]
        if pixels.ndim == 3 and pixels.shape[2] not in (1, 3, 4):
            pixels = np.moveaxis(pixels, 0, 2)  # [c, h, w] -> [h, w, c]
        return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels))

    def pixels(self, resolution: int) -> np.ndarray | None:
        """All images as [n, 3, resolution, resolution], where they need neither decoding nor resizing."""
        array = self.array[:, None] if self.array.ndim == 3 else self.array
        if self.array.ndim == 4 and array.shape[3] in (1, 3, 4):
            array = np.moveaxis(array, 3, 1)
        if array.shape[1] == 4 or array.shape[2:] != (resolution, resolution):
            return None
        return np.array(np.broadcast_to(array, (len(array), 3, resolution, resolution)), order="C")


def load_npy(path: Path) -> np.ndarray:
    """
    Raises:
        ValueError: the file is no array, or one of Python objects, which could run code when read.
    """
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} cannot be read as an array of images ({error})") from error


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
        raise ValueError(f"{path} cannot be used as arrays of images: {error}") from error


def check_array(array: np.ndarray, what: str) -> None:
    """
    Raises:
        ValueError: as `ArrayRows` says.
    """
    if array.dtype != np.uint8:
        raise ValueError(f"{what} holds {array.dtype}: images must be uint8, 0 … 255; scale and convert them first")
    channels = array.ndim == 4 and (array.shape[1] in (1, 3, 4) or array.shape[3] in (1, 3, 4))
    if not (array.ndim == 3 or channels) or 0 in array.shape:
        raise ValueError(f"{what} has the shape {list(array.shape)}: images are [n, h, w], [n, h, w, c] or "
                         "[n, c, h, w] with c = 1, 3 or 4")


def check_labels(labels: np.ndarray, n: int, what: str) -> Int[np.ndarray, "n"]:
    """
    Raises:
        ValueError: as `ArrayRows` says.
    """
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"the labels of {what} are {labels.dtype}: they must be integers, 0, 1, 2, …")
    if labels.shape != (n,) or labels.min() < 0:
        raise ValueError(f"the labels of {what} have the shape {list(labels.shape)} and begin at {labels.min()}: there "
                         f"must be {n} of them, one for each image, 0 or more")
    return labels.astype(np.int64)


def image_files(folder: Path) -> list[str]:
    """Paths of the image files below a folder, relative to it. A folder that links lead to twice counts once."""
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
        found += [os.path.relpath(path, folder) for path in paths if os.path.isfile(path)]  # no pipe, no dead link
    return found


def is_image(name: str) -> bool:
    """By its ending; the side files that macOS leaves in archives have the ending and are none."""
    path = PurePosixPath(name)
    return path.suffix.lower() in SUFFIXES and not path.name.startswith("._")


def classes(names: Sequence[str]) -> tuple[Int[np.ndarray, "n"] | None, tuple[str, ...]]:
    """Labels by the first folder in which the paths differ: train/cat/1.png, train/dog/2.png → cat, dog.

    Returns:
        No labels where there is one folder only, or where a file lies beside the folders.
    """
    parents = [PurePosixPath(name).parent.parts for name in names]
    levels = zip(*parents, strict=False)  # as many as the least deep file has
    depth = next((k for k, level in enumerate(levels) if len(set(level)) > 1), None)
    if depth is None:
        return None, ()
    class_names = sorted({parent[depth] for parent in parents})
    number = {name: k for k, name in enumerate(class_names)}
    return np.array([number[parent[depth]] for parent in parents]), tuple(class_names)
