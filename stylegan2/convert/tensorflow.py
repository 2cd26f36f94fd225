"""The TensorFlow pickles of StyleGAN2 and StyleGAN2-ADA.

A file is a tuple of networks G, D and Gs, the averaged G. Each is stored with its code, which stays
unread, the options that it was made with, its variables as NumPy arrays, and its parts (mapping and
synthesis) in the same form. Kernels are [k, k, in, out], dense layers [in, out].
"""

import re
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stylegan2.convert.names import misfit
from stylegan2.convert.unpickle import PickleError, Unfinished

Tensors = dict[str, Tensor]
LINEAR = {"weight": "weight", "bias": "bias"}
STYLE = {**LINEAR, "mod_weight": "affine.weight", "mod_bias": "affine.bias"}
STYLED = {**STYLE, "noise_strength": "noise_strength"}


class TensorFlowNetwork(Unfinished):
    """A network as the pickle stores it: its state, without its code."""

    def __init__(self, *_: Any):
        self.state: dict[str, Any] = {}

    def finish(self, state: Any) -> None:
        if not isinstance(state, dict) or not isinstance(state.get("variables"), list):
            raise PickleError("a TensorFlow network without a list of variables")
        self.state = state

    def arrays(self, prefix: str = "", depth: int = 0) -> dict[str, np.ndarray]:
        """All variables by name, those of its parts with the part's name in front.

        Raises:
            PickleError: something among them is no array.
        """
        found: dict[str, np.ndarray] = {}
        for pair in self.state["variables"]:
            name, value = pair
            value = getattr(value, "value", value)
            if not isinstance(name, str) or not isinstance(value, (np.ndarray, np.generic)):
                raise PickleError(f"{prefix}{name} is a {type(value).__name__}, not an array")
            found[prefix + name] = np.asarray(value)
        parts = self.state.get("components") or {}
        for name, part in parts.items():
            if not isinstance(part, TensorFlowNetwork) or depth:
                raise PickleError(f"{prefix}{name} is no part of a published network")
            found |= part.arrays(f"{name}/", depth + 1)
        return found


def from_tensorflow(networks: tuple[TensorFlowNetwork, ...]) -> tuple[Tensors, Tensors, Tensors]:
    """The tensors of Gs, G and D under their published names in PyTorch.

    Raises:
        ValueError: a network is not of StyleGAN2's config-e or -f, or of ADA; the message says what it
            is.
    """
    G, D, Gs = networks
    return generator(Gs.arrays()), generator(G.arrays()), discriminator(D.arrays())


def generator(arrays: dict[str, np.ndarray]) -> Tensors:
    refuse_other_generators(arrays)
    names = {"dlatent_avg": "mapping.w_avg", "synthesis/4x4/Const/const": "synthesis.b4.const",
             "synthesis/noise0": "synthesis.b4.conv1.noise_const",
             **parts("mapping/LabelEmbed", "mapping.embed", LINEAR, arrays),
             **parts("synthesis/4x4/Conv", "synthesis.b4.conv1", STYLED),
             **parts("synthesis/4x4/ToRGB", "synthesis.b4.torgb", STYLE)}
    for i in range(count(arrays, r"mapping/Dense\d+/weight")):
        names |= parts(f"mapping/Dense{i}", f"mapping.fc{i}", LINEAR)
    for i in range(count(arrays, r"synthesis/\d+x\d+/Conv0_up/weight")):
        theirs, block = f"synthesis/{8 << i}x{8 << i}", f"synthesis.b{8 << i}"
        names |= parts(f"{theirs}/Conv0_up", f"{block}.conv0", STYLED)
        names |= parts(f"{theirs}/Conv1", f"{block}.conv1", STYLED)
        names |= parts(f"{theirs}/ToRGB", f"{block}.torgb", STYLE)
        names |= {f"synthesis/noise{2 * i + 1 + k}": f"{block}.conv{k}.noise_const" for k in (0, 1)}
    return renamed(arrays, names, "G.")


def discriminator(arrays: dict[str, np.ndarray]) -> Tensors:
    blocks = count(arrays, r"\d+x\d+/Conv0/weight")
    if blocks != count(arrays, r"\d+x\d+/Skip/weight"):
        raise ValueError("its discriminator is not residual: config-d or earlier, which is not read")
    side = 4 << blocks
    names = {**parts(f"{side}x{side}/FromRGB", f"b{side}.fromrgb", LINEAR),
             **parts("4x4/Conv", "b4.conv", LINEAR), **parts("4x4/Dense0", "b4.fc", LINEAR),
             **parts("Output", "b4.out", LINEAR),
             **parts("mapping/LabelEmbed", "mapping.embed", LINEAR, arrays)}
    for i in range(count(arrays, r"mapping/Dense\d+/weight")):
        names |= parts(f"mapping/Dense{i}", f"mapping.fc{i}", LINEAR)
    for i in range(blocks):
        theirs, block = f"{8 << i}x{8 << i}", f"b{8 << i}"
        names |= parts(f"{theirs}/Conv0", f"{block}.conv0", LINEAR)
        names |= parts(f"{theirs}/Conv1_down", f"{block}.conv1", LINEAR)
        names[f"{theirs}/Skip/weight"] = f"{block}.skip.weight"
    return renamed(arrays, names, "D.")


def refuse_other_generators(arrays: dict[str, np.ndarray]) -> None:
    """
    Raises:
        ValueError: as `from_tensorflow` says.
    """
    names = "\n".join(arrays)
    if "StyleMod" in names or "ToRGB_lod" in names:
        what = "a StyleGAN (config-a or -b), whose networks are others"
    elif re.search(r"^synthesis/\d+x\d+/Skip/", names, re.M):
        what = "a StyleGAN2 with a residual generator"
    elif count(arrays, r"synthesis/\d+x\d+/ToRGB/weight") == 1 and "8x8/Conv0_up" in names:
        what = "a StyleGAN2 of config-c or -d, with a plain generator"
    elif "mapping/LabelConcat/weight" in arrays:
        what = "a conditional StyleGAN2 from before ADA, whose labels enter otherwise"
    else:
        return
    raise ValueError(f"it is {what}: config-e and -f and the networks of ADA are read")


def count(arrays: dict[str, np.ndarray], pattern: str) -> int:
    return sum(bool(re.fullmatch(pattern, name)) for name in arrays)


def parts(theirs: str, ours: str, of: dict[str, str],
          only: dict[str, np.ndarray] | None = None) -> dict[str, str]:
    """Names of a layer; nothing, if it is none of `only`."""
    if only is not None and f"{theirs}/weight" not in only:
        return {}
    return {f"{theirs}/{name}": f"{ours}.{to}" for name, to in of.items()}


def renamed(arrays: dict[str, np.ndarray], names: dict[str, str], prefix: str) -> Tensors:
    """Every array as a tensor of PyTorch's layout, under its published name there."""
    known = {name for name in arrays if name.split("/")[-1] in ("lod", "dlatent_avg", "p", "pl_mean")
             and name not in names}  # of the training
    if why := misfit(names.keys(), arrays.keys() - known):
        raise ValueError(f"{why}: it is no StyleGAN2 of config-e or -f, nor of ADA")
    return {prefix + to: converted(name, arrays[name]) for name, to in names.items()}


def converted(name: str, array: np.ndarray) -> Tensor:
    tensor = torch.from_numpy(np.array(array, dtype=np.float32))
    last = name.split("/")[-1]
    if last in ("weight", "mod_weight") and tensor.ndim == 2:
        return tensor.T.contiguous()
    if last == "weight" and tensor.ndim == 4:
        tensor = tensor.permute(3, 2, 0, 1)
        return (tensor.flip(2, 3) if "/Conv0_up/" in name else tensor).contiguous()
    if last == "mod_bias":
        return tensor + 1
    if re.fullmatch(r"noise\d+", last):
        return tensor.reshape(tensor.shape[-2:])
    return tensor[0] if last == "const" and tensor.ndim == 4 else tensor
