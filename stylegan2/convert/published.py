"""Our networks from the tensors of published ones, and back."""

import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from stylegan2.convert.names import discriminator_names, listed, mapping_names, misfit, synthesis_names
from stylegan2.discriminator import Discriminator
from stylegan2.generator import Generator, features_of_blocks
from stylegan2.mapping import MappingNetwork

Tensors = dict[str, Tensor]
Module = TypeVar("Module", bound=nn.Module)
TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0])
FILTER = torch.outer(TAPS, TAPS) / 64


def from_published(tensors: Mapping[str, Tensor | np.ndarray],
                   ) -> tuple[MappingNetwork | None, Generator | None, Discriminator | None]:
    """Networks with the weights of a published StyleGAN2(-ADA) checkpoint, which then compute the same numbers.

    Every size (resolution, channels, layers, classes) is read off the shapes. What shapes cannot tell is as the papers
    have it: the mapping network's learning-rate multiplier 0.01, and groups of 4 in the minibatch standard deviation
    (`discriminator.std_dev.group_size`). The published training in half precision also clips activations at ±256; ours
    does not, which matters only where an activation gets there.

    Args:
        tensors: under their published names. `G.` before those of the generator (`G.mapping.fc0.weight`,
            `G.synthesis.b4.const`, …) and `D.` before those of the discriminator may be left out, except that
            `mapping.…` without a prefix belongs to the generator.

    Returns:
        mapping network, generator, discriminator, in float32; None for what the tensors have nothing of.

    Raises:
        ValueError: tensors are missing, left over, or of the wrong shape; or the channels do not follow
            min(max_features, n_features · 2^k); or a filter is not [1, 3, 3, 1]. The message names them.
    """
    mapping, synthesis, discriminator = split(tensors)
    if not (mapping or synthesis or discriminator):
        raise ValueError("there are no tensors")
    has_generator = bool(mapping or synthesis)
    return (build_mapping(mapping) if has_generator else None, build_generator(synthesis) if has_generator else None,
            build_discriminator(discriminator) if discriminator else None)


def split(tensors: Mapping[str, Tensor | np.ndarray]) -> tuple[Tensors, Tensors, Tensors]:
    """The mapping network's, the synthesis network's and the discriminator's, without their prefixes."""
    parts: dict[str, Tensors] = {"G.mapping.": {}, "G.synthesis.": {}, "D.": {}}
    unknown = []
    for name, tensor in tensors.items():
        full = re.sub(r"^(?=mapping\.|synthesis\.)", "G.", re.sub(r"^(?=b\d+\.)", "D.", name))
        prefix = next((prefix for prefix in parts if full.startswith(prefix)), None)
        if prefix is None:
            unknown.append(name)
        elif full.endswith(".resample_filter"):
            check_filter(name, torch.as_tensor(tensor))
        else:
            parts[prefix][full[len(prefix):]] = torch.as_tensor(tensor)
    if unknown:
        raise ValueError(f"{listed(unknown)}: these names begin with none of G.mapping., G.synthesis. and D.")
    mapping, synthesis, discriminator = parts.values()
    return mapping, synthesis, discriminator


def build_mapping(tensors: Tensors) -> MappingNetwork:
    w_dim, _ = shape(tensors, "fc0.weight", 2)
    n_layers, n_classes = layers_and_classes(tensors)
    mapping = MappingNetwork(w_dim, n_layers, n_classes=n_classes)
    return place(mapping, tensors, mapping_names(n_layers, n_classes > 0), "G.mapping.")


def build_generator(tensors: Tensors) -> Generator:
    log_resolution = log_resolution_of(tensors, "G.synthesis.")
    channels = [shape(tensors, f"b{4 << i}.conv1.weight", 4)[0] for i in range(log_resolution - 1)]
    n_features, max_features = channel_rule(channels, "G.synthesis.")
    _, w_dim = shape(tensors, "b4.conv1.affine.weight", 2)
    n_channels = shape(tensors, "b4.torgb.weight", 4)[0]
    generator = Generator(log_resolution, w_dim, n_features, max_features, n_channels=n_channels)
    return place(generator, tensors, synthesis_names(log_resolution), "G.synthesis.")


def build_discriminator(tensors: Tensors) -> Discriminator:
    log_resolution = log_resolution_of(tensors, "D.")
    conv0 = [shape(tensors, f"b{8 << i}.conv0.weight", 4)[0] for i in range(log_resolution - 2)]
    channels = [shape(tensors, "b4.conv.weight", 4)[0], *conv0]
    n_features, max_features = channel_rule(channels, "D.")
    label_layers, n_classes = layers_and_classes(tensors, "mapping.")
    n_channels = shape(tensors, f"b{1 << log_resolution}.fromrgb.weight", 4)[1]
    discriminator = Discriminator(log_resolution, n_features, max_features, n_classes=n_classes,
                                  label_layers=label_layers, n_channels=n_channels)
    names = discriminator_names(log_resolution, label_layers if n_classes else None)
    return place(discriminator, tensors, names, "D.")


def layers_and_classes(tensors: Tensors, prefix: str = "") -> tuple[int, int]:
    """How many layers a mapping network has, and how many classes, if any."""
    n_layers = sum(bool(re.fullmatch(rf"{prefix}fc\d+\.weight", name)) for name in tensors)
    embedding = f"{prefix}embed.weight"
    return n_layers, shape(tensors, embedding, 2)[1] if embedding in tensors else 0


def place(module: Module, tensors: Tensors, names: Mapping[str, str], prefix: str) -> Module:
    """Copy the tensors into the module, each to the place that its published name has there."""
    hint = ("Read are the skip generator and the residual discriminator of StyleGAN2; "
            "published networks of another architecture are not")
    if why := misfit(names.keys(), tensors.keys(), prefix):
        raise ValueError(f"{why}. {hint}")
    state = module.state_dict()
    for name, ours in names.items():
        tensor = tensors[name][None, None] if name.endswith("noise_const") else tensors[name]
        tensor = tensor[None] if name == "b4.const" else tensor
        if tensor.shape != state[ours].shape:
            raise ValueError(f"{prefix}{name} is {list(tensor.shape)}, where a network of these sizes has "
                             f"{list(state[ours].shape)}. {hint}")
        state[ours] = tensor
    module.load_state_dict(state)
    return module


def to_published(mapping: MappingNetwork | None = None, generator: Generator | None = None,
                 discriminator: Discriminator | None = None) -> Tensors:
    """The inverse of `from_published`: our tensors under the published names, without the filters."""
    tensors: Tensors = {}
    if mapping is not None:
        tensors |= renamed(mapping, mapping_names(len(mapping.layers), mapping.n_classes > 0), "G.mapping.")
    if generator is not None:
        tensors |= renamed(generator, synthesis_names(generator.n_blocks + 1), "G.synthesis.")
    if discriminator is not None:
        embedding = discriminator.embedding
        label_layers = None if embedding is None else len(list(embedding[1].children()))
        tensors |= renamed(discriminator, discriminator_names(discriminator.n_blocks + 1, label_layers), "D.")
    return tensors


def renamed(module: nn.Module, names: Mapping[str, str], prefix: str) -> Tensors:
    state = module.state_dict()
    tensors = {prefix + name: state[ours] for name, ours in names.items()}
    return {name: tensor.squeeze((0, 1)) if name.endswith("noise_const") else
            tensor[0] if name.endswith("b4.const") else tensor for name, tensor in tensors.items()}


def check_filter(name: str, tensor: Tensor, gain: int = 1) -> None:
    if tensor.shape != (4, 4) or not torch.allclose(tensor.float(), gain * FILTER):
        raise ValueError(f"{name} is not the filter outer([1, 3, 3, 1])/64, the only one that these networks have")


def log_resolution_of(tensors: Tensors, prefix: str) -> int:
    """log₂ of the largest r among the names b{r}.…"""
    sides = [int(found[1]) for name in tensors if (found := re.match(r"b(\d+)\.", name))]
    side = max(sides, default=0)
    if side < 4 or side & (side - 1):
        raise ValueError(f"{prefix}b{side}: blocks are named by their resolution, a power of two from 4 on; "
                         f"the tensors under {prefix} are {listed(list(tensors)) or 'none'}")
    return side.bit_length() - 1


def channel_rule(channels: Sequence[int], prefix: str) -> tuple[int, int]:
    """n_features and max_features for channels at 4², 8², …"""
    n_features, max_features = channels[-1], max(channels)
    expected = features_of_blocks(len(channels) + 1, n_features, max_features)
    if list(channels) != expected:
        raise ValueError(f"the blocks under {prefix} have {list(channels)} channels at 4², 8², …: that is not "
                         f"min(max_features, n_features · 2^k), which would be {expected}")
    return n_features, max_features


def shape(tensors: Tensors, name: str, dimensions: int) -> torch.Size:
    """The shape of a tensor that a size is read off."""
    if name not in tensors:
        raise ValueError(f"missing: {name}; there are {listed(list(tensors)) or 'no tensors'}")
    if tensors[name].ndim != dimensions:
        raise ValueError(f"{name} has shape {list(tensors[name].shape)}: it should have {dimensions} dimensions")
    return tensors[name].shape
