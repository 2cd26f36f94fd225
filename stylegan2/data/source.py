"""What training draws images from: procedural faces, or a folder or zip of image files."""

import io
import logging
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import Image, ImageOps
from torch import Tensor

from stylegan2.data.toyfaces import ToyFaces

log = logging.getLogger(__name__)
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
Colour = tuple[int, int, int]


@runtime_checkable
class ImageSource(Protocol):
    """A set of square RGB images of one size."""

    resolution: int

    def __len__(self) -> int: ...

    def images(self, index: Int[Tensor, "batch"]) -> UInt8[Tensor, "batch 3 side side"]:
        """The images of these indices, 0 … 255."""
        ...


class DecodedImages:
    """Image files, decoded once and kept in memory as bytes (3·resolution² of them an image).

    Args:
        path: a folder (searched with its subfolders) or a zip of images.
        resolution: side that they are resized to.
        background: the colour behind transparent pixels.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: `path` is neither a folder nor a zip, or holds no usable image.
    """

    def __init__(self, path: str | Path, resolution: int, background: Colour = (255, 255, 255)):
        self.resolution = resolution
        with ThreadPoolExecutor() as pool:
            files = read_files(Path(path))
            decoded = list(pool.map(lambda file: decode(file[0], file[1], resolution, background), files))
        usable = [image for image in decoded if image is not None]
        if not usable:
            raise ValueError(f"no usable image in {path}: it holds {len(decoded)} files named "
                             f"{', '.join(sorted(SUFFIXES))}, none of which could be read")
        if len(usable) < len(decoded):
            log.warning("%s: skipped %d of %d files", path, len(decoded) - len(usable), len(decoded))
        self.pixels = torch.from_numpy(np.stack(usable)).permute(0, 3, 1, 2).contiguous()

    def __len__(self) -> int:
        return len(self.pixels)

    def images(self, index: Int[Tensor, "batch"]) -> UInt8[Tensor, "batch 3 side side"]:
        return self.pixels[index]


def open_source(data: str, resolution: int, background: Colour = (255, 255, 255), seed: int = 0) -> ImageSource:
    """The images that `data` names: "toyfaces", or the path of a folder or zip.

    Raises:
        ValueError: resolution is not a power of two of at least 4; and what `DecodedImages` raises.
    """
    check_resolution(resolution)
    if data == "toyfaces":
        return ToyFaces(resolution, seed=seed)
    return DecodedImages(data, resolution, background)


def check_resolution(resolution: int) -> None:
    """
    Raises:
        ValueError: resolution is not a power of two of at least 4, the sides that the networks can have.
    """
    if resolution < 4 or resolution & (resolution - 1):
        raise ValueError(f"resolution is {resolution}: it must be a power of two, 4 or more (4, 8, 16, 32, …)")


def read_files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every image file in a folder or zip, in the order of their names."""
    if path.is_dir():
        for file in sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()):
            yield str(file), file.read_bytes()
    elif path.is_file() and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in sorted(n for n in archive.namelist() if Path(n).suffix.lower() in SUFFIXES):
                yield f"{path}:{name}", read_entry(archive, name)
    elif path.exists():
        raise ValueError(f"{path} is neither a folder nor a zip of images")
    else:
        raise FileNotFoundError(f"there is no folder or zip at {path}; for procedural faces use the name toyfaces")


def read_entry(archive: zipfile.ZipFile, name: str) -> bytes:
    """The bytes of a zip's entry; none when its checksum is wrong, so that `decode` names and skips it."""
    try:
        return archive.read(name)
    except (zipfile.BadZipFile, EOFError, OSError):
        return b""


def decode(name: str, data: bytes, resolution: int, background: Colour) -> UInt8[np.ndarray, "side side 3"] | None:
    """One image: upright, composited on the background, its middle square, resized with a low-pass filter.

    Returns:
        None for a file that cannot be read; it is named in the log.
    """
    try:
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGBA")
    except Exception as error:  # Pillow's decoders raise nearly anything on a broken file
        log.warning("skipped %s: %s", name, error)
        return None
    # Before the resize: the colour of a transparent pixel is arbitrary, and must not bleed over the edge.
    image = Image.alpha_composite(Image.new("RGBA", image.size, (*background, 255)), image).convert("RGB")
    return np.asarray(ImageOps.fit(image, (resolution, resolution), Image.Resampling.LANCZOS))


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
