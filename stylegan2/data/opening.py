"""From the name of a set to its images, and the order in which a run sees them."""

import logging
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from PIL import ImageOps
from torch import Tensor

from stylegan2.data.decode import Colour, Preparation, check_colours, check_size, to_8_bits
from stylegan2.data.fingerprint import evenly_spread
from stylegan2.data.named import NAMED_SETS
from stylegan2.data.names import printable
from stylegan2.data.rows import ArrayRows, FolderRows, Rows, ZipRows, read_npz
from stylegan2.data.source import ImageSource, decode_later, decode_now
from stylegan2.data.toyfaces import ToyFaces

log = logging.getLogger(__name__)
MEMORY_LIMIT = 2**31  # bytes: a set that needs no more than this as pixels is decoded once and kept


def open_source(data: str | Path | np.ndarray | Tensor | ImageSource, resolution: int,
                background: Colour = (255, 255, 255), seed: int = 0,
                white: int | None = None, channels: int = 3) -> ImageSource:
    """The images that `data` names.

    Args:
        data: "toyfaces"; a public set of `NAMED_SETS`, fetched once; the path of a folder, a zip, an .npy or .npz file;
            an array (uint8; shapes as in `ArrayRows`); or a source, as it is.
        resolution: side that images are resized to.
        background: the colour behind transparent pixels, 0 … 255.
        seed: of procedural images.
        white: value of the brightest pixel that the files can hold, 1 … 65535: 255, or
            65535 in 16 bits, when not given; 4095 for 12 bits stored in 16. What is
            above becomes white; one above 255 leaves images of 8 bits as they are.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA) of the images; transparent pixels are laid
            over the background unless there are 4.

    Raises:
        FileNotFoundError: there is nothing of that name.
        ConnectionError: a public set could not be fetched.
        ValueError: the resolution is not a power of two of at least 4, or not that of the source; or there is no usable
            image; the background or the white is out of its range; the labels are
            broken; no white is given and no pixel exceeds 31 of 255.
    """
    check_resolution(resolution)
    check_colours(background, white)
    if isinstance(data, str) and data == "toyfaces":
        if channels != 3:
            raise ValueError(f"channels is {channels}: toyfaces are RGB, with 3")
        return ToyFaces(resolution, seed=seed)
    if not isinstance(data, str | Path | np.ndarray | Tensor):
        if data.resolution != resolution:
            raise ValueError(f"the source has images of {data.resolution}², the resolution asked for is {resolution}")
        return data
    rows, size = open_rows(data), channels * resolution**2
    preparation = Preparation(resolution, background, white, channels)
    if len(rows) * size <= MEMORY_LIMIT:
        return decode_now(rows, preparation)
    log.info("%s: %d images of %d² would take %.1f GiB decoded, more than the %.0f GiB that are kept in memory; each "
             "is decoded when it is needed", rows.what, len(rows), resolution, len(rows) * size / 2**30,
             MEMORY_LIMIT / 2**30)
    return decode_later(rows, preparation)


def open_rows(data: str | Path | np.ndarray | Tensor) -> Rows:
    """The images that `data` names, not yet decoded.

    Raises:
        FileNotFoundError, ConnectionError, ValueError: as `open_source` says.
    """
    if isinstance(data, Tensor):
        data = data.numpy(force=True)
    if isinstance(data, np.ndarray):
        return ArrayRows(data)
    if str(data) in NAMED_SETS:
        return NAMED_SETS[str(data)].open()
    path = Path(data)
    if path.is_dir():
        return FolderRows(path)
    if not path.is_file():
        raise FileNotFoundError("there is no folder, zip, .npy or .npz at "
                                f"{printable(path)}; the names of sets are toyfaces, "
                                f"{', '.join(NAMED_SETS)}")
    if path.suffix == ".npy":
        return ArrayRows(path)
    if path.suffix == ".npz":
        return read_npz(path)
    if zipfile.is_zipfile(path):
        return ZipRows(path)
    raise ValueError(f"{printable(path)} is neither a folder nor a zip of images, nor "
                     "an .npy or .npz array")


def check_resolution(resolution: int) -> None:
    """
    Raises:
        ValueError: resolution is not a power of two of at least 4, the sides that the networks can have.
    """
    if resolution < 4 or resolution & (resolution - 1):
        raise ValueError(f"resolution is {resolution}: it must be a power of two, 4 or more (4, 8, 16, 32, …)")


def shuffled_indices(size: int, position: int, count: int, seed: int) -> Int[Tensor, "count"]:
    """The indices that a run sees after `position` images: every epoch all of them once, in an order of its own.

    A function of its arguments alone, so that a resumed run goes on exactly where it stopped.
    """
    positions = torch.arange(position, position + count)
    epochs, offsets = positions // size, positions % size
    return torch.stack([epoch_order(size, int(e), seed)[o] for e, o in zip(epochs, offsets, strict=True)])


@lru_cache(maxsize=2)
def epoch_order(size: int, epoch: int, seed: int) -> Int[Tensor, "size"]:
    """The order in which one epoch goes through the set."""
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))


LOOKED_AT = 64  # images of a set, to find out whether it is grey
GREY = 6  # levels of 255 that red, green and blue of a grey pixel may differ by


def channels_of(data: str) -> Literal[1, 3]:
    """1 for a set whose images are all grey, as far as a few tell, whatever they are stored as; else 3. A public set
    is not fetched for it.

    Raises:
        FileNotFoundError, ValueError: as `open_source` says.
    """
    if data == "toyfaces" or data in NAMED_SETS:
        return 1 if data == "fashion-mnist" else 3
    return channels_of_rows(open_rows(data))


def channels_of_rows(rows: Rows) -> Literal[1, 3]:
    """As `channels_of`, of a set that is open."""
    return 1 if len(rows) and all(is_grey(rows, int(i)) for i in evenly_spread(len(rows), LOOKED_AT)) else 3


def is_grey(rows: Rows, i: int) -> bool:
    """Whether no pixel of an image has a colour; a few levels may come from a JPEG. True for a broken one, which
    says nothing."""
    try:
        with rows.open(i) as image:
            check_size(image)
            image.draft("RGB", (64, 64))
            small = np.asarray(ImageOps.contain(to_8_bits(image, None).convert("RGB"), (64, 64)), np.int16)
    except Exception:  # Pillow's decoders raise nearly anything; opening the set will name it
        return True
    return int(np.ptp(small, axis=2).max()) <= GREY
