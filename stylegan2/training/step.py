"""The two players, and the four things that a step can do: each player's loss, and each player's penalty."""

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stylegan2.discriminator import Discriminator
from stylegan2.ema import decay_of, update_average
from stylegan2.generator import Generator, Noise
from stylegan2.losses import discriminator_loss, generator_loss
from stylegan2.mapping import MappingNetwork
from stylegan2.penalties import GradientPenalty, PathLengthPenalty
from stylegan2.training.config import Settings

Metrics = dict[str, Tensor]


class Players(nn.Module):
    """The networks of a run. One state_dict holds them all.

    Args:
        settings: of the run.
    """

    def __init__(self, settings: Settings):
        super().__init__()
        s = settings
        self.mapping = MappingNetwork(s.d_latent, s.mapping_layers)
        self.generator = Generator(s.log_resolution, s.d_latent, s.n_features, s.max_features)
        self.discriminator = Discriminator(s.log_resolution, s.n_features, s.max_features)
        self.path_length = PathLengthPenalty()
        self.average = copy.deepcopy(nn.ModuleDict({"mapping": self.mapping, "generator": self.generator}))
        self.average.requires_grad_(False)

    def draw_w(self, batch: int, style_mixing: float) -> Float[Tensor, "layers batch d_latent"]:
        """w for every layer, from one z, or with probability `style_mixing` from two with a random crossover."""
        device, layers = self.mapping.mean_w.device, self.generator.n_layers
        w = self.mapping(torch.randn(batch, self.generator.d_latent, device=device)).expand(layers, -1, -1)
        if torch.rand([]) < style_mixing:
            crossover = int(torch.randint(1, layers, []))
            w2 = self.mapping(torch.randn(batch, self.generator.d_latent, device=device))
            w = torch.cat([w[:crossover], w2.expand(layers - crossover, -1, -1)])
        return w


class Step:
    """What happens to the players in one training step.

    Every player has one Adam. A penalty is a step of its own every k steps, with its loss times k, so that Adam counts
    k + 1 steps where it would count k: StyleGAN2 (arXiv 1912.04958), appendix B, corrects the rate and the betas for
    it.

    Args:
        players: the networks, on their device.
        settings: of the run.
    """

    def __init__(self, players: Players, settings: Settings):
        self.players, self.settings = players, settings
        self.gradient_penalty = GradientPenalty()
        self.trained = nn.ModuleDict({"mapping": players.mapping, "generator": players.generator})  # as players.average
        path_interval = settings.path_length_interval if settings.path_length_weight else None
        self.generator_adam = lazy_adam(self.trained, settings.learning_rate, path_interval)
        r1_interval = settings.r1_interval if settings.r1_gamma else None
        self.discriminator_adam = lazy_adam(players.discriminator, settings.learning_rate, r1_interval)
        self.device = players.mapping.mean_w.device
        self.noise: Noise = "random" if settings.noise else None
        self.bf16 = settings.precision == "bf16" or (
            settings.precision == "auto" and self.device.type == "cuda" and torch.cuda.is_bf16_supported())

    def __call__(self, step: int, real: Float[Tensor, "batch 3 side side"]) -> Metrics:
        """One step of both players, and what was measured (detached)."""
        s = self.settings
        metrics = self.train_discriminator(real)
        if s.r1_gamma and step % s.r1_interval == 0:
            metrics |= self.penalise_discriminator(real)
        metrics |= self.train_generator(len(real))
        if s.path_length_weight and step % s.path_length_interval == 0:
            metrics |= self.penalise_generator(max(1, len(real) // 2))
        decay = decay_of(len(real), step * len(real), s.ema_half_life)
        update_average(self.players.average, self.trained, decay)
        return metrics

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def train_discriminator(self, real: Float[Tensor, "batch 3 side side"]) -> Metrics:
        """Logistic loss on real and generated images; the generator runs without a graph."""
        p = self.players
        with self.autocast():
            with torch.no_grad():
                fake = p.generator(p.draw_w(len(real), self.settings.style_mixing), self.noise)
            real_scores, fake_scores = p.discriminator(real), p.discriminator(fake)
            loss = discriminator_loss(real_scores, fake_scores)
        update(self.discriminator_adam, loss)
        return {"loss.discriminator": loss.detach(), "score.real": real_scores.detach().mean(),
                "score.fake": fake_scores.detach().mean()}

    def penalise_discriminator(self, real: Float[Tensor, "batch 3 side side"]) -> Metrics:
        """γ/2 · R1, times the interval."""
        real = real.detach().requires_grad_()
        penalty = self.gradient_penalty(real, self.players.discriminator(real))
        update(self.discriminator_adam, penalty * (self.settings.r1_gamma / 2 * self.settings.r1_interval))
        return {"penalty.r1": penalty.detach()}

    def train_generator(self, batch: int) -> Metrics:
        """Non-saturating loss; the discriminator passes the gradient on without collecting its own."""
        p = self.players
        p.discriminator.requires_grad_(False)
        with self.autocast():
            w = p.draw_w(batch, self.settings.style_mixing)
            p.mapping.update_mean(w[0].detach())
            loss = generator_loss(p.discriminator(p.generator(w, self.noise)))
        update(self.generator_adam, loss)
        p.discriminator.requires_grad_(True)
        return {"loss.generator": loss.detach()}

    def penalise_generator(self, batch: int) -> Metrics:
        """Path length, times its weight and the interval."""
        p, s = self.players, self.settings
        w = p.draw_w(batch, s.style_mixing)
        penalty = p.path_length(w, p.generator(w, self.noise))
        update(self.generator_adam, penalty * (s.path_length_weight * s.path_length_interval))
        return {"penalty.path_length": penalty.detach(), "path_length": p.path_length.mean_length.clone()}


def update(adam: torch.optim.Adam, loss: Float[Tensor, ""]) -> None:
    """One step of one player."""
    adam.zero_grad(set_to_none=True)
    loss.backward()
    adam.step()


def lazy_adam(module: nn.Module, learning_rate: float, interval: int | None) -> torch.optim.Adam:
    """Adam with β = (0, 0.99); with a penalty every k steps, c = k/(k + 1): rate·c and β^c."""
    c = 1.0 if interval is None else interval / (interval + 1)
    return torch.optim.Adam(module.parameters(), lr=learning_rate * c, betas=(0.0, 0.99**c), eps=1e-8, fused=True)
