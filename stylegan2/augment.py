"""Adaptive discriminator augmentation: transform what the discriminator sees, as often as it needs.

With few images a discriminator learns them by heart. If it only ever sees transformed images, real and generated ones
alike, there are more of them; and as long as each transformation is left out now and then (probability p < 1, or a
parameter that may be the neutral one), a generator can match the transformed distribution only by matching the
untransformed one, so the transformations do not leak into its images.

Source: Karras et al., Training Generative Adversarial Networks with Limited Data (arXiv 2006.06676), section 3 and
appendix B: its pixel blits, geometry and colour, with its distributions. Two things differ. All geometry is one matrix
and one resampling, as there, but that resampling is cubic interpolation instead of linear interpolation between an up-
and a down-sampling with the sym6 wavelet: a tenth of the code, and blits are exact. The price is that shrinking has no
low-pass filter: at more than 1.5 times (2 standard deviations of both scalings together), fine detail aliases, in real
and generated images alike. And the mirrored border repeats the outermost pixel.
"""

import math
from collections.abc import Callable, Collection

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stylegan2.warp import affine_warp

Draw = Callable[[Tensor, int], Tensor]
"""Draws one parameter a sample, like a given vector [batch], for images of a given side; gives a matrix a sample."""


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
        transformations: names, keys of `GEOMETRY` and `COLOUR`; a set whose mirror images look wrong (letters) does
            without x_flip.

    Raises:
        ValueError: a transformation that does not exist.
    """

    p: Tensor
    signs: Tensor

    def __init__(self, target: float = 0.6, ramp: int = 500_000, transformations: Collection[str] | None = None):
        super().__init__()
        known = [*GEOMETRY, *COLOUR]
        self.transformations = known if transformations is None else list(transformations)
        if unknown := set(self.transformations).difference(known):
            raise ValueError(f"no transformation is called {', '.join(sorted(unknown))}: there are {', '.join(known)}")
        self.target, self.ramp = target, ramp
        self.register_buffer("p", torch.zeros([]))
        self.register_buffer("signs", torch.zeros(2))  # since the last `adjust`: their sum, and how many

    def forward(self, images: Float[Tensor, "batch 3 side side"]) -> Float[Tensor, "batch 3 side side"]:
        """Every sample under transformations of its own; in float32 at least, also under autocast."""
        if self.p.device.type == "cpu" and self.p == 0:  # elsewhere, reading p would make the device wait
            return images
        images = images.to(torch.promote_types(images.dtype, torch.float32))
        # Double precision, because a GPU may be told to round products of single-precision matrices.
        like = torch.empty(len(images), dtype=torch.float64, device=images.device)
        with torch.autocast(images.device.type, enabled=False):
            images = affine_warp(images, self.draw(GEOMETRY, identity(like, 3), images.shape[-1]))
            return recolour(images, self.draw(COLOUR, identity(like, 4), images.shape[-1]))

    def draw(self, among: dict[str, Draw], product: Float[Tensor, "batch n n"],
             side: int) -> Float[Tensor, "batch n n"]:
        """Multiply from the right by the chosen matrices, each of which takes part with probability p."""
        like = product[:, 0, 0]
        for name, draw in among.items():
            if name in self.transformations:
                # There are two rotations, before and after the anisotropic scaling: with probability p, at least one.
                p = 1 - (1 - self.p).sqrt() if draw is turn else self.p
                chosen = torch.rand_like(like) < p
                product = torch.where(chosen[:, None, None], product @ draw(like, side), product)
        return product

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


def identity(like: Float[Tensor, "batch"], size: int) -> Float[Tensor, "batch size size"]:
    """One identity matrix per sample, of the type and on the device of `like`; a view, not to be written to."""
    return torch.eye(size, dtype=like.dtype, device=like.device).expand(len(like), -1, -1)


def recolour(images: Float[Tensor, "batch 3 h w"], matrix: Float[Tensor, "batch 4 4"]) -> Float[Tensor, "batch 3 h w"]:
    """Every pixel's (red, green, blue, 1) times a matrix."""
    matrix = matrix.to(images.dtype)
    return torch.einsum("bij,bjhw->bihw", matrix[:, :3, :3], images) + matrix[:, :3, 3, None, None]


def scale(*factors: Float[Tensor, "batch"]) -> Float[Tensor, "batch n n"]:
    """Of homogeneous positions or colours: a factor for each coordinate."""
    return torch.diag_embed(torch.stack([*factors, torch.ones_like(factors[0])], dim=1))


def translate(*steps: Float[Tensor, "batch"]) -> Float[Tensor, "batch n n"]:
    """Of homogeneous positions or colours: a step for each coordinate."""
    matrix = identity(steps[0], len(steps) + 1).clone()
    matrix[:, :-1, -1] = torch.stack(steps, dim=1)
    return matrix


def rotate(cos: Float[Tensor, "batch"], sin: Float[Tensor, "batch"]) -> Float[Tensor, "batch 3 3"]:
    """Of positions, about the centre."""
    matrix = identity(cos, 3).clone()
    matrix[:, :2, :2] = torch.stack([cos, -sin, sin, cos], dim=1).unflatten(1, (2, 2))
    return matrix


def about_grey(along: Float[Tensor, "batch"], across: Float[Tensor, "batch"],
               turned: Float[Tensor, "batch"]) -> Float[Tensor, "batch 4 4"]:
    """Of colours: their part along the grey axis (luma), the part across it (chroma), and the chroma turned by 90°,
    with a factor each.
    """
    eye = torch.eye(3, dtype=along.dtype, device=along.device)
    grey = torch.ones_like(eye) / 3  # v vᵀ, v = (1, 1, 1)/√3
    cross = (eye.roll(1, 0) - eye.roll(1, 1)) / math.sqrt(3)  # v ×
    matrix = identity(along, 4).clone()
    matrix[:, :3, :3] = torch.einsum("fb,fij->bij", torch.stack([along, across, turned]),
                                     torch.stack([grey, eye - grey, cross]))
    return matrix


def x_flip(like: Float[Tensor, "batch"], side: int) -> Float[Tensor, "batch 3 3"]:
    """Or not, with equal chance."""
    return scale(2 * torch.randint_like(like, 2) - 1, torch.ones_like(like))


def quarter_turns(like: Float[Tensor, "batch"], side: int) -> Float[Tensor, "batch 3 3"]:
    """0, 1, 2 or 3 of them."""
    angle = torch.randint_like(like, 4) * (math.pi / 2)
    return rotate(angle.cos().round(), angle.sin().round())


def whole_shift(like: Float[Tensor, "batch"], side: int) -> Float[Tensor, "batch 3 3"]:
    """By whole pixels, up to an eighth of the side."""
    x, y = ((torch.rand_like(like) - 0.5) / 4 * side for _ in "xy")
    return translate(2 / side * x.round(), 2 / side * y.round())


def isotropic_scale(like: Float[Tensor, "batch"], side: int) -> Float[Tensor, "batch 3 3"]:
    """By 2^n, n ~ N(0, 0.2²)."""
    factor = torch.exp2(0.2 * torch.randn_like(like))
    return scale(factor, factor)


def turn(like: Float[Tensor, "batch"], side: int) -> Float[Tensor, "batch 3 3"]:
    """By any angle."""
    angle = 2 * math.pi * torch.rand_like(like)
    return rotate(angle.cos(), angle.sin())


def anisotropic_scale(like: Float[Tensor, "batch"], side: int) -> Float[Tensor, "batch 3 3"]:
    """By 2^n in x and by 2^−n in y, n ~ N(0, 0.2²)."""
    factor = torch.exp2(0.2 * torch.randn_like(like))
    return scale(factor, 1 / factor)


def shift(like: Float[Tensor, "batch"], side: int) -> Float[Tensor, "batch 3 3"]:
    """By N(0, (side/8)²) pixels."""
    return translate(torch.randn_like(like) / 4, torch.randn_like(like) / 4)


def brightness(like: Float[Tensor, "batch"], side: int) -> Float[Tensor, "batch 4 4"]:
    """A step of N(0, 0.2²) for all three."""
    step = 0.2 * torch.randn_like(like)
    return translate(step, step, step)


def contrast(like: Float[Tensor, "batch"], side: int) -> Float[Tensor, "batch 4 4"]:
    """A factor 2^n, n ~ N(0, 0.5²), for all three."""
    factor = torch.exp2(0.5 * torch.randn_like(like))
    return scale(factor, factor, factor)


def luma_flip(like: Float[Tensor, "batch"], side: int) -> Float[Tensor, "batch 4 4"]:
    """Dark for light, at the same chroma; or not, with equal chance."""
    return about_grey(2 * torch.randint_like(like, 2) - 1, torch.ones_like(like), torch.zeros_like(like))


def hue(like: Float[Tensor, "batch"], side: int) -> Float[Tensor, "batch 4 4"]:
    """The chroma turned by any angle."""
    angle = 2 * math.pi * torch.rand_like(like)
    return about_grey(torch.ones_like(like), angle.cos(), angle.sin())


def saturation(like: Float[Tensor, "batch"], side: int) -> Float[Tensor, "batch 4 4"]:
    """The chroma times 2^n, n ~ N(0, 1)."""
    return about_grey(torch.ones_like(like), torch.exp2(torch.randn_like(like)), torch.zeros_like(like))


# In the order of their product. `affine_warp` goes from the output back to the image, so the first happens to the image
# first, and what is drawn is an inverse: each of these distributions is that of its inverse too.
GEOMETRY: dict[str, Draw] = {
    "x_flip": x_flip, "quarter_turns": quarter_turns, "whole_shift": whole_shift, "isotropic_scale": isotropic_scale,
    "turn_before": turn, "anisotropic_scale": anisotropic_scale, "turn_after": turn, "shift": shift}
# `recolour` goes from the image to the output: the last happens first.
COLOUR: dict[str, Draw] = {
    "saturation": saturation, "hue": hue, "luma_flip": luma_flip, "contrast": contrast, "brightness": brightness}
