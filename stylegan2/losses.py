"""The losses of the GAN game, from scores (logits): logistic, hinge, Wasserstein.

Sources: non-saturating logistic, Goodfellow et al. (arXiv 1406.2661), used by StyleGAN and StyleGAN2; hinge, Lim and
Ye (arXiv 1705.02894); Wasserstein, Arjovsky et al. (arXiv 1701.07875), with the drift term of Progressive GAN (arXiv
1710.10196), appendix A.1.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def logistic_discriminator_loss(real: Float[Tensor, "batch 1"], fake: Float[Tensor, "batch_2 1"]) -> Float[Tensor, ""]:
    """−E log σ(D(x)) − E log(1 − σ(D(G(z))))."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def logistic_generator_loss(fake: Float[Tensor, "batch 1"]) -> Float[Tensor, ""]:
    """−E log σ(D(G(z))): the form whose gradient does not vanish while the discriminator wins."""
    return F.softplus(-fake).mean()


def hinge_discriminator_loss(real: Float[Tensor, "batch 1"], fake: Float[Tensor, "batch_2 1"]) -> Float[Tensor, ""]:
    """E max(0, 1 − D(x)) + E max(0, 1 + D(G(z))): a score past the margin of 1 is good enough. The generator's loss is
    `wasserstein_generator_loss`.
    """
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def wasserstein_discriminator_loss(real: Float[Tensor, "batch 1"], fake: Float[Tensor, "batch_2 1"],
                                   drift: float = 0.001) -> Float[Tensor, ""]:
    """E D(G(z)) − E D(x) + drift·E D(x)²: nothing else ties the scores to 0. Needs `WassersteinGradientPenalty`."""
    return fake.mean() - real.mean() + drift * real.square().mean()


def wasserstein_generator_loss(fake: Float[Tensor, "batch 1"]) -> Float[Tensor, ""]:
    """−E D(G(z))."""
    return -fake.mean()
