"""The settings of a run."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stylegan2.data import check_resolution
from stylegan2.training.checkpoint import write_text


@dataclass(frozen=True)
class Settings:
    """Everything that decides what a run computes; written to settings.json in its folder.

    Raises:
        ValueError: a value is out of its range, or the batch does not suit the minibatch standard deviation.
    """

    data: str = "toyfaces"
    """What to train on: toyfaces (procedural, needs no download), or the path of a folder or zip of images."""
    resolution: int = 32
    """Side of the images in pixels, a power of two."""
    background: tuple[int, int, int] = (255, 255, 255)
    """Colour behind transparent pixels, red green blue from 0 to 255."""
    x_flip: bool = False
    """Mirror half of the real images at random; doubles a set of symmetric things."""
    images: int = 100_000
    """Train until the discriminator has seen this many real images."""
    batch_size: int = 32
    """Images per step: a multiple of 4 (the groups of the minibatch standard deviation), or less than 4."""
    n_features: int = 16
    """Channels at the highest resolution; they double with each halving of it."""
    max_features: int = 128
    """Limit of the channels at low resolutions."""
    d_latent: int = 128
    """Size of z and w."""
    mapping_layers: int = 8
    """Layers of the mapping network."""
    learning_rate: float = 0.015
    """Of Adam, for both players, before the lazy correction; the mapping network learns at a hundredth of it. This
    default is for a small network and a short run; the papers have 0.0025, for 512 features and 25 million images."""
    r1_gamma: float = 0.3
    """Weight γ of R1, for pixels in [-1, 1]. A start for another set: 0.0002·resolution²/batch_size, then a few times
    up and down.
    """
    r1_interval: int = 16
    """Steps between two R1 penalties."""
    path_length_weight: float = 2.0
    """Weight of the path-length penalty; 0 turns it off."""
    path_length_interval: int = 4
    """Steps between two path-length penalties."""
    style_mixing: float = 0.9
    """Probability that a batch takes its w from two z, the second from a random layer on."""
    noise: bool = False
    """Feed noise maps to the generator, for what is random in photographs (curls, pores, leaves). A short run does
    better without: before it can draw edges, the generator fakes them with noise and is slow to let go."""
    ema_half_life: int = 10_000
    """Images after which the averaged generator has forgotten half."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the main phases; auto is bf16 on a GPU that has it, else fp32. Penalties are always fp32."""
    seed: int = 0
    """Of the weights, the latents, the noise and the order of the data."""

    def __post_init__(self) -> None:
        for name in ("images", "batch_size", "n_features", "max_features", "d_latent", "mapping_layers",
                     "learning_rate", "r1_interval", "path_length_interval", "ema_half_life"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be greater than 0")
        check_resolution(self.resolution)
        if self.batch_size > 4 and self.batch_size % 4:
            raise ValueError(f"batch_size is {self.batch_size}: it must be a multiple of 4 (the groups of the "
                             "minibatch standard deviation), or less than 4")

    @property
    def log_resolution(self) -> int:
        return self.resolution.bit_length() - 1

    def command(self) -> str:
        """The command line that trains with these settings: what differs from the defaults is named."""
        words = ["python -m stylegan2 train"]
        for name, value in dataclasses.asdict(self).items():
            if value != getattr(Settings, name):
                flag = name.replace("_", "-")
                if isinstance(value, bool):
                    words.append(f"--{flag}" if value else f"--no-{flag}")
                else:
                    words.append(f"--{flag} {' '.join(map(str, value)) if isinstance(value, tuple) else value}")
        return " ".join(words)

    def save(self, path: Path) -> None:
        write_text(path, json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    @staticmethod
    def load(path: Path) -> "Settings":
        """
        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it holds no JSON, or a setting that does not exist.
        """
        try:
            values = json.loads(path.read_text())
            values["background"] = tuple(values["background"])
            return Settings(**values)
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{path} does not hold the settings of a run: {error}") from error
