"""What the two players are trained on: a loss each, and a penalty each that may come less often.

A batch comes in parts (`Settings.accumulate`). Each phase yields one number per part; what it computes for a part is
gone before the next.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stylegan2 import losses
from stylegan2.penalties import GradientPenalty, WassersteinGradientPenalty, interpolates
from stylegan2.training.players import Latents, Players

Metrics = dict[str, Tensor]
GAMES = {
    "logistic": (losses.logistic_discriminator_loss, losses.logistic_generator_loss),
    "wasserstein": (losses.wasserstein_discriminator_loss, losses.wasserstein_generator_loss),
    "hinge": (losses.hinge_discriminator_loss, losses.wasserstein_generator_loss),
}


class Part(NamedTuple):
    """What the discriminator is trained on at once."""

    real: Float[Tensor, "part 3 side side"]
    labels: Int[Tensor, "part"] | None
    latents: Latents


class Phases:
    """The four phases of a step.

    Args:
        players: the networks, on their device.
    """

    def __init__(self, players: Players):
        self.players, self.settings = players, players.settings
        self.discriminator_game, self.generator_game = GAMES[players.settings.loss]
        self.r1, self.wgan_gp = GradientPenalty(), WassersteinGradientPenalty()
        self.measured: Metrics = {}

    def discriminator_loss(self, parts: list[Part]) -> Iterator[Float[Tensor, ""]]:
        """Tell real images from generated ones; the generator runs without a graph."""
        p = self.players
        for part in parts:
            with torch.no_grad():
                _, fake = p.generate(part.latents)
            real_scores, fake_scores = p.score(part.real, part.labels), p.score(fake, part.latents.labels)
            if p.augment is not None:
                p.augment.observe(real_scores.detach())
            loss = self.discriminator_game(real_scores, fake_scores)
            self.measure(len(parts), {"loss.discriminator": loss, "score.real": real_scores, "score.fake": fake_scores})
            yield loss

    def discriminator_penalty(self, parts: list[Part]) -> Iterator[Float[Tensor, ""]]:
        """γ/2 · R1 at real images; with the Wasserstein loss λ times WGAN-GP's penalty, between real and generated."""
        p, s = self.players, self.settings
        for part in parts:
            if s.loss == "wasserstein":
                with torch.no_grad():
                    _, fake = p.generate(part.latents, penalty=True)
                x = interpolates(part.real, fake)
                weight, penalty = s.wgan_gp_weight, self.wgan_gp(x, p.score(x, part.labels, penalty=True))
            else:
                x = part.real.detach().requires_grad_()
                weight, penalty = s.r1_gamma / 2, self.r1(x, p.score(x, part.labels, penalty=True))
            self.measure(len(parts), {"penalty.wgan_gp" if s.loss == "wasserstein" else "penalty.r1": penalty})
            yield weight * penalty

    def generator_loss(self, parts: list[Latents]) -> Iterator[Float[Tensor, ""]]:
        """Be taken for real; the discriminator passes the gradient on without collecting its own."""
        p = self.players
        p.discriminator.requires_grad_(False)
        first_w = []
        for latents in parts:
            w, fake = p.generate(latents)
            first_w.append(w[0].detach())
            loss = self.generator_game(p.score(fake, latents.labels))
            self.measure(len(parts), {"loss.generator": loss})
            yield loss
        p.mapping.update_mean(torch.cat(first_w))
        p.discriminator.requires_grad_(True)

    def generator_penalty(self, parts: list[Latents]) -> Iterator[Float[Tensor, ""]]:
        """Path length, times its weight. Each part has its own part in the running mean."""
        p = self.players
        for latents in parts:
            penalty = p.path_length(*p.generate(latents, penalty=True))
            self.measure(len(parts), {"penalty.path_length": penalty, "path_length": p.path_length.mean_length})
            yield self.settings.path_length_weight * penalty

    def measure(self, parts: int, values: Metrics) -> None:
        """Keep the means over the parts."""
        for name, value in values.items():
            self.measured[name] = self.measured.get(name, 0) + value.detach().float().mean() / parts
