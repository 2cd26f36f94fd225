"""What the two players are trained on: a loss each, and a penalty each that may come less often.

A batch comes in parts (`Settings.accumulate`), and each phase is a function from a part to a number: what it computes
for one part is gone before the next.
"""

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
        self.seen_w: list[Float[Tensor, "part d_latent"]] = []

    def discriminator_loss(self, part: Part) -> Float[Tensor, ""]:
        """Tell real images from generated ones; the generator runs without a graph."""
        p = self.players
        with torch.no_grad():
            _, fake = p.generate(part.latents)
        real_scores, fake_scores = p.score(part.real, part.labels), p.score(fake, part.latents.labels)
        if p.augment is not None:
            p.augment.observe(real_scores.detach())
        loss = self.discriminator_game(real_scores, fake_scores)
        self.measure({"loss.discriminator": loss, "score.real": real_scores, "score.fake": fake_scores})
        return loss

    def discriminator_penalty(self, part: Part) -> Float[Tensor, ""]:
        """γ/2 · R1 at real images; with the Wasserstein loss λ times WGAN-GP's penalty, between real and generated."""
        p, s = self.players, self.settings
        if s.loss == "wasserstein":
            with torch.no_grad():
                _, fake = p.generate(part.latents, penalty=True)
            x = interpolates(part.real, fake)
            name, weight, penalty = "wgan_gp", s.wgan_gp_weight, self.wgan_gp(x, p.score(x, part.labels, penalty=True))
        else:
            x = part.real.detach().requires_grad_()
            name, weight, penalty = "r1", s.r1_gamma / 2, self.r1(x, p.score(x, part.labels, penalty=True))
        self.measure({f"penalty.{name}": penalty})
        return weight * penalty

    def generator_loss(self, latents: Latents) -> Float[Tensor, ""]:
        """Be taken for real."""
        p = self.players
        w, fake = p.generate(latents)
        self.seen_w.append(w[0].detach())
        loss = self.generator_game(p.score(fake, latents.labels))
        self.measure({"loss.generator": loss})
        return loss

    def generator_penalty(self, latents: Latents) -> Float[Tensor, ""]:
        """Path length, times its weight. Each part has its own part in the running mean."""
        p = self.players
        penalty = p.path_length(*p.generate(latents, penalty=True))
        self.measure({"penalty.path_length": penalty, "path_length": p.path_length.mean_length})
        return self.settings.path_length_weight * penalty

    def take_w(self) -> Float[Tensor, "batch d_latent"]:
        """The w of all parts of the generator's loss since the last call."""
        seen, self.seen_w = torch.cat(self.seen_w), []
        return seen

    def measure(self, values: Metrics) -> None:
        """Keep the means over the parts."""
        for name, value in values.items():
            mean = value.detach().float().mean() / self.settings.accumulate
            self.measured[name] = self.measured.get(name, 0) + mean
