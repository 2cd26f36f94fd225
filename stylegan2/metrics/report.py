"""All the metrics of a trained generator, against the set that it was trained on."""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stylegan2.data import ImageSource
from stylegan2.explore import draw_z, per_layer, synthesize
from stylegan2.images import to_float
from stylegan2.metrics.classifier import COLUMNS, N_VALUES, FaceClassifier
from stylegan2.metrics.distances import Moments, frechet_distance, kernel_distance, precision_recall
from stylegan2.metrics.features import FeatureExtractor, extract
from stylegan2.metrics.path_length import feature_distance, path_lengths, trimmed_mean
from stylegan2.metrics.separability import separability
from stylegan2.precision import exact_float32
from stylegan2.weights import TrainedGenerator

Metric = Literal["frechet", "kernel", "precision-recall", "path-length", "separability"]
METRICS: tuple[Metric, ...] = get_args(Metric)
BATCH = 100  # images at a time


class Row(NamedTuple):
    """One number of a report, with its own error where it has one, and what real images have against real images."""

    name: str
    value: float
    error: float | None = None
    floor: float | None = None


def usable_count(images: int, source: ImageSource) -> int:
    """How many images a side are compared: at most half the set, since its other half says what the floor is.

    Raises:
        ValueError: that leaves fewer than 8.
    """
    count = min(images, len(source) // 2)
    if count < 8:
        raise ValueError(f"{images} images were asked for, of a set of {len(source)}: at least 8 are needed on each "
                         "side, from a set of at least 16")
    return count


@exact_float32()
def measure(trained: TrainedGenerator, source: ImageSource, extractor: FeatureExtractor, classifier: FaceClassifier,
            metrics: Sequence[Metric] = METRICS, images: int = 10_000, pairs: int = 1000, psi: float = 1.0,
            seed: int = 0) -> list[Row]:
    """Measure what is named in `metrics`; the same numbers at each call.

    Args:
        extractor: of the features for all but separability.
        classifier: of the attributes for separability.
        images: on each side of a distance, and for separability; see `usable_count`.
        pairs: of latents for a path length.
        psi: truncation of the images that are compared with real ones; the other metrics are of the network as it is.

    Raises:
        ValueError: too few images, or images from which no finite features come.
    """
    device, count = trained.mapping.mean_w.device, usable_count(images, source)
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed))[:2 * count]
    labels = source.labels(order[:count]) if trained.mapping.n_classes else None  # classes as often as the set has them
    draw, rows = Draw(trained, draw_z(trained, count, seed), labels), []
    if {"frechet", "kernel", "precision-recall"} & set(metrics):
        real, other = (extract(extractor, real_batches(source, half, trained.settings.x_flip, device))
                       for half in order.split(count))
        rows += distances(real, other, extract(extractor, draw.images(psi)), metrics, seed)
    if "path-length" in metrics:
        rows += path_length_rows(trained, extractor, labels, pairs, seed)
    if "separability" in metrics:
        scores = attribute_scores(extract(classifier.table, draw.images()))
        w = torch.cat([draw.w(i).cpu() for i in range(0, count, BATCH)])
        for space, latents in (("z", draw.z.cpu()), ("w", w)):
            found = separability(latents, scores)
            rows += [Row(f"separability in {space}", found.score),
                     Row(f"bits per attribute in {space}", found.bits.mean().item())]
    return rows


class Draw:
    """Generated images in batches, made when they are asked for.

    Args:
        z, labels: of all the images; labels where the network was trained with classes.
    """

    def __init__(self, trained: TrainedGenerator, z: Float[Tensor, "n d"], labels: Int[Tensor, "n"] | None):
        self.trained, self.z, self.labels = trained, z, labels

    @torch.no_grad()
    def w(self, first: int) -> Float[Tensor, "batch d"]:
        """Of the batch from image `first` on."""
        labels = None if self.labels is None else self.labels[first:first + BATCH].to(self.z.device)
        return self.trained.mapping(self.z[first:first + BATCH], labels)

    def images(self, psi: float = 1.0) -> Iterator[Float[Tensor, "batch channels side side"]]:
        for first in range(0, len(self.z), BATCH):
            w = self.trained.mapping.truncate(self.w(first), psi)
            yield synthesize(self.trained, per_layer(self.trained, w))


def real_batches(source: ImageSource, index: Int[Tensor, "n"], x_flip: bool,
                 device: torch.device) -> Iterator[Float[Tensor, "batch channels side side"]]:
    """The images of a set as the discriminator saw them: every second one mirrored, where the run mirrored them."""
    for part in index.split(BATCH):
        images = to_float(source.images(part)).to(device)
        if x_flip:
            images[::2] = images[::2].flip(-1)
        yield images


def distances(real: Float[Tensor, "n d"], other: Float[Tensor, "n d"], generated: Float[Tensor, "n d"],
              metrics: Sequence[Metric], seed: int) -> list[Row]:
    """Generated against real, with other real images against real as the floor."""
    rows = []
    if "frechet" in metrics:
        moments = Moments.of(real)
        rows.append(Row("Fréchet distance", frechet_distance(moments, Moments.of(generated)),
                        floor=frechet_distance(moments, Moments.of(other))))
    if "kernel" in metrics:
        rows.append(Row("kernel distance", *kernel_distance(real, generated, seed=seed),
                        floor=kernel_distance(real, other, seed=seed).mean))
    if "precision-recall" in metrics:
        found, best = precision_recall(real, generated), precision_recall(real, other)
        rows += [Row("precision", found.precision, floor=best.precision),
                 Row("recall", found.recall, floor=best.recall)]
    return rows


def path_length_rows(trained: TrainedGenerator, extractor: FeatureExtractor, labels: Int[Tensor, "n"] | None,
                     pairs: int, seed: int) -> list[Row]:
    """In z and in w, on the whole path and at its ends; the same pairs for all four."""
    z = draw_z(trained, 2 * pairs, seed + 1).unflatten(0, (2, pairs))
    t = torch.rand(pairs, generator=torch.Generator().manual_seed(seed)).to(z.device)
    classes = None if labels is None else labels[torch.arange(pairs) % len(labels)].to(z.device)

    def lengths(space: Literal["z", "w"], t: Float[Tensor, "pairs"], part: slice) -> Float[Tensor, "batch"]:
        return path_lengths(
            lambda z: trained.mapping(z, None if classes is None else classes[part]),
            lambda w: synthesize(trained, per_layer(trained, w)), feature_distance(extractor), z[:, part], t[part],
            space)

    rows, parts = [], [slice(first, first + BATCH) for first in range(0, pairs, BATCH)]
    for space in get_args(Literal["z", "w"]):
        for place, at in (("full path", t), ("end points", torch.zeros_like(t))):
            found = torch.cat([lengths(space, at, part) for part in parts])
            rows.append(Row(f"path length in {space}, {place}", *trimmed_mean(found.cpu())))
    return rows


def attribute_scores(table: Float[Tensor, "n columns"]) -> Float[Tensor, "n attributes"]:
    """Above 0 where an image has the attribute: a value above its mean over all possible faces, or a level that is more
    likely than not.
    """
    return torch.cat([table[:, :N_VALUES], table[:, N_VALUES:len(COLUMNS)] - 0.5], dim=1)
