"""What the two players are trained on: a loss each, the discriminator's in two halves, and a penalty each that may
come less often.

A batch comes in parts (`Settings.accumulate`), and each phase is a function from a part to a number: what it computes
for one part is gone before the next.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from stylegan2 import losses
from stylegan2.penalties import GradientPenalty, WassersteinGradientPenalty, interpolates
from stylegan2.training.players import Latents, Players

Metrics = dict[str, Tensor]


class Game(NamedTuple):
    """A loss for each player, the discriminator's in two halves, which share no graph: the memory is that of one."""

    on_real: Callable[[Tensor], Tensor]
    on_fake: Callable[[Tensor], Tensor]
    of_generator: Callable[[Tensor], Tensor]


GAMES = {
    "logistic": Game(lambda real: F.softplus(-real).mean(), lambda fake: F.softplus(fake).mean(),
                     losses.logistic_generator_loss),
    "wasserstein": Game(lambda real: 0.001 * real.square().mean() - real.mean(), torch.mean,
                        losses.wasserstein_generator_loss),
    "hinge": Game(lambda real: F.relu(1 - real).mean(), lambda fake: F.relu(1 + fake).mean(),
                  losses.wasserstein_generator_loss),
}
PENALTY_PIXELS = 4 * 256**2
"""Of the images that a gradient penalty is computed of at once: it holds the graph of a gradient's graph, four times
the memory of the loss."""


class Part(NamedTuple):
    """What the discriminator is trained on at once."""

    real: Float[Tensor, "part channels side side"]
    labels: Int[Tensor, "part"] | None
    latents: Latents

    def pieces(self) -> "list[Part]":
        """Parts of this part, small enough for a gradient penalty, with whole groups of four."""
        count, side = len(self.real), self.real.shape[-1]
        n = 1
        while count // n * side**2 > PENALTY_PIXELS and count % (8 * n) == 0:
            n *= 2
        labels = self.labels
        return [Part(self.real[i::n], None if labels is None else labels[i::n], self.latents.part(i, n))
                for i in range(n)]


class Phases:
    """The four phases of a step.

    Args:
        players: the networks, on their device.
    """

    def __init__(self, players: Players):
        self.players, self.settings = players, players.settings
        self.game = GAMES[players.settings.loss]
        self.r1, self.wgan_gp = GradientPenalty(), WassersteinGradientPenalty()
        self.measured: Metrics = {}
        self.seen_w: list[Float[Tensor, "part d_latent"]] = []

    def real_loss(self, part: Part) -> Float[Tensor, ""]:
        """The discriminator's loss, its half on real images."""
        p = self.players
        scores = p.score(part.real, part.labels)
        if p.augment is not None:
            p.augment.observe(scores.detach())
        loss = self.game.on_real(scores)
        self.measure({"loss.discriminator": loss, "score.real": scores})
        return loss

    def fake_loss(self, part: Part) -> Float[Tensor, ""]:
        """The half on generated images; the generator runs without a graph."""
        p = self.players
        with torch.no_grad():
            _, fake = p.generate(part.latents)
        scores = p.score(fake, part.latents.labels)
        loss = self.game.on_fake(scores)
        self.measure({"loss.discriminator": loss, "score.fake": scores})
        return loss

    def discriminator_penalty(self, part: Part, share: float = 1.0) -> Float[Tensor, ""]:
        """γ/2 · R1 at real images; with the Wasserstein loss λ times WGAN-GP's penalty, between real and generated.

        Args:
            share: of the piece in its part; the number is multiplied by it.
        """
        p, s = self.players, self.settings
        if s.loss == "wasserstein":
            with torch.no_grad():
                _, fake = p.generate(part.latents, penalty=True)
            x = interpolates(part.real, fake)
            name, weight, penalty = "wgan_gp", s.wgan_gp_weight, self.wgan_gp(x, p.score(x, part.labels, penalty=True))
        else:
            x = part.real.detach().requires_grad_()
            name, weight, penalty = "r1", s.r1_gamma / 2, self.r1(x, p.score(x, part.labels, penalty=True))
        self.measure({f"penalty.{name}": share * penalty})
        return share * weight * penalty

    def generator_loss(self, latents: Latents) -> Float[Tensor, ""]:
        """Be taken for real."""
        p = self.players
        w, fake = p.generate(latents)
        self.seen_w.append(w[0].detach())
        loss = self.game.of_generator(p.score(fake, latents.labels))
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
            mean = value.detach().float()
            mean = mean.mean() if mean.ndim else mean
            mean = mean if self.settings.accumulate == 1 else mean / self.settings.accumulate
            self.measured[name] = self.measured[name] + mean if name in self.measured else mean
