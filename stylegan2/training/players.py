"""The networks of a run: the two players, what goes with them, and the average that samples are drawn from."""

import copy
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from stylegan2.augment import AdaptiveAugment
from stylegan2.discriminator import Discriminator, DiscriminatorBase, SkipDiscriminator
from stylegan2.generator import Generator, Noise, ResidualGenerator, StyleBlock, StyleGenerator
from stylegan2.images import images_at_once
from stylegan2.mapping import MappingNetwork
from stylegan2.penalties import PathLengthPenalty
from stylegan2.precision import dtype_of_main_phases
from stylegan2.progressive import GrowingDiscriminator, ProgressiveDiscriminator, ProgressiveGenerator
from stylegan2.stylegan1 import AdaINBlock, GrowingGenerator
from stylegan2.training.config import Settings

AnyGenerator = StyleGenerator | ProgressiveGenerator
Growing = (GrowingGenerator, ProgressiveGenerator, GrowingDiscriminator)


class Latents(NamedTuple):
    """What a batch of images is generated from."""

    z: Float[Tensor, "sources batch d_latent"]
    """One z per image; or two, for style mixing."""
    crossover: int
    """The layer from which on the second z takes over; the number of layers where there is one z."""
    labels: Int[Tensor, "batch"] | None

    def part(self, first: int, stride: int) -> "Latents":
        """Every stride-th sample, from the first on."""
        return Latents(self.z[:, first::stride], self.crossover,
                       None if self.labels is None else self.labels[first::stride])

    def to(self, device: torch.device) -> "Latents":
        """On the device; a GPU goes on computing meanwhile."""
        return Latents(upload(self.z, device), self.crossover,
                       None if self.labels is None else upload(self.labels, device))


def upload(x: Tensor, device: torch.device) -> Tensor:
    """x on the device. What a GPU is to copy while it computes must lie in memory that is pinned."""
    return (x.pin_memory() if device.type == "cuda" else x).to(device, non_blocking=True)


class TrainedGenerator(nn.Module):
    """A mapping network and a generator, to draw samples from: the average of a run, or networks that were converted.

    Args:
        settings: that the networks were made with.
        mapping, generator: taken as they are.
    """

    def __init__(self, settings: Settings, mapping: MappingNetwork, generator: AnyGenerator):
        super().__init__()
        self.settings = settings
        self.noise: Noise = "const" if settings.noise else None
        self.mapping, self.generator = mapping, generator

    @torch.no_grad()
    def forward(self, z: Float[Tensor, "batch d_latent"], psi: float = 1.0,
                labels: Int[Tensor, "batch"] | None = None,
                cutoff: int | None = None) -> Float[Tensor, "batch channels side side"]:
        """Images in about [−1, 1], with the stored noise maps if the run was trained with noise.

        Args:
            z: N(0, 1).
            psi: truncation; 1 leaves w as it is, 0 gives the mean image.
            labels: classes, where the run was trained with them.
            cutoff: truncate only the first so many layers.
        """
        w = self.mapping(z, labels).expand(self.generator.n_layers, -1, -1)
        return self.generator(self.mapping.truncate(w, psi, cutoff), self.noise)


class Players(nn.Module):
    """The networks of a run. One state_dict holds them all.

    A main phase runs compiled if the settings say so, and in half precision where that is the setting. A penalty phase
    runs neither: what is differentiated twice must be plain and exact.

    Args:
        settings: of the run.
        n_classes: of the data, for a run with labels.
    """

    def __init__(self, settings: Settings, n_classes: int = 0):
        super().__init__()
        self.settings = settings
        self.trained = TrainedGenerator(settings, make_mapping(settings, n_classes), make_generator(settings))
        self.average = copy.deepcopy(self.trained).requires_grad_(False)
        self.discriminator = make_discriminator(settings, n_classes)
        self.augment = AdaptiveAugment(settings.augment_target, settings.augment_images) if settings.augment else None
        self.path_length = PathLengthPenalty()
        if isinstance(self.discriminator, Discriminator | SkipDiscriminator):
            highest(self.discriminator, settings.freeze_d).requires_grad_(False)

    @property
    def mapping(self) -> MappingNetwork:
        return self.trained.mapping

    @property
    def generator(self) -> AnyGenerator:
        return self.trained.generator

    def generate(self, latents: Latents, penalty: bool = False) -> tuple[
            Float[Tensor, "layers batch d_latent"], Float[Tensor, "batch channels side side"]]:
        """w for every layer, and the images."""
        with self.precision(penalty):
            sources, batch, _ = latents.z.shape
            labels = None if latents.labels is None else latents.labels.repeat(sources)
            of_z = self.mapping(latents.z.flatten(0, 1), labels).unflatten(0, (sources, batch))
            before = min(latents.crossover, self.generator.n_layers)
            w = torch.cat([of_z[:1].expand(before, -1, -1),
                           of_z[-1:].expand(self.generator.n_layers - before, -1, -1)])  # [layers, batch, d_latent]
            run = self.generator.forward if penalty else self.generator
            return w, run(w, "random" if self.settings.noise else None)

    def score(self, images: Float[Tensor, "batch channels side side"], labels: Int[Tensor, "batch"] | None,
              penalty: bool = False) -> Float[Tensor, "batch 1"]:
        """The discriminator's scores of augmented images."""
        images = images if self.augment is None else self.augment(images)
        with self.precision(penalty):
            return (self.discriminator.forward if penalty else self.discriminator)(images, labels)

    def precision(self, penalty: bool) -> torch.autocast:
        device, s = self.mapping.mean_w.device, self.settings
        dtype = dtype_of_main_phases(s.precision, device, s.resolution)
        if dtype == torch.float16 and s.has_plain_network:
            dtype = torch.float32
        enabled = dtype != torch.float32 and not penalty
        return torch.autocast(device.type, dtype if enabled else torch.bfloat16, enabled=enabled)

    def set_stage(self, stage: float) -> None:
        """Bring growing networks to a stage."""
        for network in (self.generator, self.discriminator, self.average.generator):
            if isinstance(network, Growing):
                network.stage = stage

    def compile(self) -> None:
        """Compile what the main phases call."""
        self.generator.compile()
        self.discriminator.compile()


def sample(trained: TrainedGenerator, count: int, psi: float = 1.0, seed: int = 0,
           labels: Int[Tensor, "count"] | None = None,
           cutoff: int | None = None) -> Float[Tensor, "count channels side side"]:
    """Images of z drawn with this seed; the same on every machine. Classes in turn, where there are some and no labels
    are given.
    """
    z = torch.randn(count, trained.settings.d_latent, generator=torch.Generator().manual_seed(seed))
    device, n_classes = trained.mapping.mean_w.device, trained.mapping.n_classes
    if n_classes and labels is None:
        labels = torch.arange(count) % n_classes
    n = images_at_once(trained.settings.resolution, 64)
    parts = zip(z.split(n), [None] * -(-count // n) if labels is None else labels.split(n), strict=True)
    return torch.cat([trained(z.to(device), psi, None if c is None else c.to(device), cutoff).cpu()
                      for z, c in parts])


def make_mapping(s: Settings, n_classes: int = 0) -> MappingNetwork:
    return MappingNetwork(s.d_latent, s.mapping_layers, n_classes=n_classes)


def make_generator(s: Settings) -> AnyGenerator:
    """The generator that the settings name."""
    sizes = (s.log_resolution, s.d_latent, s.n_features, s.max_features)
    if s.style == "none":
        return ProgressiveGenerator(*sizes, n_channels=s.channels)
    kinds: dict[str, type[StyleGenerator]] = {
        "skip": Generator, "residual": ResidualGenerator, "plain": GrowingGenerator}
    return kinds[s.generator](*sizes, style_block=AdaINBlock if s.style == "adain" else StyleBlock,
                              n_channels=s.channels)


def make_discriminator(s: Settings, n_classes: int = 0) -> DiscriminatorBase:
    """The discriminator that the settings name."""
    sizes = (s.log_resolution, s.n_features, s.max_features, 4 if s.minibatch_std else 1)  # one image does not differ
    if s.style == "none":
        return ProgressiveDiscriminator(*sizes, n_channels=s.channels)
    kinds: dict[str, type[DiscriminatorBase]] = {
        "residual": Discriminator, "skip": SkipDiscriminator, "plain": GrowingDiscriminator}
    return kinds[s.discriminator](*sizes, n_classes=n_classes, n_channels=s.channels)


def highest(discriminator: Discriminator | SkipDiscriminator, count: int) -> nn.ModuleList:
    """The layers of so many resolutions of a discriminator, from the highest on."""
    see = [discriminator.from_rgb] if isinstance(discriminator, Discriminator) else discriminator.from_rgb
    return nn.ModuleList([*list(see)[:count], *list(discriminator.blocks)[:count]])
