"""Tensors to pictures."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from PIL import ExifTags, Image
from torch import Tensor

from stylegan2.files import mark, whole

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".tif", ".tiff")
MAX_PIXELS = 2**28  # of a picture: 0.8 GB as bytes
PIXELS_AT_ONCE = 2**22  # of images that are generated together: 4 at 1024², about 2 GB of activations


def to_uint8(images: Float[Tensor, "*batch channels h w"]) -> UInt8[Tensor, "*batch channels h w"]:
    """[−1, 1] to 0 … 255, rounded; what lies outside is clipped."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def to_float(images: UInt8[Tensor, "*batch channels h w"]) -> Float[Tensor, "*batch channels h w"]:
    """0 … 255 to [−1, 1]."""
    return images.float() / 127.5 - 1


def to_rgb(images: Float[Tensor, "*batch channels h w"]) -> Float[Tensor, "*batch 3 h w"]:
    """For what sees colours only: grey three times, RGBA in front of white."""
    if images.shape[-3] == 1:
        return images.expand(*images.shape[:-3], 3, -1, -1)
    if images.shape[-3] == 4:
        opaque = (images[..., 3:, :, :].clamp(-1, 1) + 1) / 2
        return opaque * images[..., :3, :, :] + (1 - opaque)
    return images


def images_at_once(side: int, most: int) -> int:
    """How many images of a side to generate together, at most so many: a GPU's memory must hold what is between the
    layers of all of them.
    """
    return max(1, min(most, PIXELS_AT_ONCE // side**2))


def tile(images: Float[Tensor, "n channels h w"], columns: int) -> Image.Image:
    """The images row by row in one picture, grey, RGB or RGBA as they are, without gaps; the last row is filled up with
    white.

    Raises:
        ValueError: there is no image, or columns is less than 1.
    """
    if len(images) == 0 or columns < 1:
        raise ValueError(f"a grid needs at least one image and one column, not {len(images)} and {columns}")
    n, channels, h, w = images.shape
    rows = -(-n // columns)
    cells = torch.full([rows * columns, channels, h, w], 255, dtype=torch.uint8)
    cells[:n] = to_uint8(images).cpu()
    grid = cells.reshape(rows, columns, channels, h, w).permute(0, 3, 1, 4, 2)  # [rows, h, columns, w, channels]
    pixels = grid.reshape(rows * h, columns * w, channels).numpy()
    return Image.fromarray(pixels[..., 0] if channels == 1 else pixels)


def check_grid(rows: int, columns: int, side: int) -> None:
    """
    Args:
        side: of a cell in pixels.

    Raises:
        ValueError: the picture would not fit into a usual memory.
    """
    if rows * columns * side**2 > MAX_PIXELS:
        raise ValueError(f"{rows} × {columns} images of {side}² are {rows * columns * side**2 / 1e6:,.0f} million "
                         f"pixels in one picture, and {MAX_PIXELS / 1e6:,.0f} are the most: take fewer rows or columns")


def check_picture(path: Path) -> None:
    """
    Raises:
        ValueError: the suffix names no kind of picture that can be written.
    """
    if path.suffix.lower() not in PICTURES:
        raise ValueError(f"{path}: a picture ends in {', '.join(PICTURES)}, not in {path.suffix or 'nothing'}")


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture as the kind of file that the suffix names, with the name of this program in it.

    Raises:
        ValueError: the suffix names none of `PICTURES`.
    """
    check_picture(path)
    picture.save(path, **signature())


def signature() -> dict[str, Any]:
    """What Pillow is told to write into a file: the name of this program, as EXIF or, in a GIF, as a comment."""
    exif = Image.Exif()
    exif[ExifTags.Base.Software] = mark("picture")
    return {"exif": exif, "comment": mark("picture")}


def save_grid(images: Float[Tensor, "n channels h w"], path: Path, columns: int) -> None:
    """Write `tile(images, columns)` as the kind of file that the suffix names: all of it, or nothing."""
    with whole(path) as part:
        save_picture(tile(images, columns), part)
