"""ToyFaces: cartoon faces drawn from known factors. No download; the same image for the same index everywhere.

Coarse factors (where the head is, how large, its hair) and fine ones (gaze, freckles, colours) are there so that what a
generator learns can be measured against the truth.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from stylegan2.data.fingerprint import fingerprint_of
from stylegan2.data.shapes import Canvas, Frame, ellipse, rounded_box, segment, upper


@dataclass(frozen=True)
class Factor:
    """One thing that varies: uniform in [low, high], or a level 0 … levels − 1 with the given odds."""

    low: float = 0.0
    high: float = 1.0
    odds: tuple[int, ...] = ()

    def of(self, u: Float[Tensor, "batch"]) -> Float[Tensor, "batch"]:
        """The factor's value for u uniform in [0, 1)."""
        if not self.odds:
            return self.low + (self.high - self.low) * u
        edges = torch.tensor(self.odds, device=u.device).cumsum(0)[:-1] / sum(self.odds)
        return torch.bucketize(u, edges, right=True).to(u.dtype)


# Lengths count in half image sides, angles in radians, shares in [0, 1].
Factors = dict[str, Float[Tensor, "batch"]]
Colours = Float[Tensor, "batch 3"]
FACTORS = {
    "position_x": Factor(-0.12, 0.12), "position_y": Factor(-0.04, 0.12), "size": Factor(0.6, 0.78),
    "tilt": Factor(-0.25, 0.25), "yaw": Factor(-0.22, 0.22), "width": Factor(0.68, 0.86),
    "skin": Factor(), "background_hue": Factor(), "background_light": Factor(0.25, 0.95),
    "light": Factor(-1.0, 1.0), "shirt_hue": Factor(),
    "hair": Factor(odds=(1, 3, 3, 2, 2)),  # bald, short, long, curls, bun
    "hair_colour": Factor(), "fringe": Factor(0.1, 0.5),
    "eye_spacing": Factor(0.26, 0.38), "eye_size": Factor(0.11, 0.17), "eye_hue": Factor(),
    "gaze": Factor(-0.05, 0.05), "brow_angle": Factor(-0.3, 0.3),
    "nose": Factor(0.05, 0.12), "mouth_curve": Factor(-0.1, 0.2), "mouth_width": Factor(0.18, 0.34),
    "mouth_open": Factor(0.0, 0.14), "blush": Factor(0.0, 0.6),
    "glasses": Factor(odds=(3, 1, 1)),  # none, round, square
    "beard": Factor(odds=(4, 1)),
}
HAIR_STYLES = ("bald", "short", "long", "curls", "bun")
SKIN = ((0.99, 0.87, 0.76), (0.94, 0.74, 0.58), (0.78, 0.55, 0.38), (0.55, 0.36, 0.24), (0.36, 0.23, 0.16))
HAIR = ((0.80, 0.80, 0.82), (0.10, 0.08, 0.08), (0.32, 0.19, 0.10), (0.80, 0.26, 0.12), (0.62, 0.36, 0.14),
        (0.93, 0.77, 0.40))


class ToyFaces:
    """A set of `size` faces, drawn when asked for.

    Their classes are the styles of their hair (`HAIR_STYLES`).

    Args:
        resolution: side of the images in pixels.
        size: number of faces. Index i gives the same face whatever the size.
        seed: another seed, other faces.

    Raises:
        ValueError: resolution or size is less than 1.
    """

    class_names, n_classes = HAIR_STYLES, len(HAIR_STYLES)

    def __init__(self, resolution: int = 32, size: int = 100_000, seed: int = 0):
        if resolution < 1 or size < 1:
            raise ValueError(f"ToyFaces needs a resolution and a size of 1 or more, not {resolution} and {size}")
        self.resolution, self.size, self.seed = resolution, size, seed

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits, for the seed and the size, whatever the resolution."""
        return fingerprint_of([f"toyfaces {self.seed} {self.size}".encode()])

    def __len__(self) -> int:
        return self.size

    def factors(self, index: Int[Tensor, "batch"]) -> Factors:
        """The factors of these faces, by name (see `FACTORS` for their ranges).

        Raises:
            IndexError: an index is negative, or not less than the size.
        """
        if index.numel() and (int(index.min()) < 0 or int(index.max()) >= self.size):
            raise IndexError(f"indices run from {int(index.min())} to {int(index.max())}; "
                             f"this set has 0 to {self.size - 1}")
        streams = torch.arange(len(FACTORS), device=index.device)[:, None]
        u = uniform(index, streams, self.seed)  # [factors, batch]
        return {name: factor.of(u[k]) for k, (name, factor) in enumerate(FACTORS.items())}

    def __getitem__(self, index: Int[Tensor, "batch"]) -> tuple[UInt8[Tensor, "batch 3 side side"], Factors]:
        """Images (0 … 255) and the factors that they were drawn from."""
        factors = self.factors(index)
        return draw_faces(factors, self.resolution), factors

    def images(self, index: Int[Tensor, "batch"]) -> UInt8[Tensor, "batch 3 side side"]:
        """The images alone."""
        return self[index][0]

    def labels(self, index: Int[Tensor, "batch"]) -> Int[Tensor, "batch"]:
        """The styles of their hair."""
        return self.factors(index)["hair"].long()


def uniform(index: Int[Tensor, "batch"], stream: Int[Tensor, "streams 1"],
            seed: int) -> Float[Tensor, "streams batch"]:
    """A number in [0, 1) for each stream and index: the SplitMix64 hash (Steele, Lea and Flood, 2014) of stream, index
    and seed.
    """
    z = ((seed * 1024 + stream) << 32) + index.long() + 1
    z = z * -0x61C8864680B583EB  # 0x9E3779B97F4A7C15, products wrap at 64 bits
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15), (31, 1)):
        z = (z ^ (z >> shift & (1 << 64 - shift) - 1)) * factor  # the mask makes the shift a logical one
    return (z >> 40 & (1 << 24) - 1).float() / (1 << 24)


def palette(colours: tuple[tuple[float, float, float], ...], t: Float[Tensor, "batch"]) -> Float[Tensor, "batch 3"]:
    """The colour at t in [0, 1] along a list of colours."""
    table = torch.tensor(colours, device=t.device)
    position = t.clamp(0, 1) * (len(colours) - 1)
    low = position.floor().long().clamp(max=len(colours) - 2)
    return torch.lerp(table[low], table[low + 1], (position - low)[:, None])


def hue(h: Float[Tensor, "batch"], light: Float[Tensor, "batch"] | float = 0.7) -> Float[Tensor, "batch 3"]:
    """A soft colour of hue h in [0, 1) and a lightness in [0, 1]."""
    phase = torch.tensor([0.0, 1 / 3, 2 / 3], device=h.device)
    wave = 0.5 + 0.5 * torch.cos(2 * torch.pi * (h[:, None] + phase))  # [batch, 3]
    light = torch.as_tensor(light, device=h.device).expand_as(h)[:, None]
    return (light * (0.55 + 0.45 * wave)).clamp(0, 1)


def draw_faces(f: Factors, resolution: int) -> UInt8[Tensor, "batch 3 side side"]:
    """Draw one face per row of factors, back to front.

    Args:
        f: every factor of `FACTORS` by name, all of one length.
        resolution: side of the images in pixels.

    Raises:
        KeyError: a factor is missing, or none of that name exists.
    """
    if f.keys() != FACTORS.keys():
        raise KeyError(f"missing factors {sorted(FACTORS.keys() - f.keys())}, "
                       f"unknown {sorted(f.keys() - FACTORS.keys())}")
    canvas = Canvas(resolution, hue(f["background_hue"], f["background_light"]))
    canvas.shade_rows(0.18)
    head = canvas.place(f["position_x"], f["position_y"], f["size"], f["tilt"])
    skin, hair = palette(SKIN, f["skin"]), palette(HAIR, f["hair_colour"])
    draw_body(canvas, head, f, skin, hair)
    draw_head(canvas, head, f, skin)
    draw_features(canvas, head, f, skin, hair)
    draw_hair_front(canvas, head, f, hair)
    draw_glasses(canvas, head, f)
    return canvas.to_uint8()


def draw_body(canvas: Canvas, head: Frame, f: Factors, skin: Colours, hair: Colours) -> None:
    """What is behind the head: long hair, curls, bun, shoulders, neck."""
    w, style = f["width"], f["hair"]
    canvas.paint(ellipse(head, 0, 0.12, w * 1.25, 1.22) & upper(head, 1.05), hair, style == 2)
    canvas.paint(ellipse(head, 0, -0.3, w * 1.45, 1.0), hair, style == 3)
    canvas.paint(ellipse(head, 0, -1.12, 0.3, 0.28), hair, style == 4)
    canvas.paint(ellipse(head, 0, 1.95, 1.15, 0.85), hue(f["shirt_hue"], 0.85))
    canvas.paint(rounded_box(head, 0, 1.05, 0.26, 0.3, 0.1), skin * 0.85)


def draw_head(canvas: Canvas, head: Frame, f: Factors, skin: Colours) -> None:
    """Ears, then the face, lit from one side."""
    w = f["width"]
    for side in (-1, 1):
        canvas.paint(ellipse(head, side * w * 1.0, 0.08, 0.13, 0.18), skin * 0.9)
    canvas.paint(ellipse(head, 0, 0, w, 1.0), skin)
    x = head.x / w[:, None, None]
    canvas.shade(ellipse(head, 0, 0, w, 1.0), 0.16 * f["light"][:, None, None] * x)
    for side in (-1, 1):
        cheek = ellipse(head, side * 0.45 * w + f["yaw"] * 0.6, 0.36, 0.16, 0.11)
        canvas.paint(cheek, skin.new_tensor([0.95, 0.45, 0.45]), f["blush"])


def draw_features(canvas: Canvas, head: Frame, f: Factors, skin: Colours, hair: Colours) -> None:
    """Eyes, brows, nose, mouth, beard; they move sideways with the yaw, as on a ball."""
    yaw, dark = f["yaw"], skin.new_tensor([0.12, 0.10, 0.12])
    beard = ellipse(head, yaw * 0.5, 0.62, f["width"] * 0.72, 0.42) & ~upper(head, 0.5)
    canvas.paint(beard, hair, (f["beard"] == 1) * 0.9)
    for side in (-1, 1):
        x, size = side * f["eye_spacing"] + yaw, f["eye_size"]
        canvas.paint(ellipse(head, x, -0.08, size * 1.15, size), skin.new_tensor([1.0, 1.0, 1.0]))
        canvas.paint(ellipse(head, x + f["gaze"], -0.08, size * 0.68, size * 0.78), hue(f["eye_hue"], 0.6))
        canvas.paint(ellipse(head, x + f["gaze"], -0.08, size * 0.36, size * 0.42), dark)
        lift = side * f["brow_angle"] * 0.2
        canvas.paint(segment(head, x - 0.14, -0.32 - lift, x + 0.14, -0.32 + lift, 0.035), hair * 0.7)
    canvas.paint(ellipse(head, yaw * 1.35, 0.2, f["nose"], f["nose"] * 1.3), skin * 0.78)
    lip, width, curve = skin.new_tensor([0.70, 0.22, 0.25]), f["mouth_width"], f["mouth_curve"]
    x, opening = yaw * 1.1, f["mouth_open"]
    canvas.paint(ellipse(head, x, 0.55 + curve * 0.3, width * 0.7, 0.02 + opening), lip * 0.6)
    for side in (-1, 1):
        canvas.paint(segment(head, x, 0.55 + curve * 0.5, x + side * width, 0.55 - curve * 0.5, 0.045), lip)


def draw_hair_front(canvas: Canvas, head: Frame, f: Factors, hair: Colours) -> None:
    """The cap of hair over the forehead, down to the fringe; wavy for curls."""
    w, style, line = f["width"], f["hair"], f["fringe"] - 0.95
    cap = ellipse(head, 0, -0.08, w * 1.1, 1.06)
    part = upper(head, line, slope=f["yaw"] * 1.2)
    canvas.paint(cap & part, hair, (style == 1) | (style == 2) | (style == 4))
    canvas.paint(cap & upper(head, line, waves=0.1), hair, style == 3)


def draw_glasses(canvas: Canvas, head: Frame, f: Factors) -> None:
    """Two rims and a bridge, round or square."""
    rim = f["glasses"].new_tensor([0.15, 0.13, 0.2])
    for side in (-1, 1):
        x = side * f["eye_spacing"] + f["yaw"]
        canvas.paint(ellipse(head, x, -0.06, 0.24, 0.24, line=0.04), rim, f["glasses"] == 1)
        canvas.paint(rounded_box(head, x, -0.06, 0.23, 0.17, 0.05, line=0.04), rim, f["glasses"] == 2)
    gap = f["eye_spacing"] - 0.24
    canvas.paint(segment(head, f["yaw"] - gap, -0.08, f["yaw"] + gap, -0.08, 0.03), rim, f["glasses"] > 0)
