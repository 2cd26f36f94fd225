"""A small network that reads the factors of a ToyFace from its picture: the eye of the metrics that need no download.

Its hidden layer is the feature space of the toy distances, and its answers are the labels of linear separability.
`python -m stylegan2 train-classifier` trains it; a trained one comes with the package.
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from stylegan2.data import FACTORS
from stylegan2.data.toyfaces import Factors
from stylegan2.files import load_module, load_tensors

SHIPPED = Path(__file__).parent / "toyfaces-classifier"
SIDE = 32  # the network's; other images are resized to it
LEVELS = {name: len(factor.odds) for name, factor in FACTORS.items() if factor.odds}
HUES = tuple(name for name in FACTORS if name.endswith("_hue"))  # on a circle: 0 and 1 are the same colour
SCALARS = tuple(name for name in FACTORS if name not in LEVELS and name not in HUES)
COLUMNS = (*SCALARS, *(f"{name}.{part}" for name in HUES for part in ("cos", "sin")),
           *(f"{name}.{level}" for name, levels in LEVELS.items() for level in range(levels)))
N_VALUES = len(SCALARS) + 2 * len(HUES)  # the columns before those of the levels


class FaceClassifier(nn.Module):
    """Images → hidden features → one number for each of `COLUMNS`: standardised values, then logits.

    It is a feature extractor too: `name`, and a call that gives features.

    Args:
        n_features: size of the hidden layer.
    """

    name = "ToyFaces features"

    def __init__(self, n_features: int = 128):
        super().__init__()
        self.hidden = nn.Sequential(
            *convolution(3, 64, kernel=6, stride=2), *convolution(64, 64),  # 16²
            *convolution(64, 96, stride=2), *convolution(96, 96), *convolution(96, 32, kernel=1),  # 8²
            nn.AvgPool2d(2), nn.Flatten(), nn.Linear(32 * (SIDE // 8) ** 2, n_features), nn.SiLU())
        self.head = nn.Linear(n_features, len(COLUMNS))

    def forward(self, images: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch features"]:
        """Features of images in [−1, 1] of any size."""
        return self.hidden(resize(images, SIDE))

    def table(self, images: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch columns"]:
        """What is read from the images, by `COLUMNS`: scalars in standard deviations from their mean, hues as cosine
        and sine, and a probability for each level.
        """
        answers = self.head(self(images))
        levels = answers[:, N_VALUES:].split(list(LEVELS.values()), dim=1)
        return torch.cat([answers[:, :N_VALUES], *(part.softmax(dim=1) for part in levels)], dim=1)

    @torch.no_grad()
    def predict(self, images: Float[Tensor, "batch 3 h w"]) -> dict[str, Float[Tensor, "batch *levels"]]:
        """The factors by name: scalars and hues in their own units [batch], levels as probabilities [batch, levels]."""
        columns = dict(zip(COLUMNS, self.table(images).unbind(dim=1), strict=True))
        found = {}
        for name, factor in FACTORS.items():
            if name in LEVELS:
                found[name] = torch.stack([columns[f"{name}.{level}"] for level in range(LEVELS[name])], dim=1)
            elif name in HUES:
                angle = torch.atan2(columns[f"{name}.sin"], columns[f"{name}.cos"])
                found[name] = (angle / (2 * math.pi)) % 1
            else:
                found[name] = (factor.low + factor.high) / 2 + columns[name] * (factor.high - factor.low) / 12**0.5
        return found


def convolution(n_in: int, n_out: int, kernel: int = 3, stride: int = 1) -> tuple[nn.Module, ...]:
    return (nn.Conv2d(n_in, n_out, kernel, stride, padding=(kernel - 1) // 2, bias=False), nn.BatchNorm2d(n_out),
            nn.SiLU())


def resize(images: Float[Tensor, "batch 3 h w"], side: int) -> Float[Tensor, "batch 3 side side"]:
    """To side × side: by the mean over areas where that is smaller, between pixels where it is larger."""
    h, w = images.shape[-2:]
    if min(h, w) >= side:
        return F.interpolate(images, (side, side), mode="area")
    return F.interpolate(images, (side, side), mode="bilinear", antialias=True)


def targets(factors: Factors) -> Float[Tensor, "batch targets"]:
    """The truth that the network learns: the value columns of `COLUMNS`, then the level of each categorical factor."""
    parts = [(factors[name] - (FACTORS[name].low + FACTORS[name].high) / 2)
             / ((FACTORS[name].high - FACTORS[name].low) / 12**0.5) for name in SCALARS]
    for name in HUES:
        angle = 2 * math.pi * factors[name]
        parts += [angle.cos(), angle.sin()]
    return torch.stack([*parts, *(factors[name] for name in LEVELS)], dim=1)


def load_classifier(path: str | Path = SHIPPED) -> FaceClassifier:
    """The classifier of a folder that `python -m stylegan2 train-classifier` wrote; without a path, the one that comes
    with the package. It is frozen, and in evaluation mode.

    Raises:
        FileNotFoundError: the folder holds no classifier.safetensors.
        CheckpointError: the file cannot be read, or holds another network.
    """
    path = Path(path) / "classifier.safetensors"
    tensors, _ = load_tensors(path)
    classifier = FaceClassifier()
    load_module("classifier", classifier, tensors, path)
    return classifier.eval().requires_grad_(False)
