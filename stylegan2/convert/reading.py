"""Checkpoints of every public format, told apart by what is in them and not by their names."""

import io
import mmap
import re
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from stylegan2.convert.checkpoint import BUILDERS, LEGACY_MAGIC, VALUES, tensors_of
from stylegan2.convert.rosinality import from_port, read_pt
from stylegan2.convert.tensorflow import TensorFlowNetwork, from_tensorflow
from stylegan2.convert.unpickle import Machine, PickleError

Tensors = dict[str, Tensor]
FORMATS = ("a StyleGAN2-ADA or StyleGAN3 .pkl, a TensorFlow StyleGAN2 .pkl, rosinality's .pt, or "
           ".safetensors and .npz under published names")


class Checkpoint(NamedTuple):
    """The tensors of a checkpoint under their published names, `G.` or `D.` in front; a part is empty
    that the file does not hold."""

    average: Tensors
    """Of the averaged generator; where there is none, of the other."""
    trained: Tensors
    """Of the generator that was trained, with `G.` in front as well."""
    discriminator: Tensors


def read_checkpoint(path: str | Path) -> Checkpoint:
    """The networks of a file in one of `FORMATS`. Nothing in the file is executed.

    Raises:
        FileNotFoundError: there is no such file.
        PickleError: (a ValueError) it is cut short, of no such format, or asks for something that no
            checkpoint needs.
        ValueError: it is of such a format, and its networks are not those of StyleGAN2; or a number
            in it is not finite.
    """
    path = Path(path)
    with open(path, "rb") as file:
        start = file.read(16)
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                is_torch = any(name.endswith("data.pkl") for name in archive.namelist())
            found = Checkpoint(*from_port(read_pt(path), path)) if is_torch else parted(read_npz(file, path))
        elif start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
            found = parted(read_safetensors(path))
        elif start[:1] == b"\x80" and LEGACY_MAGIC.to_bytes(10, "little") in start:
            found = Checkpoint(*from_port(read_pt(path), path))
        else:
            found = read_pickle(file, path)
    found = found if found.average else found._replace(average=found.trained)
    for part in found:
        refuse_alias_free(part, path)
        check_finite(part, path)
    return found


def read_tensors(path: str | Path) -> Tensors:
    """The averaged generator and the discriminator of `read_checkpoint` in one dict."""
    found = read_checkpoint(path)
    return {**found.average, **found.discriminator}


def parted(tensors: Tensors) -> Checkpoint:
    """The generator's and the discriminator's tensors apart. Names without a prefix are as
    `from_published` takes them."""
    of_d = {name: t for name, t in tensors.items() if re.match(r"D\.|b\d+\.", name)}
    return Checkpoint({name: t for name, t in tensors.items() if name not in of_d}, {}, of_d)


def read_pickle(file: io.BufferedReader, path: Path) -> Checkpoint:
    """A `.pkl` of PyTorch or TensorFlow."""
    builders = {**BUILDERS, "dnnlib.tflib.network.Network": TensorFlowNetwork}
    try:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:  # a claimed size cannot exceed it
            content = Machine(mapped, builders, VALUES).run()
    except ValueError as error:  # mmap of an empty file is one too
        raise PickleError(f"{path}: {error}. Read are {FORMATS}") from error
    if isinstance(content, tuple) and len(content) == 3 and all(
            isinstance(network, TensorFlowNetwork) for network in content):
        try:
            return Checkpoint(*from_tensorflow(content))
        except ValueError as error:
            raise type(error)(f"{path}: {error}") from error
    if not (isinstance(content, dict) and content.keys() & {"G_ema", "G", "D"}):
        raise PickleError(f"{path} holds no G_ema, G or D: it is not a published StyleGAN2(-ADA) checkpoint")
    return Checkpoint(*(with_names(content.get(key), prefix)
                        for key, prefix in (("G_ema", "G."), ("G", "G."), ("D", "D."))))


def with_names(network: Any, prefix: str) -> Tensors:
    if network is None:
        return {}
    return {prefix + name: tensor for name, tensor in tensors_of(network)}


def read_npz(file: io.BufferedReader, path: Path) -> Tensors:
    """The arrays of an `.npz`; arrays of objects, which are pickles, are refused."""
    tensors = {}
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            try:
                with archive.open(name) as entry:
                    array = np.lib.format.read_array(entry, allow_pickle=False)
                tensors[re.sub(r"\.npy$", "", name)] = torch.from_numpy(array)
            except (ValueError, TypeError, EOFError, MemoryError, zipfile.BadZipFile) as error:
                raise PickleError(f"{path}: {name} is not an array of numbers ({error})") from error
    return tensors


def read_safetensors(path: Path) -> Tensors:
    try:
        tensors = load_file(path)
    except (SafetensorError, ValueError) as error:
        raise PickleError(f"{path} cannot be read: it is cut short or damaged ({error})") from error
    if any(name.startswith("average.") for name in tensors):
        raise ValueError(f"{path} is a file of this program: name its folder, which holds the settings too")
    return tensors


def refuse_alias_free(tensors: Tensors, path: Path) -> None:
    """
    Raises:
        ValueError: the generator is that of StyleGAN3.
    """
    if any(re.match(r"(G\.)?synthesis\.(input\.|L\d+_)", name) for name in tensors):
        raise ValueError(f"{path} holds an alias-free generator (StyleGAN3), which is another network: the "
                         "StyleGAN2 networks of that repository are read")


def check_finite(tensors: Tensors, path: Path) -> None:
    """
    Raises:
        ValueError: a number is NaN or infinite.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"{path}: {name} has numbers that are not finite: the training that wrote it had "
                             "broken down; take an earlier checkpoint")
