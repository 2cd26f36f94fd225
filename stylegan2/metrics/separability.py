"""Linear separability: does a flat cut through latent space tell images with an attribute from images without?

Source: StyleGAN (arXiv 1812.04948), section 4.2. Two things differ. The paper fits a support vector machine; this is a
logistic regression, a hyperplane too, which needs no further package. And each half of the latents is classified by the
plane that was fitted to the other half, so that a plane gets no credit for what it has learned by heart.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


class Separability(NamedTuple):
    """exp Σ H(Y|X), and each attribute's H(Y|X) in bits: what the plane leaves open about the attribute."""

    score: float
    bits: Float[Tensor, "attributes"]


def separability(latents: Float[Tensor, "n d"], scores: Float[Tensor, "_ attributes"]) -> Separability:
    """1 where flat cuts tell all about every attribute; each attribute of which they tell nothing multiplies it by up
    to 2.

    Args:
        scores: a classifier's: above 0 where an image has the attribute. The half of the images about which it is least
            sure (smallest size of the score) is left out, for each attribute by itself, as in the paper.

    Raises:
        ValueError: there are fewer than 8 latents, or a number is not finite.
    """
    if len(latents) < 8 or len(latents) != len(scores):
        raise ValueError(f"separability needs 8 latents or more and as many rows of scores, not {len(latents)} and "
                         f"{len(scores)}")
    if not (latents.isfinite().all() and scores.isfinite().all()):
        raise ValueError("a latent or a score is NaN or infinite: look at the images that they come from")
    entropies = []
    for score in scores.unbind(dim=1):
        sure = score.abs().argsort(descending=True)[:len(score) // 2].sort().values
        entropies.append(conditional_entropy(score[sure] > 0, cross_classify(latents[sure], score[sure] > 0)))
    nats = torch.tensor(entropies, dtype=torch.float64)
    return Separability(nats.sum().exp().item(), nats / math.log(2))


def cross_classify(x: Float[Tensor, "n d"], y: Bool[Tensor, "n"]) -> Bool[Tensor, "n"]:
    """On which side each point lies of the plane that was fitted to the other half."""
    found = torch.empty_like(y)
    for mine, other in ((slice(0, None, 2), slice(1, None, 2)), (slice(1, None, 2), slice(0, None, 2))):
        weight, bias = fit_plane(x[other], y[other])
        found[mine] = x[mine].double() @ weight + bias > 0
    return found


def fit_plane(x: Float[Tensor, "n d"], y: Bool[Tensor, "n"],
              ridge: float = 1e-3) -> tuple[Float[Tensor, "d"], Float[Tensor, ""]]:
    """Logistic regression by L-BFGS in float64: the weight and bias of w·x + b > 0.

    Args:
        ridge: of ‖w‖² for standardised x; it keeps w finite where a plane separates the classes.
    """
    x, target = x.double(), y.double()
    mean, std = x.mean(dim=0), x.std(dim=0).clamp(min=1e-12)
    standard = (x - mean) / std
    plane = torch.zeros(x.shape[1] + 1, dtype=x.dtype, device=x.device, requires_grad=True)
    solver = torch.optim.LBFGS([plane], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        error = F.binary_cross_entropy_with_logits(standard @ plane[:-1] + plane[-1], target)
        error = error + ridge * plane[:-1].square().sum()
        error.backward()
        return error

    with torch.enable_grad():
        solver.step(closure)
    weight = plane[:-1].detach() / std
    return weight, plane[-1].detach() - weight @ mean


def conditional_entropy(y: Bool[Tensor, "n"], x: Bool[Tensor, "n"]) -> float:
    """H(Y|X) = −Σ p(x, y) log p(y|x), in nats."""
    joint = torch.bincount(2 * x.long() + y.long(), minlength=4).double().reshape(2, 2) / len(y)  # [x, y]
    given = joint / joint.sum(dim=1, keepdim=True).clamp(min=1e-300)
    return -torch.special.xlogy(joint, given).sum().item()
