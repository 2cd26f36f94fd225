"""What training draws images from, kept in memory or decoded when asked for."""

import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from stylegan2.data.decode import Colour, check_size, prepare
from stylegan2.data.rows import SUFFIXES, ArrayRows, Rows

log = logging.getLogger(__name__)


@runtime_checkable
class ImageSource(Protocol):
    """A set of square RGB images of one size, in classes or not."""

    @property
    def resolution(self) -> int:
        """Side in pixels."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of labels 0, 1, 2, …; empty for a set without labels."""

    @property
    def n_classes(self) -> int:
        """The number of classes; 0 for a set without labels."""

    def __len__(self) -> int: ...

    def images(self, index: Int[Tensor, "batch"]) -> UInt8[Tensor, "batch 3 side side"]:
        """The images of these indices, 0 … 255. The same whenever and wherever it is called."""
        ...

    def labels(self, index: Int[Tensor, "batch"]) -> Int[Tensor, "batch"] | None:
        """Their classes, 0 … n_classes − 1."""
        ...


class StoredImages:
    """Images in memory, 3·resolution² bytes each.

    Args:
        pixels: 0 … 255.
        labels: the class of each image.
        class_names: of the labels; their numbers, when left out.
    """

    def __init__(self, pixels: UInt8[Tensor, "n 3 side side"], labels: Int[Tensor, "n"] | None = None,
                 class_names: tuple[str, ...] = ()):
        self.pixels, self.classes = pixels, labels
        self.resolution = pixels.shape[-1]
        self.n_classes = 0 if labels is None else max(len(class_names), int(labels.max()) + 1)
        self.class_names = class_names or tuple(str(k) for k in range(self.n_classes))

    def __len__(self) -> int:
        return len(self.pixels)

    def images(self, index: Int[Tensor, "batch"]) -> UInt8[Tensor, "batch 3 side side"]:
        return self.pixels[index]

    def labels(self, index: Int[Tensor, "batch"]) -> Int[Tensor, "batch"] | None:
        return None if self.classes is None else self.classes[index]

    def to(self, device: torch.device) -> "StoredImages":
        """The same images in the memory of a device."""
        classes = None if self.classes is None else self.classes.to(device)
        return StoredImages(self.pixels.to(device), classes, self.class_names)


class DecodedImages:
    """Images decoded each time they are asked for.

    A file that turns out broken behind its header gives way to the next one of its class, always the same one, so
    that the set keeps its size and its order.

    Args:
        rows: where the images come from.
        usable: which of them to use.
        resolution: side that they are resized to.
        background: the colour behind transparent pixels.
    """

    def __init__(self, rows: Rows, usable: Int[np.ndarray, "n"], resolution: int, background: Colour):
        self.rows, self.usable, self.resolution, self.background = rows, usable, resolution, background
        self.class_names, self.n_classes = rows.class_names, len(rows.class_names)

    def __len__(self) -> int:
        return len(self.usable)

    def images(self, index: Int[Tensor, "batch"]) -> UInt8[Tensor, "batch 3 side side"]:
        return torch.from_numpy(np.stack([self.image(int(i)) for i in index])).permute(0, 3, 1, 2).contiguous()

    def labels(self, index: Int[Tensor, "batch"]) -> Int[Tensor, "batch"] | None:
        return None if self.rows.labels is None else torch.from_numpy(self.rows.labels[self.usable[index.numpy()]])

    def image(self, i: int) -> UInt8[np.ndarray, "side side 3"]:
        """Image i, or the first one of its class after it that can be decoded."""
        labels = self.rows.labels
        for row in np.roll(self.usable, -i):
            if labels is None or labels[row] == labels[self.usable[i]]:
                pixels = decode(self.rows, int(row), self.resolution, self.background)
                if pixels is not None:
                    return pixels
        raise ValueError(f"no image of {self.rows.what} can be decoded; the log says what is wrong with each")


def decode(rows: Rows, row: int, resolution: int, background: Colour) -> UInt8[np.ndarray, "side side 3"] | None:
    """One image; nothing for a broken file, which is named in the log."""
    try:
        with rows.open(row) as image:
            return prepare(image, resolution, background)
    except Exception as error:  # Pillow's decoders raise nearly anything on a broken file
        log.warning("skipped %s: %s", rows.name(row), error)
        return None


def has_header(rows: Rows, row: int) -> bool:
    """Whether it begins like an image, and not like a bomb; what does not is named in the log."""
    try:
        with rows.open(row) as image:
            check_size(image)
        return True
    except Exception as error:
        log.warning("skipped %s: %s", rows.name(row), error)
        return False


def decode_now(rows: Rows, resolution: int, background: Colour) -> StoredImages:
    """All the images in memory.

    Raises:
        ValueError: none of them is usable.
    """
    whole = rows.pixels(resolution) if isinstance(rows, ArrayRows) else None
    if whole is not None:
        labels = None if rows.labels is None else torch.from_numpy(rows.labels)
        return StoredImages(torch.from_numpy(whole), labels, rows.class_names)
    pixels = np.empty((len(rows), resolution, resolution, 3), np.uint8)

    def fill(row: int) -> bool:
        image = decode(rows, row, resolution, background)
        if image is not None:
            pixels[row] = image
        return image is not None

    with ThreadPoolExecutor() as pool:
        usable = usable_rows(rows, pool.map(fill, range(len(rows))))
    labels = None if rows.labels is None else torch.from_numpy(rows.labels[usable])
    return StoredImages(torch.from_numpy(pixels[usable]).permute(0, 3, 1, 2).contiguous(), labels, rows.class_names)


def decode_later(rows: Rows, resolution: int, background: Colour) -> DecodedImages:
    """All the images whose header can be read.

    Raises:
        ValueError: there is none.
    """
    with ThreadPoolExecutor() as pool:
        usable = usable_rows(rows, pool.map(lambda row: has_header(rows, row), range(len(rows))))
    return DecodedImages(rows, usable, resolution, background)


def usable_rows(rows: Rows, usable: Iterable[bool]) -> Int[np.ndarray, "n"]:
    """The numbers of the usable rows.

    Raises:
        ValueError: there is none.
    """
    found = np.flatnonzero(list(usable))
    if len(rows) == 0:
        raise ValueError(f"there is no image in {rows.what}: no file ends in {', '.join(sorted(SUFFIXES))}, or the log "
                         "says why it was refused")
    if len(found) == 0:
        raise ValueError(f"no usable image in {rows.what}: none of its {len(rows)} images could be read; the log says "
                         "what is wrong with each")
    if len(found) < len(rows):
        log.warning("%s: skipped %d of %d images", rows.what, len(rows) - len(found), len(rows))
    return found
