"""One step of training."""

import contextlib
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from stylegan2.ema import decay_of, update_average
from stylegan2.equalized import scaled_at_once
from stylegan2.progressive import images_at_stage
from stylegan2.training.phases import Metrics, Part, Phases
from stylegan2.training.players import Latents, Players
from stylegan2.training.processes import Processes
from stylegan2.training.update import Update

ADJUST_AUGMENTATION_EVERY = 4  # steps (arXiv 2006.06676, section 3.1)


class Step:
    """What happens to the players in one training step.

    All processes draw the same latents for the whole batch and take their share of them. What is drawn from torch's own
    generator (noise maps, augmentation, the directions of path lengths) differs from process to process.

    Args:
        players: the networks, on their device.
        processes: among which the batches are divided.
        class_weights: how often each class occurs, for a run with labels.
    """

    def __init__(self, players: Players, processes: Processes | None = None,
                 class_weights: Float[Tensor, "classes"] | None = None):
        s = players.settings
        self.players, self.settings, self.class_weights = players, s, class_weights
        self.processes = processes or Processes(device=players.mapping.mean_w.device)
        self.phases = Phases(players)
        self.random = torch.Generator().manual_seed(s.seed + (1 << 32))  # of the latents; the same in all processes
        self.update_discriminator = Update(
            players.discriminator, s.learning_rate, s.r1_interval if s.r1_gamma or s.loss == "wasserstein" else None,
            s.accumulate, self.processes)
        self.update_generator = Update(
            players.trained, s.learning_rate, s.path_length_interval if s.path_length_weight else None, s.accumulate,
            self.processes)

    def __call__(self, step: int, real: Float[Tensor, "share channels side side"],
                 labels: Int[Tensor, "share"] | None = None) -> Metrics:
        """One step of both players.

        Args:
            step: steps made before this one.
            real: this process's share of the batch, in [−1, 1].
            labels: their classes, for a run with labels.

        Returns:
            What was measured in this process (detached).
        """
        s, phases = self.settings, self.phases
        phases.measured, phases.seen_w = {}, []  # an interrupted step leaves something there
        if s.growing:
            stage = s.stage(step * s.batch_size)
            self.players.set_stage(stage)
            real = images_at_stage(real, stage)
        parts = self.parts(real, labels)
        with scaled_at_once(self.players.trained):
            halves = (half(part) for part in parts for half in (phases.real_loss, phases.fake_loss))
            penalties = (phases.discriminator_penalty(piece, 1 / len(pieces))
                         for pieces in map(Part.pieces, parts) for piece in pieces)
            self.update_discriminator(step, halves, penalties)
        latents, fewer = self.draw(s.batch_size), self.draw(max(s.batch_size // 2, s.accumulate * self.processes.count))
        # The discriminator passes the gradient on without collecting its own.
        with frozen(self.players.discriminator), scaled_at_once(self.players.discriminator):
            self.update_generator(step, map(phases.generator_loss, latents), map(phases.generator_penalty, fewer))
        self.players.mapping.update_mean(phases.take_w())
        self.follow(step)
        return phases.measured

    def parts(self, real: Float[Tensor, "share channels side side"], labels: Int[Tensor, "share"] | None) -> list[Part]:
        """The parts in which the discriminator gets its batch, each with the latents of as many fakes."""
        n = self.settings.accumulate
        return [Part(real[i::n], None if labels is None else labels[i::n], latents)
                for i, latents in enumerate(self.draw(self.settings.batch_size))]

    def draw(self, batch: int) -> list[Latents]:
        """This process's share of a whole batch's latents, in parts; with probability `style_mixing` from two z."""
        s, layers, random = self.settings, self.players.generator.n_layers, self.random
        mixed = layers > 1 and bool(torch.rand([], generator=random) < s.style_mixing)
        z = torch.randn(1 + mixed, batch, s.d_latent, generator=random)
        crossover = int(torch.randint(1, layers, [], generator=random)) if mixed else layers
        labels = None
        if self.class_weights is not None:
            labels = torch.multinomial(self.class_weights, batch, replacement=True, generator=random)
        share = Latents(z, crossover, labels).part(self.processes.rank, self.processes.count)
        return [share.part(i, s.accumulate).to(self.processes.device) for i in range(s.accumulate)]

    def follow(self, step: int) -> None:
        """What follows the players: the running means, the strength of the augmentation, the averaged generator."""
        p, s = self.players, self.settings
        self.processes.average([p.mapping.mean_w, p.path_length.mean_length])
        if p.augment is not None and step % ADJUST_AUGMENTATION_EVERY == 0:
            self.processes.average([p.augment.signs])
            p.augment.signs.mul_(self.processes.count)
            self.phases.measured["augment.r"] = p.augment.adjust()
            self.phases.measured["augment.p"] = p.augment.p.clone()
        # a trained network is no first attempt that the average should soon forget
        ramp_up = None if s.start else 0.05
        update_average(p.average, p.trained,
                       decay_of(s.batch_size, step * s.batch_size, s.ema_half_life, ramp_up))


@contextlib.contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Inside, no parameter of the module collects a gradient; afterwards each does that did before."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    for p in trainable:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in trainable:
            p.requires_grad_(True)
