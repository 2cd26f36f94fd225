"""How far apart two sets of images are, by features of them: Fréchet distance, kernel distance, precision, recall.

None of these knows where the features come from. A number means something only beside the name of its features and
the number of images: all three depend on both.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Features = Float[Tensor, "_ _"]  # [n, d]; that two sets have one d is checked, with a message


class Moments:
    """Mean and covariance of features that come batch by batch, in float64, with no batch kept.

    The sums are taken about the running mean (Chan, Golub and LeVeque, 1983): a sum of squares minus a squared sum
    would lose the digits that a small variance beside a large mean has.

    Args:
        d: size of a feature vector.
    """

    def __init__(self, d: int):
        self.count, self.mean = 0, torch.zeros(d, dtype=torch.float64)
        self.scatter = torch.zeros(d, d, dtype=torch.float64)

    @classmethod
    def of(cls, features: Features) -> "Moments":
        """Those of one batch."""
        moments = cls(features.shape[1])
        moments.update(features)
        return moments

    def update(self, features: Float[Tensor, "batch d"]) -> None:
        """Take in a batch.

        Raises:
            ValueError: a feature is not finite, or the vectors have another size.
        """
        check(features, least=0)
        if features.shape[1] != len(self.mean):
            raise ValueError(f"features have {features.shape[1]} numbers each, those before had {len(self.mean)}")
        if len(features) == 0:
            return
        x = features.detach().double().cpu()
        mean, total = x.mean(dim=0), self.count + len(x)
        shift = mean - self.mean
        between = torch.outer(shift, shift) * (self.count * len(x) / total)
        self.scatter += (x - mean).T @ (x - mean) + between
        self.mean = self.mean + shift * (len(x) / total)
        self.count = total

    @property
    def covariance(self) -> Float[Tensor, "d d"]:
        """Unbiased.

        Raises:
            ValueError: fewer than two vectors have come.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs two feature vectors or more, not {self.count}")
        return self.scatter / (self.count - 1)


def frechet_distance(a: Moments | Features, b: Moments | Features) -> float:
    """‖μ₁ − μ₂‖² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁ Σ₂)^½: the squared Fréchet distance of the two Gaussians.

    tr (Σ₁ Σ₂)^½ is the sum of the singular values of Σ₁^½ Σ₂^½, so that only roots of symmetric matrices are needed,
    and covariances without full rank (n ≤ d) do no harm. It is biased upwards by an amount of order 1/n: compare
    equal n.

    Source: Heusel et al. (arXiv 1706.08500); Dowson and Landau (1982).

    Args:
        a, b: features, all at once or gathered batch by batch.

    Raises:
        ValueError: fewer than two feature vectors, or vectors of two sizes.
    """
    a, b = (x if isinstance(x, Moments) else Moments.of(x) for x in (a, b))
    if len(a.mean) != len(b.mean):
        raise ValueError(f"features have {len(a.mean)} numbers each on one side and {len(b.mean)} on the other: "
                         "take both from the same extractor")
    overlap = torch.linalg.matrix_norm(symmetric_root(a.covariance) @ symmetric_root(b.covariance), "nuc")
    distance = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * overlap
    return max(distance.item(), 0.0)  # 0 is reached only up to rounding


def symmetric_root(covariance: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    """The symmetric square root; eigenvalues that rounding made negative count as 0."""
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


class Estimate(NamedTuple):
    """A number, and how far it would move if it were measured again."""

    mean: float
    std: float


def kernel_distance(a: Features, b: Features, subsets: int = 100, subset_size: int = 1000, seed: int = 0) -> Estimate:
    """The squared maximum mean discrepancy under the kernel (xᵀy/d + 1)³: mean and standard deviation over subsets.

    Each subset's estimate is unbiased: it is 0 on average, and below 0 half of the time, where the sets are equally
    distributed.

    Args:
        subset_size: drawn from both sets without replacement; at most half a set, so that subsets differ.

    Source: Bińkowski et al. (arXiv 1801.01401); Gretton et al. (JMLR 2012), lemma 6.

    Raises:
        ValueError: fewer than four vectors, vectors of two sizes, a feature that is not finite; or fewer than two
            subsets, from which no standard deviation follows.
    """
    check_pair(a, b, least=4)
    if subsets < 2 or subset_size < 2:
        raise ValueError(f"two subsets of two vectors are the least, not {subsets} of {subset_size}")
    random, size = torch.Generator().manual_seed(seed), min(subset_size, len(a) // 2, len(b) // 2)

    def draw(features: Features) -> Features:
        chosen = torch.randperm(len(features), generator=random)[:size]
        return features[chosen.to(features.device)].double()

    found = torch.stack([unbiased_mmd(draw(a), draw(b)) for _ in range(subsets)])
    return Estimate(found.mean().item(), found.std().item())


def unbiased_mmd(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, ""]:
    """Mean kernel within x, plus within y, minus twice the one across; no vector is compared with itself."""

    def kernel(u: Features, v: Features) -> Tensor:
        return (u @ v.T / u.shape[1] + 1) ** 3  # [n, m]

    within = [(k.sum() - k.trace()) / (len(k) * (len(k) - 1)) for k in (kernel(x, x), kernel(y, y))]
    return within[0] + within[1] - 2 * kernel(x, y).mean()


class PrecisionRecall(NamedTuple):
    """The share of generated images that could be real, and the share of real images that could be generated."""

    precision: float
    recall: float


def precision_recall(real: Features, generated: Features, k: int = 3, chunk: int = 2048) -> PrecisionRecall:
    """An image could be of a set when it lies within one of the set's spheres: one about each image, out to its k-th
    nearest neighbour in the set.

    Args:
        chunk: rows of the distance matrix at a time; memory grows with chunk · n, not n².

    Source: Kynkäänniemi et al. (arXiv 1904.06991), equations 1 and 2.

    Raises:
        ValueError: a set has no more than k vectors, or what `kernel_distance` refuses.
    """
    check_pair(real, generated, least=k + 1)
    return PrecisionRecall(share_inside(generated, real, k, chunk), share_inside(real, generated, k, chunk))


def share_inside(points: Features, centres: Features, k: int, chunk: int) -> float:
    """The share of points that lie in a sphere of the set of centres."""
    radii = torch.cat([squared_distances(part, centres).topk(k + 1, dim=1, largest=False).values[:, -1]
                       for part in centres.split(chunk)])  # k + 1: the nearest is the centre itself
    inside = [(squared_distances(part, centres) <= radii).any(dim=1) for part in points.split(chunk)]
    return torch.cat(inside).double().mean().item()


def squared_distances(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """In float64, where the expanded square leaves enough digits for near neighbours."""
    x, y = x.double(), y.double()
    return (x.square().sum(dim=1)[:, None] + y.square().sum(dim=1) - 2 * x @ y.T).clamp(min=0)


def check_pair(a: Features, b: Features, least: int) -> None:
    check(a, least)
    check(b, least)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"features have {a.shape[1]} numbers each on one side and {b.shape[1]} on the other: take "
                         "both from the same extractor")


def check(features: Features, least: int) -> None:
    """
    Raises:
        ValueError: there are too few vectors, or one is not finite.
    """
    if len(features) < least:
        raise ValueError(f"{len(features)} feature vectors are too few: this metric needs {least} or more")
    bad = ~features.isfinite().all(dim=1)
    if bad.any():
        raise ValueError(f"{int(bad.sum())} of {len(features)} feature vectors hold NaN or infinity, the first is "
                         f"number {int(bad.nonzero()[0])}: look at the images that they come from")
