"""Anti-aliased shapes by signed distance, a batch of images at a time.

A `Shape` holds the signed distance to its edge at every pixel, in pixels: negative inside. Its coverage falls from 1
to 0 over one pixel across the edge, which is what anti-aliasing by area gives for a straight edge.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

Number = Tensor | float | int
Area = tuple[slice, slice]


@dataclass
class Frame:
    """Pixel centres in the coordinates of a placed object, and how many pixels one of its units is.

    The object lies at `origin` (x, y) of the canvas; `axis` (x, y) is its x direction times its scale. `where` are the
    rows and columns of the canvas that x and y cover.
    """

    x: Float[Tensor, "batch height width"]
    y: Float[Tensor, "batch height width"]
    pixels: Float[Tensor, "batch 1 1"]
    origin: tuple[Tensor, Tensor]
    axis: tuple[Tensor, Tensor]
    side: int
    where: Area

    def around(self, x: Tensor, y: Tensor, radius: Tensor) -> "Frame":
        """The smallest part that holds this circle in every image of the batch."""
        (x0, y0), (ax, ay), reach = self.origin, self.axis, radius * self.pixels  # in pixels
        to_pixels = self.side / 2
        columns = span((x0 + ax * x - ay * y + 1) * to_pixels, reach, self.side)
        rows = span((y0 + ay * x + ax * y + 1) * to_pixels, reach, self.side)
        return replace(self, x=self.x[:, rows, columns], y=self.y[:, rows, columns], where=(rows, columns))


def span(centre: Tensor, reach: Tensor, side: int) -> slice:
    """The pixels of a row that lie no farther than `reach` from the centre, for some image of the batch."""
    low, high = torch.stack([(centre - reach).amin(), (centre + reach).amax()]).tolist()
    return slice(min(max(int(low), 0), side), min(max(int(high) + 1, 0), side))


@dataclass
class Shape:
    """Signed distance to the edge in pixels, over an area of the canvas outside which the shape has no part.
    & intersects with what covers at least that area, ~ inverts what covers all of the canvas.
    """

    distance: Float[Tensor, "batch height width"]
    where: Area

    def __and__(self, other: "Shape") -> "Shape":
        rows, columns = (slice(own.start - its.start, own.stop - its.start)
                         for own, its in zip(self.where, other.where, strict=True))
        return Shape(torch.maximum(self.distance, other.distance[:, rows, columns]), self.where)

    def __invert__(self) -> "Shape":
        return Shape(-self.distance, self.where)

    @property
    def coverage(self) -> Float[Tensor, "batch height width"]:
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
        whole = slice(0, self.resolution)
        return Frame(cos * dx + sin * dy, cos * dy - sin * dx, scale * (self.resolution / 2), (x, y),
                     (scale * cos, scale * sin), self.resolution, (whole, whole))

    def paint(self, shape: Shape, colour: Float[Tensor, "*batch 3"], opacity: Number = 1.0) -> None:
        """Lay the shape over the image, where `opacity` (one per image, or for all) is above 0."""
        image = self.image[:, :, shape.where[0], shape.where[1]]
        alpha = (shape.coverage * column(opacity))[:, None]  # [batch, 1, height, width]
        image.lerp_(colour[..., None, None].expand_as(image), alpha)

    def shade(self, shape: Shape, amount: Float[Tensor, "batch side side"]) -> None:
        """Make the inside of the shape lighter or darker by a share."""
        rows, columns = shape.where
        self.image[:, :, rows, columns] *= (1 + shape.coverage * amount[:, rows, columns])[:, None]

    def shade_rows(self, amount: float) -> None:
        """A vertical gradient: lighter by a share at the top, darker at the bottom."""
        self.image = self.image * (1 - amount * self.y)

    def to_uint8(self) -> UInt8[Tensor, "batch 3 side side"]:
        return (self.image.clamp(0, 1) * 255).round().to(torch.uint8)


def column(value: Number) -> Tensor:
    """One number per image, or one for all, shaped to broadcast over pixels."""
    return torch.as_tensor(value, dtype=torch.float32).reshape(-1, 1, 1)


def ellipse(frame: Frame, x: Number, y: Number, a: Number, b: Number, line: float = 0.0) -> Shape:
    """Half-axes a, b; or the line along the edge, this half width. The distance is exact to first order at the edge
    (Taubin: value over gradient norm).
    """
    x, y, a, b = (column(v) for v in (x, y, a, b))
    # Along a ray from the centre the distance grows by at least 2ab/(a² + b²) of the way.
    margin = (0.5 / frame.pixels + line) * (a**2 + b**2) / (2 * a * b)
    frame = frame.around(x, y, torch.maximum(a, b) + margin)
    dx, dy = frame.x - x, frame.y - y
    value = torch.hypot(dx / a, dy / b)
    slope = torch.hypot(dx / a**2, dy / b**2) / value.clamp(min=1e-6)
    return shape(frame, (value - 1) / slope.clamp(min=1e-6), line)


def rounded_box(frame: Frame, x: Number, y: Number, a: Number, b: Number, radius: float, line: float = 0.0) -> Shape:
    """Half-sides a, b with corners of this radius; or the line along the edge, this half width."""
    x, y, a, b = (column(v) for v in (x, y, a, b))
    frame = frame.around(x, y, torch.hypot(a, b) + 0.5 / frame.pixels + line)
    dx, dy = (frame.x - x).abs() - a + radius, (frame.y - y).abs() - b + radius
    distance = torch.hypot(dx.clamp(min=0), dy.clamp(min=0)) + torch.maximum(dx, dy).clamp(max=0) - radius
    return shape(frame, distance, line)


def segment(frame: Frame, x0: Number, y0: Number, x1: Number, y1: Number, half_width: float) -> Shape:
    """A line with round ends from (x0, y0) to (x1, y1)."""
    x0, y0, x1, y1 = (column(v) for v in (x0, y0, x1, y1))
    ex, ey = x1 - x0, y1 - y0
    reach = torch.hypot(ex, ey) / 2 + half_width + 0.5 / frame.pixels
    frame = frame.around(x0 + ex / 2, y0 + ey / 2, reach)
    px, py = frame.x - x0, frame.y - y0
    t = ((px * ex + py * ey) / (ex**2 + ey**2).clamp(min=1e-6)).clamp(0, 1)
    return shape(frame, torch.hypot(px - t * ex, py - t * ey) - half_width)


def upper(frame: Frame, y: Number, slope: Number = 0.0, waves: float = 0.0) -> Shape:
    """The half plane above a line through (0, y), slanted or wavy."""
    return shape(frame, frame.y - (column(y) + column(slope) * frame.x + waves * torch.sin(12 * frame.x)))


def shape(frame: Frame, distance: Float[Tensor, "batch height width"], line: float = 0.0) -> Shape:
    """From a distance in the frame's units; with `line`, the line along the edge, this half width."""
    distance = distance * frame.pixels
    return Shape(distance.abs() - line * frame.pixels if line else distance, frame.where)
