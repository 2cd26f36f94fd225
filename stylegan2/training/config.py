"""The settings of a run."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from stylegan2.data import check_resolution
from stylegan2.fields import Colour, Count, Range, Seed, Share, check_fields, flag
from stylegan2.files import read_json, write_text
from stylegan2.precision import Precision

Model = Literal["progan", "stylegan", "stylegan2"]
Channels = Annotated[int, Range(1, 8192)]
Weight = Annotated[float, Range(0, 1_000_000)]
Interval = Annotated[int, Range(1, 1_000_000)]
Resolution = Annotated[int, Range(4, 4096)]


@dataclass(frozen=True)
class Settings:
    """Everything that decides what a run computes; written to settings.json in its folder.

    Raises:
        ValueError: a value is out of its range, or two do not go together.
    """

    model: Model = "stylegan2"
    """Which generation's settings the others start from: progan, stylegan, or stylegan2."""
    data: str = "toyfaces"
    """What to train on: toyfaces (procedural, needs no download); a public set, downloaded once (cifar10,
    fashion-mnist, afhq, ffhq-thumbnails); or the path of a folder or zip of images, or of an array (.npy, .npz)."""
    resolution: Resolution = 32
    """Side of the images in pixels, a power of two."""
    channels: Literal[1, 3, 4] = 3
    """Of the images: 1 (grey), 3 (RGB), or 4 (RGBA). The command line finds grey sets by itself; transparent pixels are
    laid over the background unless 4 channels are asked for."""
    background: Colour = (255, 255, 255)
    """Colour behind transparent pixels, red green blue from 0 to 255."""
    white: Annotated[int, Range(1, 65535)] | None = None
    """Value of the brightest pixel that the files can hold, where that is not 255, or 65535 in 16 bits: 4095 for 12
    bits stored in 16."""
    subset: Annotated[int, Range(0, 10**12)] = 0
    """Train on so many images of the set only, a sample that is the same for every seed; 0 takes all."""
    x_flip: bool = False
    """Mirror half of the real images at random; doubles a set of symmetric things."""
    labels: bool = False
    """Train with the classes of the images (in a folder or zip, one sub-folder for each): the generator is told which
    to draw, the discriminator which it sees."""
    start: Annotated[str | None, flag(name="from")] = None
    """Start from a trained network instead of random weights: the folder of a run, a record or a converted network, or
    a checkpoint of any format that `convert` reads; with #sha256=… behind it, only if that is what it holds. Sizes are
    taken over; optimizers, the strength of the augmentation and the count of images start anew."""
    freeze_d: Annotated[int, Range(0, 10)] = 0
    """Keep so many of the highest resolutions of a trained discriminator as they are (arXiv 2002.10964)."""
    images: Count = 100_000
    """Train until the discriminator has seen this many real images."""
    batch_size: Annotated[int, Range(1, 65536)] = 32
    """Images per step, over all processes: a multiple of 4 (the groups of the minibatch standard deviation) in each
    part that is computed at once, or less than 4."""
    accumulate: Annotated[int, Range(1, 65536)] = 1
    """Parts in which each process takes its share of a batch, one after the other; the gradients are the same, the
    memory is less."""
    n_features: Channels = 16
    """Channels at the highest resolution; they double with each halving of it."""
    max_features: Channels = 128
    """Limit of the channels at low resolutions."""
    d_latent: Channels = 128
    """Size of z and w."""
    mapping_layers: Annotated[int, Range(0, 64)] = 8
    """Layers of the mapping network; 0 only normalises z, as Progressive GAN does."""
    style: Literal["demodulation", "adain", "none"] = "demodulation"
    """How w enters the generator: modulated and demodulated weights (StyleGAN2), AdaIN (StyleGAN), or only as the input
    of the first layer (Progressive GAN)."""
    generator: Literal["skip", "residual", "plain"] = "skip"
    """Architecture: a sum of RGB images, residual blocks, or one chain of layers."""
    discriminator: Literal["residual", "skip", "plain"] = "residual"
    """Architecture, as that of the generator."""
    minibatch_std: bool = True
    """Show the discriminator how much the images of a group differ, so that it notices mode collapse."""
    growing: bool = False
    """Start at a low resolution and fade the higher ones in; both architectures must be plain."""
    grow_from: Resolution = 8
    """Resolution at which a growing run starts."""
    grow_images: Count = 10_000
    """Images for which a growing run stays at a resolution, and for which it then fades in the next."""
    noise: bool = False
    """Feed noise maps to the generator, for what is random in photographs (curls, pores, leaves). A short run does
    better without: before it can draw edges, the generator fakes them with noise and is slow to let go."""
    style_mixing: Share = 0.9
    """Probability that a batch takes its w from two z, the second from a random layer on."""
    loss: Literal["logistic", "wasserstein", "hinge"] = "logistic"
    """Of the game: non-saturating logistic, Wasserstein with its own gradient penalty and drift, or hinge."""
    learning_rate: Annotated[float, Range(0, 100, above=True)] = 0.015
    """Of Adam, for both players, before the lazy correction; the mapping network learns at a hundredth of it. This
    default is for a small network and a short run; the papers have 0.0025, for 512 features and 25 million images."""
    r1_gamma: Weight = 0.3
    """Weight γ of R1, for pixels in [-1, 1]; 0 turns it off. A start for another set: 0.0002·resolution²/batch_size,
    then a few times up and down."""
    r1_interval: Interval = 16
    """Steps between two gradient penalties of the discriminator; 1 puts it into the same step as the loss."""
    wgan_gp_weight: Weight = 10.0
    """Weight λ of the gradient penalty that the Wasserstein loss has instead of R1."""
    path_length_weight: Weight = 2.0
    """Weight of the path-length penalty; 0 turns it off."""
    path_length_interval: Interval = 4
    """Steps between two path-length penalties; 1 puts it into the same step as the loss."""
    augment: bool = False
    """Adaptive augmentation: change what the discriminator sees, real and generated, as much as it takes to keep it
    from learning a small set by heart."""
    augment_target: Share = 0.6
    """Mean sign of the scores of real images that the strength of the augmentation is steered to."""
    augment_images: Count = 500_000
    """Images in which that strength can go from 0 to 1; a short run needs a shorter way."""
    ema_half_life: Count = 10_000
    """Images after which the averaged generator has forgotten half."""
    precision: Precision = "auto"
    """Of the main phases. auto is fp32 below 128², where half precision gains nothing; from there on bf16 on a GPU that
    computes in it itself (compute capability 8), fp16 on one that has only that (7; a T4), else fp32. fp16 is used in
    the four highest resolutions. Penalties are always fp32, and so are w, styles, scores and the sum of RGB images."""
    compile: bool = False
    """Compile the networks for the main phases (torch.compile), which takes a minute or more."""
    seed: Seed = 0
    """Of the weights, the latents, the noise and the order of the data."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_resolution(self.resolution)
        self.check_parts(1)
        self.check_networks()
        self.check_start()

    def check_parts(self, processes: int) -> None:
        """
        Raises:
            ValueError: the batch does not split into parts that suit the minibatch standard deviation.
        """
        parts = processes * self.accumulate
        part = self.batch_size / parts
        if self.batch_size % parts or (part > 4 and part % 4):
            raise ValueError(
                f"batch_size is {self.batch_size}, in {parts} part{'s' * (parts > 1)} ({processes} × accumulate "
                f"{self.accumulate}) of {part:g} images: each must have a multiple of 4 (the groups of the minibatch "
                "standard deviation), or less than 4")

    def check_networks(self) -> None:
        """
        Raises:
            ValueError: the architectures do not go together.
        """
        if (self.growing or self.style == "none") and (self.generator, self.discriminator) != ("plain", "plain"):
            what = "growing" if self.growing else "style none (Progressive GAN)"
            raise ValueError(f"{what} needs generator plain and discriminator plain, not {self.generator} and "
                             f"{self.discriminator}")
        if self.precision == "fp16" and self.has_plain_network:
            raise ValueError("precision fp16 needs a generator and a discriminator that are skip or residual: plain "
                             "ones are not limited to what float16 can hold")
        if self.growing:
            check_resolution(self.grow_from)
            if self.grow_from > self.resolution:
                raise ValueError(f"grow_from is {self.grow_from}: it must not be above the resolution "
                                 f"({self.resolution})")
            if self.compile:
                raise ValueError("compile does not go with growing: the networks change with every step of a fade")
        if self.style != "none" and self.mapping_layers == 0 and self.path_length_weight:
            raise ValueError("mapping_layers is 0: without a mapping network there are no paths in w to be measured; "
                             "set path_length_weight to 0 as well")
        if self.labels and self.style != "none" and self.mapping_layers == 0:
            raise ValueError("mapping_layers is 0: labels need at least one layer, which merges them with z")
        if self.labels and self.style == "none":
            raise ValueError("labels need a mapping network that takes them: style adain or demodulation")

    def check_start(self) -> None:
        """
        Raises:
            ValueError: what is to stay frozen is not there, or was never trained.
        """
        if self.start == "":
            raise ValueError("from is empty: name what to start from, or leave it out")
        if self.freeze_d and self.start is None:
            raise ValueError(f"freeze_d is {self.freeze_d}: without --from the discriminator has learned nothing that "
                             "could be kept")
        if self.freeze_d > self.log_resolution - 2:
            raise ValueError(f"freeze_d is {self.freeze_d}: at {self.resolution}² a discriminator has "
                             f"{self.log_resolution - 2} resolutions above its last, which always learns")
        if self.freeze_d and self.discriminator == "plain":
            raise ValueError("freeze_d needs a discriminator that is residual or skip")

    @property
    def has_plain_network(self) -> bool:
        """Whether one of the two is: its activations are not limited to what float16 can hold."""
        return "plain" in (self.generator, self.discriminator)

    @property
    def log_resolution(self) -> int:
        return self.resolution.bit_length() - 1

    def stage(self, images: int) -> float:
        """How far a growing run has grown after so many images: the whole part counts the resolutions above 4² that are
        there, the fraction is the weight of the one that fades in (Progressive GAN, section A.1)."""
        first, last = self.grow_from.bit_length() - 3, self.log_resolution - 2
        faded, position = divmod(max(0.0, images / self.grow_images - 1), 2)
        return min(first + faded + min(position, 1.0), float(last))

    def save(self, path: Path) -> None:
        write_text(path, json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    @staticmethod
    def load(path: Path) -> "Settings":
        """
        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it holds no JSON, a setting that does not exist, or a value out of its range.
        """
        try:
            return Settings.from_dict(read_json(path))
        except ValueError as error:
            raise ValueError(f"{path} does not hold the settings of a run: {error}") from error

    @staticmethod
    def from_dict(values: Any) -> "Settings":
        """What `dataclasses.asdict` gave, perhaps through JSON; what is missing keeps its default.

        Raises:
            ValueError: it is no dict, or holds a setting that does not exist or a value out of its range.
        """
        known = {field.name for field in dataclasses.fields(Settings)}
        if not isinstance(values, dict) or not values.keys() <= known:
            strange = ", ".join(sorted(map(str, values.keys() - known))) if isinstance(values, dict) else values
            raise ValueError(f"there is no setting {strange}")
        read: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return Settings(**read)
