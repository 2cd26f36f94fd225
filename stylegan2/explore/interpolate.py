"""Interpolation between latents, and the loops that are filmed with it.

Source: lerp in w and slerp in z are the paths of the perceptual path length, StyleGAN (arXiv 1812.04948), section 4.1;
slerp is Shoemake's (SIGGRAPH 1985), in any dimension.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from stylegan2.explore.latents import CELL, per_layer, synthesize
from stylegan2.images import tile, to_rgb
from stylegan2.weights import TrainedGenerator


def lerp(a: Float[Tensor, "*batch d"], b: Float[Tensor, "*batch d"], t: float) -> Float[Tensor, "*batch d"]:
    """a + t(b − a), the straight line: for w."""
    return torch.lerp(a, b, t)


def slerp(a: Float[Tensor, "*batch d"], b: Float[Tensor, "*batch d"],
          t: float | Float[Tensor, "*batch 1"]) -> Float[Tensor, "*batch d"]:
    """Along the great circle from a to b at constant speed: for z, which lies near a sphere. A straight line would
    pass nearer to the middle, where no z is ever drawn.

    a and b may differ in length; the length goes from one to the other linearly.

    Args:
        t: where on the way, 0 at a and 1 at b; one number, or one for each vector.

    Raises:
        ValueError: a and b are opposite, so that there is no one shortest way.
    """
    start, end = F.normalize(a, dim=-1), F.normalize(b, dim=-1)
    # Half angles by atan2 are exact for small and for large angles; arccos of the scalar product is not.
    angle = 2 * torch.atan2((start - end).norm(dim=-1), (start + end).norm(dim=-1))[..., None]  # [*batch, 1]
    if (angle > torch.pi - 1e-3).any():
        raise ValueError("slerp between opposite vectors: every great circle through one goes through the other; "
                         "put a third vector between them")
    across = F.normalize(end - (start * end).sum(dim=-1, keepdim=True) * start, dim=-1)  # orthogonal to start
    length = torch.lerp(a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True), t)
    return length * (torch.cos(t * angle) * start + torch.sin(t * angle) * across)


def loop(keyframes: Float[Tensor, "keyframes *cells d"], steps: int,
         blend: Callable[[Tensor, Tensor, float], Tensor] = lerp) -> Float[Tensor, "frames *cells d"]:
    """keyframes · steps latents through all keyframes and back to the first, which is not repeated at the end.

    Every stretch starts and ends at rest (t eased by 3t² − 2t³), so that no keyframe shows as a kink, nor does the
    place where the film starts again.

    Args:
        steps: frames from one keyframe to the next.
        blend: `lerp` or `slerp`.

    Raises:
        ValueError: there are fewer than two keyframes, or steps is less than 1.
    """
    if len(keyframes) < 2 or steps < 1:
        raise ValueError(f"a loop needs two keyframes and one step, not {len(keyframes)} and {steps}")
    following = keyframes.roll(-1, dims=0)
    times = [i / steps for i in range(steps)]
    stretches = [blend(keyframes, following, t * t * (3 - 2 * t)) for t in times]
    return torch.stack(stretches, dim=1).flatten(0, 1)  # [keyframes, steps, …] → [frames, …]


def film(trained: TrainedGenerator, w: Float[Tensor, "frames cells d_latent"],
         columns: int) -> Iterator[Image.Image]:
    """One picture per frame: the images of all cells in rows of `columns`, small ones enlarged without smoothing.

    Frames are made when they are asked for, so that a long film needs no more memory than a short one.
    """
    for frame in w:
        images = synthesize(trained, per_layer(trained, frame))
        scale = max(1, round(CELL / images.shape[-1]))
        picture = tile(to_rgb(images), columns)
        yield picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
