"""Perceptual path length: how much images change along a short step between two latents.

Source: StyleGAN (arXiv 1812.04948), section 4.1. The paper's distance is a VGG16-based LPIPS; here any distance may be
given, and the default one is the squared distance of feature vectors, whose numbers compare with each other only.
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from stylegan2.explore import slerp
from stylegan2.images import to_rgb
from stylegan2.metrics.distances import Estimate
from stylegan2.metrics.features import FeatureExtractor
from stylegan2.precision import exact_float32

ImageDistance = Callable[[Tensor, Tensor], Tensor]  # images [batch, channels, h, w] twice → [batch]


def feature_distance(extractor: FeatureExtractor) -> ImageDistance:
    """Σ (f(a) − f(b))², one number per pair of images."""

    def distance(a: Float[Tensor, "batch channels h w"],
                 b: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch"]:
        return (extractor(to_rgb(a)) - extractor(to_rgb(b))).square().sum(dim=1)

    return distance


@exact_float32()
@torch.no_grad()
def path_lengths(mapping: Callable[[Tensor], Tensor], synthesis: Callable[[Tensor], Tensor], distance: ImageDistance,
                 z: Float[Tensor, "2 batch d"], t: Float[Tensor, "batch"], space: Literal["z", "w"] = "w",
                 epsilon: float = 1e-4) -> Float[Tensor, "batch"]:
    """d(G(t), G(t + ε)) / ε² on the path from z[0] to z[1]: along the great circle in Z, along the straight line in W.

    Args:
        mapping: z → w, both [batch, d].
        synthesis: w → images. It must be the same function at every call: no random noise.
        t: where on the path, in [0, 1]; 0 everywhere measures the end points alone.

    Raises:
        ValueError: a length is not finite.
    """
    start, end = z if space == "z" else (mapping(z[0]), mapping(z[1]))

    def images(at: Float[Tensor, "batch"]) -> Tensor:
        if space == "w":
            return synthesis(torch.lerp(start, end, at[:, None]))
        points = [slerp(a, b, place) for a, b, place in zip(start, end, at.tolist(), strict=True)]
        return synthesis(mapping(torch.stack(points)))

    lengths = distance(images(t), images(t + epsilon)) / epsilon**2
    if not lengths.isfinite().all():
        raise ValueError(f"{int((~lengths.isfinite()).sum())} of {len(lengths)} path lengths are NaN or infinite: look "
                         "at the images that the generator makes")
    return lengths


def trimmed_mean(lengths: Float[Tensor, "n"], trim: float = 0.01) -> Estimate:
    """The mean without the smallest and the largest percent, which a few extreme pairs would rule; and its standard
    error.

    Raises:
        ValueError: there are fewer than four lengths, of which two are left.
    """
    if len(lengths) < 4:
        raise ValueError(f"{len(lengths)} path lengths are too few for a mean and its error: take four or more")
    low, high = (lengths.double().quantile(q).item() for q in (trim, 1 - trim))
    kept = lengths[(lengths >= low) & (lengths <= high)].double()
    return Estimate(kept.mean().item(), kept.std().item() / len(kept) ** 0.5)
