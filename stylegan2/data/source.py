"""What training draws images from, kept in memory or decoded when asked for."""

import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from stylegan2.data.decode import (
    Brightness,
    Preparation,
    brightness,
    check_size,
    prepare,
    raw_mode,
)
from stylegan2.data.fingerprint import array_fingerprint, evenly_spread
from stylegan2.data.names import SUFFIXES
from stylegan2.data.rows import ArrayRows, Rows

log = logging.getLogger(__name__)
DARK = 31  # of 255: a set with nothing brighter uses less than 5 of 8 bits
LOOKED_AT = 64  # images of a set that is decoded later, to see whether it is dark


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

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits, the same for the same set wherever it lies, and others
        when images or labels are added, taken away, renamed or changed. Worked out when
        asked for, from names and sizes rather than pixels where there are files; the
        resolution, the background and the white do not change it.
        """

    def __len__(self) -> int: ...

    def images(self, index: Int[Tensor, "batch"]) -> UInt8[Tensor, "batch channels side side"]:
        """The images of these indices, 0 … 255. The same whenever and wherever it is called."""
        ...

    def labels(self, index: Int[Tensor, "batch"]) -> Int[Tensor, "batch"] | None:
        """Their classes, 0 … n_classes − 1."""
        ...


class StoredImages:
    """Images in memory, channels·resolution² bytes each.

    Args:
        pixels: 0 … 255.
        labels: the class of each image.
        class_names: of the labels; their numbers, when left out.
        origin: what they were decoded from, whose fingerprint they have.
    """

    def __init__(self, pixels: UInt8[Tensor, "n channels side side"], labels: Int[Tensor, "n"] | None = None,
                 class_names: tuple[str, ...] = (), origin: Rows | None = None):
        self.pixels, self.classes, self.origin = pixels, labels, origin
        self.resolution = pixels.shape[-1]
        self.n_classes = 0 if labels is None else max(len(class_names), int(labels.max()) + 1)
        self.class_names = class_names or tuple(str(k) for k in range(self.n_classes))

    @cached_property
    def fingerprint(self) -> str:
        if self.origin is not None:
            return self.origin.fingerprint
        labels = None if self.classes is None else self.classes.numpy(force=True)
        return array_fingerprint(self.pixels, labels, self.class_names)

    def __len__(self) -> int:
        return len(self.pixels)

    def images(self, index: Int[Tensor, "batch"]) -> UInt8[Tensor, "batch channels side side"]:
        return self.pixels[index]

    def labels(self, index: Int[Tensor, "batch"]) -> Int[Tensor, "batch"] | None:
        return None if self.classes is None else self.classes[index]

    def to(self, device: torch.device) -> "StoredImages":
        """The same images in the memory of a device."""
        classes = None if self.classes is None else self.classes.to(device)
        pixels = self.pixels.to(device)
        return StoredImages(pixels, classes, self.class_names, self.origin)


class DecodedImages:
    """Images decoded each time they are asked for.

    A file that turns out broken behind its header gives way to the next one of its class, always the same one, so
    that the set keeps its size and its order.

    Args:
        rows: where the images come from.
        usable: which of them to use.
        preparation: what becomes of each.
    """

    def __init__(self, rows: Rows, usable: Int[np.ndarray, "n"],
                 preparation: Preparation):
        self.rows, self.usable, self.preparation = rows, usable, preparation
        self.resolution = preparation.resolution
        self.class_names, self.n_classes = rows.class_names, len(rows.class_names)

    @property
    def fingerprint(self) -> str:
        return self.rows.fingerprint

    def __len__(self) -> int:
        return len(self.usable)

    def images(self, index: Int[Tensor, "batch"]) -> UInt8[Tensor, "batch channels side side"]:
        return torch.from_numpy(np.stack([self.image(int(i)) for i in index])).permute(0, 3, 1, 2).contiguous()

    def labels(self, index: Int[Tensor, "batch"]) -> Int[Tensor, "batch"] | None:
        return None if self.rows.labels is None else torch.from_numpy(self.rows.labels[self.usable[index.numpy()]])

    def image(self, i: int) -> UInt8[np.ndarray, "side side channels"]:
        """Image i, or the first one of its class after it that can be decoded."""
        labels = self.rows.labels
        for row in np.roll(self.usable, -i):
            if labels is None or labels[row] == labels[self.usable[i]]:
                decoded = decode(self.rows, int(row), self.preparation)
                if decoded is not None:
                    return decoded[0]
        raise ValueError(f"no image of {self.rows.what} can be decoded; the log says what is wrong with each")


def decode(rows: Rows, row: int, preparation: Preparation
           ) -> tuple[UInt8[np.ndarray, "side side channels"], Brightness | None] | None:
    """One image, and its brightness where no pixel of it exceeds `DARK`; nothing for a
    broken file, which is named in the log.
    """
    try:
        with rows.open(row) as image:
            raw, pixels = raw_mode(image), prepare(image, *preparation)
            return pixels, None if pixels[..., :3].max() > DARK else brightness(image, raw)
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


def decode_now(rows: Rows, preparation: Preparation) -> StoredImages:
    """All the images in memory.

    Raises:
        ValueError: none of them is usable, or as `check_dark` says.
    """
    side, white = preparation.resolution, preparation.white
    whole = rows.pixels(side, white, preparation.channels) if isinstance(rows, ArrayRows) else None
    if isinstance(rows, ArrayRows) and whole is not None:
        if whole.max() <= DARK:
            most = Brightness(int(rows.array.max()), 255, False)
            check_dark(rows.what, [most], len(rows), white)
        labels = None if rows.labels is None else torch.from_numpy(rows.labels)
        return StoredImages(torch.from_numpy(whole), labels, rows.class_names, rows)
    pixels = np.empty((len(rows), side, side, preparation.channels), np.uint8)
    dark_ones: dict[int, Brightness | None] = {}

    def fill(row: int) -> bool:
        decoded = decode(rows, row, preparation)
        if decoded is not None:
            pixels[row], dark_ones[row] = decoded
        return decoded is not None

    with ThreadPoolExecutor() as pool:
        usable = usable_rows(rows, pool.map(fill, range(len(rows))))
    check_dark(rows.what, list(dark_ones.values()), len(usable), white)
    labels = None if rows.labels is None else torch.from_numpy(rows.labels[usable])
    images = torch.from_numpy(pixels[usable]).permute(0, 3, 1, 2).contiguous()
    return StoredImages(images, labels, rows.class_names, rows)


def decode_later(rows: Rows, preparation: Preparation) -> DecodedImages:
    """All the images whose header can be read.

    Raises:
        ValueError: there is none, or as `check_dark` says of a few of them.
    """
    with ThreadPoolExecutor() as pool:
        usable = usable_rows(rows, pool.map(lambda row: has_header(rows, row), range(len(rows))))
        some = usable[evenly_spread(len(usable), LOOKED_AT)]
        decoded = list(pool.map(lambda row: decode(rows, int(row), preparation), some))
    found = [image[1] for image in decoded if image is not None]
    check_dark(rows.what, found, len(found), preparation.white)
    return DecodedImages(rows, usable, preparation)


def check_dark(what: str, found: Sequence[Brightness | None], n: int,
               white: int | None) -> None:
    """Whether images use so small a part of their range that it will be the wrong one.

    Args:
        what: the set, for messages.
        found: the brightness of images that come out dark, and nothing for others.
        n: how many images these are.
        white: as `Preparation` says. Where it is given, the log gets a warning.

    Raises:
        ValueError: nothing is brighter than `DARK`, in the files too, and no white is
            given.
    """
    if not found or None in found:
        return
    value, most, cut = max(filter(None, found), key=lambda b: b.value / b.most)
    end = most
    if white is not None:
        end = white if most > 255 and not cut else min(white, 255) * most // 255
    if value * 255 // end > DARK:  # it is the resize that took the few bright pixels
        return
    seen = (f"the images of {what} are nearly black: the brightest pixel of {n} of "
            f"them is {'at most ' if cut else ''}{value} of {most}")
    if white is not None:
        log.warning("%s, though --white is %d", seen, white)
        return
    as_they_are = f"--white {most} takes them as they are"
    if cut:
        raise ValueError(f"{seen}, and only the upper 8 of the 16 bits of such colours "
                         "can be read: convert them to 8 bits first, stretched to the "
                         f"whole range; {as_they_are}")
    if value == 0:
        raise ValueError(f"{seen}: look whether these are the images that you meant; "
                         f"{as_they_are}")
    if most == 255:
        usual, stretch = "masks or digits stored as small numbers", value
    else:
        bits = next(bits for bits in (8, 10, 12, 14) if value < 2**bits)
        usual, stretch = f"pictures of {bits} bits stored in 16", 2**bits - 1
    raise ValueError(f"{seen}, as in {usual}: --white {stretch} stretches them to the "
                     f"whole range, {as_they_are}")


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
