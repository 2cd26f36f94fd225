"""Published names to the settings and tensors of a run."""

from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor

from stylegan2.convert.published import from_published, to_published
from stylegan2.convert.reading import Checkpoint
from stylegan2.generator import Generator
from stylegan2.mapping import MappingNetwork
from stylegan2.training.config import Settings

W_MEAN = "G.mapping.w_avg"


def as_ours(checkpoint: Checkpoint, path: Path) -> tuple[Settings, dict[str, Tensor], tuple[str, ...]]:
    """
    Args:
        path: of the file that it comes from.

    Returns:
        settings of these sizes; tensors named as in a checkpoint of a run; and what is to be known of them,
        in a sentence each.

    Raises:
        ValueError: there is no generator, or not one that ours can be (see `from_published`).
    """
    if not checkpoint.average:
        raise ValueError("there is no generator in it")
    notes = []
    average, trained = dict(checkpoint.average), dict(checkpoint.trained)
    if W_MEAN not in average and any(name.startswith("G.mapping.fc") for name in average):
        average[W_MEAN] = mean_w(average)
        notes.append("the mean w is of 10,000 random z, since the file has none")
    if trained:
        trained.setdefault(W_MEAN, average[W_MEAN])
    mapping, generator = networks_of(average)
    tensors = prefixed("average", mapping, generator)
    if trained:
        tensors |= prefixed("trained", *networks_of(trained))
    discriminator = None
    if not checkpoint.discriminator:
        notes.append("no discriminator (the file has none)")
    else:
        try:
            _, _, discriminator = from_published(checkpoint.discriminator)
        except ValueError as error:  # some published discriminators have another architecture than their generator
            notes.append(f"no discriminator ({error})")
    if discriminator is not None:
        tensors |= {f"discriminator.{name}": t for name, t in discriminator.state_dict().items()}
    return settings_of(path, mapping, generator), tensors, tuple(notes)


def networks_of(tensors: dict[str, Tensor]) -> tuple[MappingNetwork, Generator]:
    mapping, generator, _ = from_published(tensors)
    assert mapping is not None  # there are tensors of a generator
    assert generator is not None
    return mapping, generator


def prefixed(name: str, mapping: MappingNetwork, generator: Generator) -> dict[str, Tensor]:
    return {f"{name}.{part}.{key}": tensor for part, network in (("mapping", mapping), ("generator", generator))
            for key, tensor in network.state_dict().items()}


@torch.no_grad()
def mean_w(tensors: dict[str, Tensor]) -> Tensor:
    """Of 10,000 z of a fixed seed."""
    size = len(tensors["G.mapping.fc0.bias"])
    mapping, *_ = from_published({**tensors, W_MEAN: torch.zeros(size)})
    assert mapping is not None
    return mapping(torch.randn(10_000, size, generator=torch.Generator().manual_seed(0))).mean(dim=0)


def settings_of(path: Path, mapping: MappingNetwork, generator: Generator) -> Settings:
    """The sizes of the networks. What else the settings hold keeps its default: the training was not ours.

    Raises:
        ValueError: the images have neither 1 channel nor 3 nor 4.
    """
    resolution = 2 << generator.n_blocks
    n_features = len(to_published(generator=generator)[f"G.synthesis.b{resolution}.conv1.bias"])
    return Settings(
        data=path.name, labels=mapping.n_classes > 0, resolution=resolution, n_features=n_features,
        max_features=generator.initial_constant.shape[1], d_latent=generator.d_latent,
        mapping_layers=len(mapping.layers), noise=True, channels=cast(Literal[1, 3, 4], generator.n_channels))
