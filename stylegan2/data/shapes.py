"""Anti-aliased shapes by signed distance, a batch of images at a time.

A `Shape` holds the signed distance to its edge at every pixel, in pixels: negative inside. Its coverage falls from 1
to 0 over one pixel across the edge, which is what anti-aliasing by area gives for a straight edge.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

Number = Tensor | float | int


@dataclass
class Frame:
    """Pixel centres in the coordinates of a placed object, and how many pixels one of its units is."""

    x: Float[Tensor, "batch side side"]
    y: Float[Tensor, "batch side side"]
    pixels: Float[Tensor, "batch 1 1"]


@dataclass
class Shape:
    """Signed distance to the edge in pixels; & intersects, ~ inverts."""

    distance: Float[Tensor, "batch side side"]
    pixels: Float[Tensor, "batch 1 1"]

    def __and__(self, other: "Shape") -> "Shape":
        return Shape(torch.maximum(self.distance, other.distance), self.pixels)

    def __invert__(self) -> "Shape":
        return Shape(-self.distance, self.pixels)

    def outline(self, half_width: float) -> "Shape":
        """The line along the edge."""
        return Shape(self.distance.abs() - half_width * self.pixels, self.pixels)

    @property
    def coverage(self) -> Float[Tensor, "batch side side"]:
        return (0.5 - self.distance).clamp(0, 1)


class Canvas:
    """A batch of images that shapes are painted on.

    Args:
        resolution: side in pixels.
        colour: the background of each image, RGB in [0, 1].
    """

    def __init__(self, resolution: int, colour: Float[Tensor, "batch 3"]):
        self.resolution = resolution
        self.image = colour[:, :, None, None].repeat(1, 1, resolution, resolution)
        centres = (torch.arange(resolution, device=colour.device, dtype=colour.dtype) + 0.5) * 2 / resolution - 1
        self.y, self.x = centres[:, None], centres[None, :]

    def place(self, x: Number, y: Number, scale: Number, angle: Number) -> Frame:
        """The frame of an object at (x, y), `scale` half image sides large, turned by `angle`."""
        x, y, scale, angle = (column(v) for v in (x, y, scale, angle))
        dx, dy, cos, sin = (self.x - x) / scale, (self.y - y) / scale, torch.cos(angle), torch.sin(angle)
        return Frame(cos * dx + sin * dy, cos * dy - sin * dx, scale * (self.resolution / 2))

    def paint(self, shape: Shape, colour: Float[Tensor, "*batch 3"], opacity: Number = 1.0) -> None:
        """Lay the shape over the image, where `opacity` (one per image, or for all) is above 0."""
        alpha = (shape.coverage * column(opacity))[:, None]  # [batch, 1, side, side]
        self.image = torch.lerp(self.image, colour[..., None, None].expand_as(self.image), alpha)

    def shade(self, shape: Shape, amount: Float[Tensor, "batch side side"]) -> None:
        """Make the inside of the shape lighter or darker by a share."""
        self.image = self.image * (1 + shape.coverage * amount)[:, None]

    def shade_rows(self, amount: float) -> None:
        """A vertical gradient: lighter by a share at the top, darker at the bottom."""
        self.image = self.image * (1 - amount * self.y)

    def to_uint8(self) -> UInt8[Tensor, "batch 3 side side"]:
        return (self.image.clamp(0, 1) * 255).round().to(torch.uint8)


def column(value: Number) -> Tensor:
    """One number per image, or one for all, shaped to broadcast over pixels."""
    return torch.as_tensor(value, dtype=torch.float32).reshape(-1, 1, 1)


def ellipse(frame: Frame, x: Number, y: Number, a: Number, b: Number) -> Shape:
    """Half-axes a, b. The distance is exact to first order at the edge (Taubin: value over gradient norm)."""
    x, y, a, b = (column(v) for v in (x, y, a, b))
    dx, dy = frame.x - x, frame.y - y
    value = torch.hypot(dx / a, dy / b)
    slope = torch.hypot(dx / a**2, dy / b**2) / value.clamp(min=1e-6)
    return Shape((value - 1) / slope.clamp(min=1e-6) * frame.pixels, frame.pixels)


def rounded_box(frame: Frame, x: Number, y: Number, a: Number, b: Number, radius: float) -> Shape:
    """Half-sides a, b with corners of this radius."""
    x, y, a, b = (column(v) for v in (x, y, a, b))
    dx, dy = (frame.x - x).abs() - a + radius, (frame.y - y).abs() - b + radius
    distance = torch.hypot(dx.clamp(min=0), dy.clamp(min=0)) + torch.maximum(dx, dy).clamp(max=0) - radius
    return Shape(distance * frame.pixels, frame.pixels)


def segment(frame: Frame, x0: Number, y0: Number, x1: Number, y1: Number, half_width: float) -> Shape:
    """A line with round ends from (x0, y0) to (x1, y1)."""
    x0, y0, x1, y1 = (column(v) for v in (x0, y0, x1, y1))
    ex, ey, px, py = x1 - x0, y1 - y0, frame.x - x0, frame.y - y0
    t = ((px * ex + py * ey) / (ex**2 + ey**2).clamp(min=1e-6)).clamp(0, 1)
    return Shape((torch.hypot(px - t * ex, py - t * ey) - half_width) * frame.pixels, frame.pixels)


def upper(frame: Frame, y: Number, slope: Number = 0.0, waves: float = 0.0) -> Shape:
    """The half plane above a line through (0, y), slanted or wavy."""
    line = column(y) + column(slope) * frame.x + waves * torch.sin(12 * frame.x)
    return Shape((frame.y - line) * frame.pixels, frame.pixels)
