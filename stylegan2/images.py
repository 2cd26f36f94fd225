"""Tensors to pictures."""

from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor


def to_uint8(images: Float[Tensor, "*batch 3 h w"]) -> UInt8[Tensor, "*batch 3 h w"]:
    """[−1, 1] to 0 … 255, rounded; what lies outside is clipped."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def to_float(images: UInt8[Tensor, "*batch 3 h w"]) -> Float[Tensor, "*batch 3 h w"]:
    """0 … 255 to [−1, 1]."""
    return images.float() / 127.5 - 1


def tile(images: Float[Tensor, "n 3 h w"], columns: int) -> Image.Image:
    """The images row by row in one picture, without gaps; the last row is filled up with white.

    Raises:
        ValueError: there is no image, or columns is less than 1.
    """
    if len(images) == 0 or columns < 1:
        raise ValueError(f"a grid needs at least one image and one column, not {len(images)} and {columns}")
    n, _, h, w = images.shape
    rows = -(-n // columns)
    cells = torch.full([rows * columns, 3, h, w], 255, dtype=torch.uint8)
    cells[:n] = to_uint8(images).cpu()
    grid = cells.reshape(rows, columns, 3, h, w).permute(0, 3, 1, 4, 2)  # [rows, h, columns, w, 3]
    return Image.fromarray(grid.reshape(rows * h, columns * w, 3).numpy())


def save_grid(images: Float[Tensor, "n 3 h w"], path: Path, columns: int) -> None:
    """Write `tile(images, columns)` as the kind of file that the suffix names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tile(images, columns).save(path)
