"""python -m stylegan2 convert"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import tyro

from stylegan2.convert import export_onnx, from_published, read_tensors, to_published
from stylegan2.discriminator import Discriminator
from stylegan2.files import new_folder, save_tensors, whole, write_text
from stylegan2.generator import Generator
from stylegan2.mapping import MappingNetwork
from stylegan2.training.config import Settings
from stylegan2.weights import load_generator


@dataclass
class Convert:
    """Read a published StyleGAN2(-ADA) checkpoint: convert network.pkl --to FOLDER. Or write the generator of a run as
    ONNX: convert --run FOLDER --onnx generator.onnx.

    The checkpoint is read without executing anything in it. Its folder is then as good as that of a run:
    python -m stylegan2 sample --run FOLDER.
    """

    file: tyro.conf.Positional[Path | None] = None
    """A .pkl with G_ema (or G) and perhaps D, or an .npz of tensors under their published names, prefixed G. and D."""
    to: Path | None = None
    """New folder for the networks: generator.safetensors, discriminator.safetensors, settings.json."""
    run: Path | None = None
    """Folder of a run, of a record, or of a converted checkpoint."""
    onnx: Path | None = None
    """New file for the generator of --run, with inputs z and psi, and labels where it was trained with classes."""

    def execute(self) -> None:
        if self.file and self.to and not (self.run or self.onnx):
            read_published(self.file, self.to)
        elif self.run and self.onnx and not (self.file or self.to):
            write_onnx(self.run, self.onnx)
        else:
            raise ValueError("give a checkpoint and a folder (convert network.pkl --to FOLDER), or a run and an ONNX "
                             "file (convert --run FOLDER --onnx generator.onnx)")


def write_onnx(run: Path, path: Path) -> None:
    """
    Raises:
        FileExistsError: the file is there.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists: move it away, or give another name")
    trained = load_generator(run)
    with whole(path) as part:
        export_onnx(trained, part)
    labels = " and labels [batch]" if trained.mapping.n_classes else ""
    print(f"wrote {path}: inputs z [batch, {trained.settings.d_latent}], psi{labels}; output images in about [-1, 1]")


def read_published(file: Path, folder: Path) -> None:
    """
    Raises:
        FileExistsError: the folder holds something.
        ValueError: the file has no generator, or one that ours cannot be (see `from_published`).
    """
    with new_folder(folder) as part:
        kept = convert_into(file, part)
    print(f"wrote {folder}: {kept}")


def convert_into(file: Path, folder: Path) -> str:
    """Convert; says what."""
    tensors = read_tensors(file)
    of_d = {name: tensor for name, tensor in tensors.items() if name.startswith("D.")}
    others = {name: tensors[name] for name in tensors.keys() - of_d.keys()}
    mapping, generator, _ = from_published(others) if others else (None, None, None)
    if mapping is None or generator is None:
        raise ValueError(f"{file} has no generator")
    discriminator, why = None, "the file has none"
    if of_d:
        try:
            _, _, discriminator = from_published(of_d)
        except ValueError as error:  # some published discriminators have another architecture than their generator
            why = str(error)
    settings = settings_of(file, mapping, generator)
    save(folder, settings, mapping, generator, discriminator)
    source = {"converted_from": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    write_text(folder / "run.json", json.dumps(source, indent=2) + "\n")
    return (f"a generator of {settings.resolution}² images; "
            f"{'and its discriminator' if discriminator else f'no discriminator ({why})'}")


def settings_of(file: Path, mapping: MappingNetwork, generator: Generator) -> Settings:
    """The sizes of the networks. What else the settings hold keeps its default: the training was not ours."""
    resolution = 2 << generator.n_blocks
    n_features = len(to_published(generator=generator)[f"G.synthesis.b{resolution}.conv1.bias"])
    return Settings(
        data=file.name, labels=mapping.n_classes > 0, resolution=resolution, n_features=n_features,
        max_features=generator.initial_constant.shape[1], d_latent=generator.d_latent,
        mapping_layers=len(mapping.layers), noise=True)


def save(folder: Path, settings: Settings, mapping: MappingNetwork, generator: Generator,
         discriminator: Discriminator | None) -> None:
    """In the form of a record, whose tensors are named as in a checkpoint; the settings come last, since a folder
    without them is no run.
    """
    networks = {"average.mapping": mapping, "average.generator": generator, "discriminator": discriminator}
    tensors = {f"{name}.{key}": tensor for name, network in networks.items() if network is not None
               for key, tensor in network.state_dict().items()}
    for name, prefix in (("generator", "average."), ("discriminator", "discriminator.")):
        part = {key: tensor for key, tensor in tensors.items() if key.startswith(prefix)}
        if part:
            save_tensors(folder / f"{name}.safetensors", part, state={})
    settings.save(folder / "settings.json")
