"""Images under a change of coordinates, differentiable as often as one likes.

`F.grid_sample` has no second derivative, which R1 and path length need when they look through an augmentation. But for
a fixed grid it is linear in the image, so its backward is the transposed linear map, whose own backward is the map
itself: two Functions that name each other as their backward.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

BICUBIC, REFLECTION = 2, 2  # how the backward of grid_sample spells its modes


def affine_warp(images: Float[Tensor, "batch channels side side"],
         matrix: Float[Tensor, "batch 2 3"]) -> Float[Tensor, "batch channels side side"]:
    """Every pixel of the output looks up the image where `matrix` sends its position.

    Positions are homogeneous (x, y, 1) with the centre of the image at (0, 0) and its sides at ±1. Beyond them the
    image is mirrored, its outermost pixel repeated. Between pixels it is interpolated by cubic convolution (Keys 1981,
    with a = −0.75), so flips, quarter turns and shifts by whole pixels of an image whose side is a power of two are
    exact to the bit, and the identity is one of them.

    Args:
        images: square.
        matrix: affine, from positions in the output to positions in the image: the inverse of what the images
            themselves seem to do.
    """
    side = images.shape[-1]
    c = (2 * torch.arange(side, device=images.device, dtype=matrix.dtype) + 1) / side - 1  # centres of the pixels
    columns = matrix[..., None, None].unbind(2)  # what x, y and 1 are multiplied by: [batch, 2, 1, 1] each
    grid = columns[0] * c[None, :] + columns[1] * c[:, None] + columns[2]  # [batch, 2, side, side]
    return Lookup.apply(images, grid.movedim(1, -1).to(images.dtype))


class Lookup(torch.autograd.Function):
    """Images at the positions of a grid."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.side = images.shape[-1]
        return F.grid_sample(images, grid, mode="bicubic", padding_mode="reflection", align_corners=False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        grid, = ctx.saved_tensors
        return LookupTransposed.apply(gradients[0], grid, ctx.side), None


class LookupTransposed(torch.autograd.Function):
    """What was looked up at the positions of a grid, added back to where it came from."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, grid: Tensor, side: int) -> Tensor:
        ctx.save_for_backward(grid)
        image = values.new_empty([*values.shape[:2], side, side])  # only its size is read
        return torch.ops.aten.grid_sampler_2d_backward(
            values, image, grid, BICUBIC, REFLECTION, align_corners=False, output_mask=[True, False])[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        grid, = ctx.saved_tensors
        return Lookup.apply(gradients[0], grid), None, None
