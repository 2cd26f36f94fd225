"""The non-saturating logistic losses of the GAN game (Goodfellow et al., arXiv 1406.2661; used by StyleGAN and
StyleGAN2).
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def discriminator_loss(real: Float[Tensor, "batch 1"], fake: Float[Tensor, "batch_2 1"]) -> Float[Tensor, ""]:
    """−E log σ(D(x)) − E log(1 − σ(D(G(z)))), from the scores (logits)."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def generator_loss(fake: Float[Tensor, "batch 1"]) -> Float[Tensor, ""]:
    """−E log σ(D(G(z))): the form whose gradient does not vanish while the discriminator wins."""
    return F.softplus(-fake).mean()
