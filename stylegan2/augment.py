"""Adaptive discriminator augmentation: transform what the discriminator sees, as often as it needs.

With few images a discriminator learns them by heart. If it only ever sees transformed images, real and generated ones
alike, there are more of them; and as long as each transformation is left out now and then (probability p < 1, or a
parameter that may be the neutral one), a generator can match the transformed distribution only by matching the
untransformed one, so the transformations do not leak into its images.

Source: Karras et al., Training Generative Adversarial Networks with Limited Data (arXiv 2006.06676), section 3 and
appendix B: its pixel blits, geometry and colour, with its distributions. Two things differ. All geometry is one map
and one resampling, as there, but that resampling is cubic interpolation instead of linear interpolation between an up-
and a down-sampling with the sym6 wavelet: a tenth of the code, and blits are exact. The price is that shrinking has no
low-pass filter: at more than 1.5 times (2 standard deviations of both scalings together), fine detail aliases, in real
and generated images alike. And the mirrored border repeats the outermost pixel.
"""

import math
from collections.abc import Collection
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stylegan2.warp import affine_warp

GEOMETRY = ("x_flip", "quarter_turns", "whole_shift", "isotropic_scale", "turn_before", "anisotropic_scale",
            "turn_after", "shift")
"""In the order in which they happen to an image."""
COLOUR = ("brightness", "contrast", "luma_flip", "hue", "saturation")
"""In the order in which they happen to an image, after its geometry."""


class Chances(NamedTuple):
    """What one transformation of every sample is made from; 0, which changes nothing, where it is left out."""

    uniform: Float[Tensor, "2 batch"]
    """In [−1/2, 1/2)."""
    normal: Float[Tensor, "2 batch"]
    """N(0, 1)."""


class AdaptiveAugment(nn.Module):
    """Random transformations with a probability that follows how sure the discriminator is of the real images.

    r = E[sign D(real)] is 0 while the discriminator guesses and 1 when it knows every training image. Where r is above
    the target, p grows, else it shrinks; p = 1 is `ramp` images away from p = 0.

    The trainer calls `observe` in every discriminator step, and `adjust` every 4 steps. With several processes it sums
    the buffer `signs` over them right before `adjust` (`augment.signs.copy_(accelerator.reduce(augment.signs))`), so
    that p stays the same in all. A state_dict holds p and the signs not yet used: a run resumes exactly.

    Args:
        target: of r.
        ramp: images in which p goes from 0 to 1.
        transformations: names, out of `GEOMETRY` and `COLOUR`; a set whose mirror images look wrong (letters) does
            without x_flip.

    Raises:
        ValueError: no transformation, or one that does not exist.
    """

    p: Tensor
    signs: Tensor

    def __init__(self, target: float = 0.6, ramp: int = 500_000, transformations: Collection[str] | None = None):
        super().__init__()
        known = [*GEOMETRY, *COLOUR]
        self.transformations = known if transformations is None else list(transformations)
        if not self.transformations:
            raise ValueError(f"no transformation is named: there are {', '.join(known)}")
        if unknown := set(self.transformations).difference(known):
            raise ValueError(f"no transformation is called {', '.join(sorted(unknown))}: there are {', '.join(known)}")
        self.target, self.ramp = target, ramp
        self.register_buffer("p", torch.zeros([]))
        self.register_buffer("signs", torch.zeros(2))  # since the last `adjust`: their sum, and how many

    def forward(self, images: Float[Tensor, "batch channels side side"]) -> Float[Tensor, "batch channels side side"]:
        """Every sample under transformations of its own; in float32 at least, also under autocast."""
        if self.p.device.type == "cpu" and self.p == 0:  # elsewhere, reading p would make the device wait
            return images
        images = images.to(torch.promote_types(images.dtype, torch.float32))
        with torch.autocast(images.device.type, enabled=False):
            drawn = self.draw(len(images))
            return recolour(affine_warp(images, geometry(drawn, images.shape[-1])), colour(drawn))

    def draw(self, batch: int) -> dict[str, Chances]:
        """All numbers of all transformations at once; each takes part in a sample with probability p."""
        names, device = self.transformations, self.p.device
        # There are two turns, before and after the anisotropic scaling: with probability p, at least one.
        of_a_turn = 1 - (1 - self.p).sqrt()
        p = torch.stack([of_a_turn if name.startswith("turn") else self.p for name in names])
        takes_part = torch.rand(len(names), 1, batch, device=device) < p[:, None, None]
        # Double precision, because a GPU may be told to round products of single-precision matrices.
        like = torch.empty(len(names), 2, batch, dtype=torch.float64, device=device)
        uniform, normal = (torch.rand_like(like) - 0.5) * takes_part, torch.randn_like(like) * takes_part
        nothing = torch.zeros_like(like[0])
        return {**dict.fromkeys((*GEOMETRY, *COLOUR), Chances(nothing, nothing)),
                **dict(zip(names, map(Chances, uniform, normal), strict=True))}

    @torch.no_grad()
    def observe(self, real_scores: Float[Tensor, "batch 1"]) -> None:
        """Note the signs of the scores of real images."""
        self.signs += torch.stack([real_scores.sign().sum(), torch.ones_like(real_scores).sum()]).to(self.signs.dtype)

    @torch.no_grad()
    def adjust(self) -> Float[Tensor, ""]:
        """Move p by what was observed since the last call, and return r."""
        total, count = self.signs
        r = total / count.clamp(min=1)
        self.p += torch.sign(r - self.target) * count / self.ramp
        self.p.clamp_(0, 1)
        self.signs.zero_()
        return r


def geometry(drawn: dict[str, Chances], side: int) -> Float[Tensor, "batch 2 3"]:
    """From positions in the output to positions in the image, as `affine_warp` wants it: what happens to the image
    first is the last factor that a position meets, and each factor is an inverse, as likely as what it inverts.

    Flip · quarter turns · whole shift · isotropic scale · turn · anisotropic scale · turn · shift. The isotropic scale
    commutes with every turn, so that all linear ones are a turn, a scale for x and y, and a turn.
    """
    flip = sign(drawn["x_flip"].uniform[0])  # or not, with equal chance
    quarters = math.pi / 2 * (4 * drawn["quarter_turns"].uniform[0]).floor()  # 0, 1, 2 or 3
    turns = [2 * math.pi * drawn[name].uniform[0] for name in ("turn_before", "turn_after")]  # by any angle
    whole_shift = 2 / side * (side / 4 * drawn["whole_shift"].uniform).round()  # whole pixels, up to an eighth
    shift = drawn["shift"].normal / 4  # N(0, (side/8)²) pixels
    both, across = (drawn[name].normal[0] for name in ("isotropic_scale", "anisotropic_scale"))
    factors = torch.exp2(0.2 * torch.stack([both + across, both - across]))  # 2^n, n ~ N(0, 0.2²)
    turn_of_blits, first, second = rotate(torch.stack([quarters, quarters + turns[0], turns[1]]))
    linear = first @ (factors.T[:, :, None] * second)
    offset = turn_of_blits @ whole_shift.T[:, :, None] + linear @ shift.T[:, :, None]
    return torch.cat([linear, offset], dim=2) * torch.stack([flip, torch.ones_like(flip)], dim=1)[:, :, None]


def colour(drawn: dict[str, Chances]) -> Float[Tensor, "batch 3 4"]:
    """What a pixel's (red, green, blue, 1) is multiplied by.

    First the brightness, a step for all three. Then everything else, which keeps the grey axis (luma) and the plane
    across it (chroma): a factor for luma, a factor and an angle for chroma.
    """
    brightness = 0.2 * drawn["brightness"].normal[0]
    luma_flip = sign(drawn["luma_flip"].uniform[0])  # dark for light at the same chroma, or not, with equal chance
    hue = 2 * math.pi * drawn["hue"].uniform[0]
    contrast, saturation = torch.exp2(torch.stack([0.5 * drawn["contrast"].normal[0], drawn["saturation"].normal[0]]))
    luma, chroma = contrast * luma_flip, contrast * saturation
    step = (luma * brightness)[:, None, None].expand(-1, 3, 1)
    return torch.cat([about_grey(luma, chroma * hue.cos(), chroma * hue.sin()), step], dim=2)


def sign(x: Float[Tensor, "batch"]) -> Float[Tensor, "batch"]:
    """−1 below 0, else 1."""
    return 1 - 2 * (x < 0).to(x.dtype)


def rotate(angle: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch 2 2"]:
    """Of positions, about the centre. Quarter turns are exact."""
    cos, sin = angle.cos().round(decimals=12), angle.sin().round(decimals=12)
    return torch.stack([cos, -sin, sin, cos], dim=-1).unflatten(-1, (2, 2))


def about_grey(along: Float[Tensor, "batch"], across: Float[Tensor, "batch"],
               turned: Float[Tensor, "batch"]) -> Float[Tensor, "batch 3 3"]:
    """Of colours: their part along the grey axis (luma), the part across it (chroma), and the chroma turned by 90°,
    with a factor each.

    That is along·v vᵀ + across·(1 − v vᵀ) + turned·(v ×) with v = (1, 1, 1)/√3: no colour is treated unlike another, so
    each row is the one above, moved by one.
    """
    even, odd = (along - across) / 3, turned / math.sqrt(3)
    same, after, before = even + across, even - odd, even + odd
    return torch.stack([same, after, before, before, same, after, after, before, same], dim=1).unflatten(1, (3, 3))


def recolour(images: Float[Tensor, "batch channels h w"],
             matrix: Float[Tensor, "batch 3 4"]) -> Float[Tensor, "batch channels h w"]:
    """Every pixel's (red, green, blue, 1) times a matrix. Grey is (grey, grey, grey) and its new colour's mean, as in
    the published augmentation, so that hue and saturation leave it as it is; a fourth channel, how opaque the pixel
    is, stays.
    """
    matrix = matrix.to(images.dtype)
    if images.shape[1] == 1:
        matrix = matrix.mean(dim=1, keepdim=True)
        return matrix[:, :, :3].sum(dim=2)[:, :, None, None] * images + matrix[:, :, 3, None, None]
    colours = torch.einsum("bij,bjhw->bihw", matrix[:, :, :3], images[:, :3]) + matrix[:, :, 3, None, None]
    return colours if images.shape[1] == 3 else torch.cat([colours, images[:, 3:]], dim=1)
