"""python -m stylegan2 convert"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from safetensors.torch import save_file

from stylegan2.convert import export_onnx, to_port, to_published
from stylegan2.discriminator import Discriminator
from stylegan2.files import load_module, new_folder, save_tensors, whole, with_prefix, write_text
from stylegan2.generator import Generator
from stylegan2.training.players import make_discriminator
from stylegan2.weights import Networks, generator_of, read_networks

Tensors = dict[str, torch.Tensor]


@dataclass
class Convert:
    """Read a trained network and write it in another form: convert network.pkl --to FOLDER.

    Read are the .pkl of StyleGAN2-ADA and of the StyleGAN3 repository's StyleGAN2, the .pkl of StyleGAN2 and
    StyleGAN2-ADA in TensorFlow, the .pt of rosinality's port, .safetensors and .npz under published names, and the
    folder of a run, of a record or of a converted network. Nothing in a file is executed.
    """

    source: tyro.conf.Positional[Path]
    """A checkpoint file or a folder."""
    to: Path
    """What to write, which must not be there: a folder, which is then as good as that of a run (python -m stylegan2
    sample --run FOLDER); or a file, whose ending says what: .safetensors or .npz under published names, .pt for
    rosinality's port, .onnx for the generator with inputs z and psi, and labels where there are classes."""

    def execute(self) -> None:
        if self.to.suffix in WRITERS and not self.to.is_dir():
            said = write_file(self.source, self.to)
        elif self.to.suffix in ("", *FOLDER_LIKE) or self.to.is_dir():
            said = write_folder(self.source, self.to)
        else:
            raise ValueError(f"{self.to} ends in {self.to.suffix}: a file ends in {', '.join(WRITERS)}; a folder's "
                             "name has no ending")
        print(f"wrote {self.to}: {said}")


FOLDER_LIKE = tuple(f".{digit}" for digit in range(10))  # "network-1.5" is a folder's name


def write_folder(source: Path, folder: Path) -> str:
    """In the form of a record, whose tensors are named as in a checkpoint; the settings come last, since a folder
    without them is no run.

    Raises:
        FileExistsError: the folder holds something.
    """
    networks = read_networks(source)
    with new_folder(folder) as part:
        for name, prefix in (("generator", "average."), ("discriminator", "discriminator.")):
            tensors = {key: tensor for key, tensor in networks.tensors.items() if key.startswith(prefix)}
            if tensors:
                save_tensors(part / f"{name}.safetensors", tensors, state={})
        made = {"converted_from": networks.path.name, "sha256": networks.sha256}
        write_text(part / "run.json", json.dumps(made, indent=2) + "\n")
        networks.settings.save(part / "settings.json")
    return told(networks)


def told(networks: Networks) -> str:
    """What there is, and what is to be known of it."""
    has_d = any(name.startswith("discriminator.") for name in networks.tensors)
    notes = [*(["its discriminator"] if has_d else []), *networks.notes]
    return f"a generator of {networks.settings.resolution}² images" + "".join(f"; {note}" for note in notes)


def write_file(source: Path, path: Path) -> str:
    """
    Raises:
        FileExistsError: the file is there.
        ValueError: the networks have no place in that form.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists: move it away, or give another name")
    networks = read_networks(source)
    with whole(path) as part:
        WRITERS[path.suffix](networks, part)
    return told(networks)


def published(networks: Networks) -> tuple[Tensors, Tensors, Tensors]:
    """Of the averaged generator, of the other, and of the discriminator, under published names.

    Raises:
        ValueError: they are not the skip generator and the residual discriminator of StyleGAN2.
    """
    s = networks.settings
    if (s.style, s.generator) != ("demodulation", "skip"):
        raise ValueError(f"{networks.path} has a {s.generator} generator with style {s.style}: the published formats "
                         "are for skip and demodulation. A folder and .onnx hold it")
    of_each: dict[str, Tensors] = {"average": {}, "trained": {}}
    for name in of_each:
        if with_prefix(name, networks.tensors):
            found = generator_of(networks, name)
            assert isinstance(found.generator, Generator)
            of_each[name] = to_published(found.mapping, found.generator)
    of_d: Tensors = {}
    tensors = with_prefix("discriminator", networks.tensors)
    if tensors and s.discriminator == "residual":
        discriminator = make_discriminator(s, networks.n_classes)
        assert isinstance(discriminator, Discriminator)
        load_module("", discriminator, tensors, networks.path)
        of_d = to_published(discriminator=discriminator)
    return of_each["average"], of_each["trained"], of_d


def write_published(networks: Networks, path: Path) -> None:
    average, _, discriminator = published(networks)
    save_file({name: tensor.contiguous() for name, tensor in {**average, **discriminator}.items()}, path)


def write_npz(networks: Networks, path: Path) -> None:
    average, _, discriminator = published(networks)
    with open(path, "wb") as file:
        arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in {**average, **discriminator}.items()}
        np.savez(file, **arrays)


def write_port(networks: Networks, path: Path) -> None:
    """
    Raises:
        ValueError: the networks have classes, which the port does not know.
    """
    if networks.n_classes:
        raise ValueError(f"{networks.path} has {networks.n_classes} classes, which rosinality's port does not know")
    average, trained, discriminator = published(networks)
    content: dict[str, object] = {"latent_avg": average["G.mapping.w_avg"]}
    content |= {key: to_port(part) for key, part in (
        ("g_ema", average), ("g", trained), ("d", discriminator)) if part}
    torch.save(content, path)


def write_onnx(networks: Networks, path: Path) -> None:
    export_onnx(generator_of(networks), path)


WRITERS = {".safetensors": write_published, ".npz": write_npz, ".pt": write_port, ".onnx": write_onnx}
