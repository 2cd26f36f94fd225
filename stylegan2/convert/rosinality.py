"""The `.pt` files of rosinality's PyTorch port of StyleGAN2, in and out.

A file is a dict of state dicts, `g_ema` and perhaps `g` and `d`, with the mean w as `latent_avg`.
Scales at run time are those of the published networks, so that a tensor has the same numbers under
either name; only some shapes differ.
"""

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stylegan2.convert.names import layer, misfit
from stylegan2.convert.published import FILTER, check_filter
from stylegan2.convert.unpickle import PickleError

Tensors = dict[str, Tensor]
LINEAR = {"weight": "weight", "bias": "bias"}
STYLE = {"conv.weight": "weight", "conv.modulation.weight": "affine.weight",
         "conv.modulation.bias": "affine.bias"}
TO_RGB = {**STYLE, "bias": "bias"}
STYLED = {**STYLE, "noise.weight": "noise_strength", "activate.bias": "bias"}
CONV = {"0.weight": "weight", "1.bias": "bias"}
HALVING = {"1.weight": "weight", "2.bias": "bias"}  # behind the filter
AXES = ((r"input\.input|.*\.conv\.weight|.*\.noise\.weight", 1, 0),
        (r"noises\..*", 2, 0), (r"to_rgb(1|s\.\d+)\.bias", 1, 2))
"""Names whose tensors have so many axes of length 1 more in front, and behind."""


def read_pt(path: Path) -> Any:
    """What `torch.save` wrote: tensors and plain containers. Nothing else is made from it.

    Raises:
        PickleError: it is cut short, or holds other things.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # the options of its training
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's own readers raise whatever they stumble over
        why = str(error).split("\n")[0][:200]
        raise PickleError(f"{path} cannot be read: it is cut short, or holds more than tensors and "
                          f"plain containers, which alone are read ({why})") from error


def from_port(content: Any, path: Path) -> tuple[Tensors, Tensors, Tensors]:
    """The tensors of the averaged generator, of the other one and of the discriminator under
    their published names; empty for what the file does not hold.

    Raises:
        PickleError: it is not of this port.
        ValueError: tensors are missing, left over or of another form.
    """
    if not (isinstance(content, dict) and any(is_generator(content.get(k)) for k in ("g", "g_ema"))):
        raise PickleError(f"{path} is {what_else(content)}, which is not read: of the .pt files "
                          "those of rosinality's port of StyleGAN2 are")
    parts = []
    for key, names in (("g_ema", generator_names), ("g", generator_names), ("d", discriminator_names)):
        state = content.get(key) or {}
        parts.append(renamed(state, names(state), f"{path}, {key}") if state else {})
    average, trained, discriminator = parts
    mean_w = content.get("latent_avg")
    for part in (average, trained):
        if part and isinstance(mean_w, Tensor):
            part["G.mapping.w_avg"] = mean_w.flatten()
    return average, trained, discriminator


def is_generator(state: Any) -> bool:
    return isinstance(state, Mapping) and "input.input" in state and "to_rgb1.bias" in state


def what_else(content: Any) -> str:
    """What a .pt file is that is not of the port, as far as one can tell."""
    keys = set(map(str, content)) if isinstance(content, Mapping) else set()
    if "GAN" in keys:
        return "a checkpoint of lucidrains' stylegan2-pytorch, whose networks are others"
    if {"generator", "g_running"} & keys:
        return "a checkpoint of StyleGAN (rosinality's style-based-gan-pytorch)"
    if keys and all(isinstance(value, Tensor) for value in content.values()):
        return f"a bare state dict of another network ({', '.join(sorted(keys)[:3])}, …)"
    return f"a file with {', '.join(sorted(keys)[:5]) or type(content).__name__}"


def renamed(state: Mapping[str, Tensor], names: dict[str, str], where: str) -> Tensors:
    """Every tensor under its published name and in its published form; the filters are checked."""
    filters = {name for name in state if name.endswith(".kernel")}
    for name in filters:
        gain = 4 if name.startswith("to_rgbs.") or name.endswith(".conv.blur.kernel") else 1
        check_filter(f"{where}: {name}", state[name], gain)
    if why := misfit(names.keys(), state.keys() - filters):
        raise ValueError(f"{where}: {why}")
    return {to: without_axes(name, state[name], where) for name, to in names.items()}


def axes(name: str) -> tuple[int, int]:
    return next(((a, b) for pattern, a, b in AXES if re.fullmatch(pattern, name)), (0, 0))


def without_axes(name: str, tensor: Tensor, where: str) -> Tensor:
    front, behind = axes(name)
    shape = list(tensor.shape)
    ones, rest = shape[:front] + shape[len(shape) - behind:], shape[front:len(shape) - behind]
    if ones != [1] * (front + behind):
        raise ValueError(f"{where}: {name} has shape {shape}, where {front} axes of length 1 come "
                         f"first and {behind} last")
    return tensor.reshape(rest)


def to_port(published: Mapping[str, Tensor]) -> Tensors:
    """The inverse for a generator or a discriminator: a state dict that the port's networks load,
    filters and all.

    Args:
        published: its tensors, under names with `G.` or `D.`; without the mean w.
    """
    blocks = sum(bool(re.fullmatch(r"(D|G\.synthesis)\.b\d+\.conv0\.weight", name)) for name in published)
    if any(name.startswith("D.") for name in published):
        names = discriminator_names_of(blocks)
        filters = {f"convs.{i + 1}.{part}.0.kernel": FILTER for i in range(blocks)
                   for part in ("conv2", "skip")}
    else:
        layers = sum(bool(re.fullmatch(r"G\.mapping\.fc\d+\.weight", name)) for name in published)
        names = generator_names_of(blocks, layers)
        filters = {name: 4 * FILTER for k in range(blocks)
                   for name in (f"convs.{2 * k}.conv.blur.kernel", f"to_rgbs.{k}.upsample.kernel")}
    return {**{name: with_axes(name, published[to]) for name, to in names.items()}, **filters}


def with_axes(name: str, tensor: Tensor) -> Tensor:
    front, behind = axes(name)
    return tensor.reshape((1,) * front + tensor.shape + (1,) * behind)


def generator_names(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Their name to the published one, for a generator of this size."""
    return generator_names_of(sum(bool(re.fullmatch(r"to_rgbs\.\d+\.bias", name)) for name in state),
                              sum(bool(re.fullmatch(r"style\.\d+\.bias", name)) for name in state))


def generator_names_of(blocks: int, layers: int) -> dict[str, str]:
    """
    Args:
        blocks: resolutions above 4².
        layers: of the mapping network.
    """
    names = {"input.input": "G.synthesis.b4.const",
             "noises.noise_0": "G.synthesis.b4.conv1.noise_const"}
    for i in range(layers):
        names |= layer(f"style.{i + 1}", f"G.mapping.fc{i}", LINEAR)
    names |= layer("conv1", "G.synthesis.b4.conv1", STYLED) | layer("to_rgb1", "G.synthesis.b4.torgb", TO_RGB)
    for k in range(blocks):
        block = f"G.synthesis.b{8 << k}"
        names |= layer(f"to_rgbs.{k}", f"{block}.torgb", TO_RGB)
        for i, conv in ((2 * k, "conv0"), (2 * k + 1, "conv1")):
            names |= layer(f"convs.{i}", f"{block}.{conv}", STYLED)
            names[f"noises.noise_{i + 1}"] = f"{block}.{conv}.noise_const"
    return names


def discriminator_names(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Their name to the published one, for a discriminator of this size."""
    return discriminator_names_of(sum(name.endswith(".skip.1.weight") for name in state))


def discriminator_names_of(blocks: int) -> dict[str, str]:
    names = layer("convs.0", f"D.b{4 << blocks}.fromrgb", CONV)
    for i in range(blocks):
        block = f"D.b{4 << blocks - i}"
        names |= layer(f"convs.{i + 1}.conv1", f"{block}.conv0", CONV)
        names |= layer(f"convs.{i + 1}.conv2", f"{block}.conv1", HALVING)
        names |= {f"convs.{i + 1}.skip.1.weight": f"{block}.skip.weight"}
    return (names | layer("final_conv", "D.b4.conv", CONV) | layer("final_linear.0", "D.b4.fc", LINEAR)
            | layer("final_linear.1", "D.b4.out", LINEAR))
