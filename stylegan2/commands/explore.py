"""python -m stylegan2 explore mix | truncate | interpolate | project | directions | blend"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from PIL import Image

from stylegan2 import explore
from stylegan2.commands.loading import load_here, need_label
from stylegan2.data.decode import prepare
from stylegan2.data.rows import image_files
from stylegan2.fields import Few, Psi, Range, Seed, check_fields
from stylegan2.files import new_folder, output, save_tensors, write_text
from stylegan2.images import check_grid, check_picture, save_picture, to_float
from stylegan2.metrics.classifier import COLUMNS, load_classifier
from stylegan2.training.folder import unlocated
from stylegan2.weights import TrainedGenerator, generator_of, read_networks, save

MAX_FILM = 1_000_000  # images in all frames of a film, half an hour of eight cells and more


@dataclass
class Exploration:
    """What every exploration is told, and how it goes: what is wrong with the output is known before the work."""

    run: Path = Path("runs/toyfaces-32")
    """Folder of a run or of a record."""
    out: Path = Path("explore.png")
    """Where the picture goes."""
    seed: Seed = 0
    """Of the latents."""
    label: Annotated[int, Range(0, 10**6)] | None = None
    """Class of the images, for a run that was trained with classes."""

    def __post_init__(self) -> None:
        check_fields(self)
        self.check_output()

    def check_output(self) -> None:
        check_picture(self.out)

    def execute(self) -> None:
        trained = load_here(self.run)
        need_label(trained, self.run, self.label)
        with output(self.out, "picture") as part:
            self.write(trained, part)
        print(f"wrote {self.out}")

    def write(self, trained: TrainedGenerator, path: Path) -> None:
        save_picture(self.picture(trained), path)

    def picture(self, trained: TrainedGenerator) -> Image.Image:
        raise NotImplementedError

    def draw(self, trained: TrainedGenerator, count: int, psi: float = 1.0, stream: int = 0) -> torch.Tensor:
        """w per layer; another stream, other latents of the same seed."""
        return explore.draw_w(trained, count, seed=1000 * self.seed + stream, psi=psi, label=self.label)


@dataclass
class Mix(Exploration):
    """Style mixing: each row is a source A with some styles of each column's source B."""

    layers: str = "coarse"
    """Which styles come from B: coarse, middle, fine, a layer (3), or a span (2-5)."""
    rows: Few = 4
    columns: Few = 6
    psi: Psi = 0.7
    """Truncation of the sources."""

    def picture(self, trained: TrainedGenerator) -> Image.Image:
        check_grid(self.rows + 1, self.columns + 1, explore.cell_side(trained))
        layers = explore.layer_range(trained, self.layers)
        a, b = self.draw(trained, self.rows, self.psi), self.draw(trained, self.columns, self.psi, stream=1)
        grid = explore.mixing_grid(trained, a, b, layers)
        grid = explore.with_sources(grid, explore.synthesize(trained, a), explore.synthesize(trained, b))
        print(f"layers {layers.start} to {layers.stop - 1} of {trained.generator.n_layers} come from B")
        return explore.sheet(grid, ["", *(f"A{i + 1}" for i in range(self.rows))],
                             ["", *(f"B{j + 1}" for j in range(self.columns))], sources=True)


@dataclass
class Truncate(Exploration):
    """Truncation: each row is one latent, pulled to the mean by psi."""

    psis: tuple[Psi, ...] = (-1.0, -0.5, 0.0, 0.3, 0.5, 0.7, 1.0, 1.3)
    """0 is the mean image, 1 the latent as it is, a negative one its opposite."""
    cutoff: Annotated[int, Range(0, 1000)] | None = None
    """Truncate the first so many layers only; all when not given."""
    rows: Few = 4

    def picture(self, trained: TrainedGenerator) -> Image.Image:
        check_grid(self.rows, len(self.psis), explore.cell_side(trained))
        grid = explore.truncation_sweep(trained, self.draw(trained, self.rows), self.psis, self.cutoff)
        return explore.sheet(grid, column_labels=[f"psi {psi:g}" for psi in self.psis])


@dataclass
class Interpolate(Exploration):
    """A film that loops: cells that walk through keyframes of their own and back to the first."""

    out: Path = Path("explore.webp")
    """Where the film goes: .webp, .gif, or .mp4 (needs PyAV)."""
    space: Literal["w", "z"] = "w"
    """Straight lines between the keyframes' w, or great circles between their z."""
    keyframes: Annotated[int, Range(2, 1000)] = 5
    steps: Few = 30
    """Frames from one keyframe to the next."""
    fps: Annotated[int, Range(1, 100)] = 30
    """Frames a second."""
    rows: Few = 2
    columns: Few = 4
    psi: Psi = 0.7
    """Truncation."""

    def check_output(self) -> None:
        explore.check_film(self.out, self.fps)

    def write(self, trained: TrainedGenerator, path: Path) -> None:
        cells = self.rows * self.columns
        check_grid(self.rows, self.columns, explore.cell_side(trained))
        if self.keyframes * self.steps * cells > MAX_FILM:
            raise ValueError(f"{self.keyframes} keyframes of {self.steps} steps with {cells} cells each are "
                             f"{self.keyframes * self.steps * cells:,} images, and {MAX_FILM:,} are the most")
        z = explore.draw_z(trained, self.keyframes * cells, self.seed).unflatten(0, (self.keyframes, cells))
        if self.space == "z":
            z = explore.loop(z, self.steps, explore.slerp)
        w = explore.map_z(trained, z.flatten(0, 1), self.label).unflatten(0, (-1, cells))
        if self.space == "w":
            w = explore.loop(w, self.steps)
        w = trained.mapping.truncate(w, self.psi)  # [frames, cells, d]
        frames = explore.film(trained, w, self.columns)
        explore.save_animation(frames, path, self.fps)


@dataclass
class Project(Exploration):
    """Find the latents whose images are nearest to given images: one w, and one w for each layer. The latents go into
    a .safetensors beside the picture.
    """

    images: tuple[Path, ...] = field(kw_only=True)
    """Image files, or folders of them; the middle square is taken, at the run's resolution."""
    steps: Annotated[int, Range(1, 1_000_000)] = 1000
    """Of the search."""

    def execute(self) -> None:
        with output(self.out.with_suffix(".safetensors"), "latents") as self.latents:
            super().execute()

    def picture(self, trained: TrainedGenerator) -> Image.Image:
        side, files = explore.image_side(trained), listed(self.images)
        check_grid(len(files), 3, explore.cell_side(trained))
        s = trained.settings
        targets = torch.stack([read_image(path, side, s.background, s.channels) for path in files])
        found = {}
        for name, free_layers in (("w", False), ("w_per_layer", True)):
            found[name] = explore.project(trained, targets, free_layers=free_layers, steps=self.steps,
                                          label=self.label, seed=self.seed)
        for i, path in enumerate(files):
            print(f"{path}: distance {found['w'].history[0, i]:.3f} at the start, {found['w'].distances[i]:.3f} with "
                  f"one w, {found['w_per_layer'].distances[i]:.3f} with one per layer")
        save_tensors(self.latents, {name: projection.w for name, projection in found.items()},
                     {"axes": ["layers", "batch", "d_latent"], "images": [str(path) for path in files]}, "latents")
        columns = [targets, *(projection.images.cpu() for projection in found.values())]
        return explore.sheet(torch.stack(columns, dim=1), column_labels=["image", "w", "w per layer"])


def listed(paths: Sequence[Path]) -> list[Path]:
    """The files, and in place of a folder the image files in it.

    Raises:
        ValueError: a folder holds none.
    """
    files = []
    for path in paths:
        inside = [path / name for name in sorted(image_files(path))] if path.is_dir() else [path]
        if not inside:
            raise ValueError(f"there is no image file in the folder {path}")
        files += inside
    return files


def read_image(path: Path, side: int, background: tuple[int, int, int], channels: int = 3) -> torch.Tensor:
    """[channels, side, side] in [−1, 1].

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read as an image.
    """
    try:
        pixels = prepare(Image.open(path), side, background, channels=channels)
        return to_float(torch.from_numpy(pixels.copy()).permute(2, 0, 1))
    except FileNotFoundError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on a broken file
        raise ValueError(f"{path} cannot be read as an image: {error}") from error


@dataclass
class Directions(Exploration):
    """Move one latent along directions, a row for each."""

    method: Literal["sefa", "pca", "regress"] = "sefa"
    """sefa: what changes the styles most, from their weights. pca: along which w varies most. regress: along which the
    factors of ToyFaces change, as the classifier that comes with the package reads them from the images.
    """
    layers: str = "all"
    """Which layers are moved, and read by sefa: coarse, middle, fine, all, a layer (3), or a span (2-5)."""
    count: Few = 6
    """Directions, those of the highest score first."""
    amounts: tuple[Psi, ...] = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)
    """How far, in standard deviations of w along the direction."""
    samples: Annotated[int, Range(2, 10**7)] = 4000
    """Latents that standard deviations, pca and regress are computed from."""
    psi: Psi = 0.7
    """Truncation of the latent that is moved."""

    def picture(self, trained: TrainedGenerator) -> Image.Image:
        check_grid(self.count, len(self.amounts), explore.cell_side(trained))
        layers = explore.layer_range(trained, self.layers)
        w = self.draw(trained, self.samples, stream=1)
        names, found = self.find(trained, w, layers)
        start, units = self.draw(trained, 1, self.psi), explore.along(w[0], found.vectors).tolist()
        rows = [explore.move_grid(trained, start, vector, [unit * amount for amount in self.amounts], layers)
                for vector, unit in zip(found.vectors, units, strict=True)]
        for name, score, unit in zip(names, found.scores.tolist(), units, strict=True):
            print(f"{name}: score {score:.3f}, standard deviation of w {unit:.3f}")
        return explore.sheet(torch.cat(rows), names, [f"{amount:g} std" for amount in self.amounts])

    def find(self, trained: TrainedGenerator, w: torch.Tensor, layers: range) -> tuple[list[str], explore.Directions]:
        """The directions, and a name for each."""
        if self.method == "regress":
            factors = load_classifier().to(w.device).table
            table = torch.cat([factors(explore.synthesize(trained, part)) for part in w.split(256, dim=1)])
            found = explore.regress(w[0], table)
            best = found.scores.argsort(descending=True)[:self.count]
            return [COLUMNS[i] for i in best.tolist()], explore.Directions(found.vectors[best], found.scores[best])
        found = explore.sefa(trained, layers, self.count) if self.method == "sefa" else explore.pca(w[0], self.count)
        return [str(i + 1) for i in range(self.count)], found


@dataclass
class Blend:
    """Two networks of one origin in one, by resolution: coarse things as A draws them, fine things as B does."""

    a: tyro.conf.Positional[Path]
    """A run, a record, a converted network or a checkpoint: below the resolution."""
    b: tyro.conf.Positional[Path]
    """The same, trained on from A, or both from a third: from the resolution on."""
    to: Path
    """New folder for the network, as good as that of a run: python -m stylegan2 sample --run FOLDER."""
    at: Annotated[int, Range(8, 4096)] = 16
    """The lowest resolution that is B's."""
    width: Annotated[float, Range(0, 12)] = 0.0
    """Octaves over which A turns into B; 0 is a step."""

    def __post_init__(self) -> None:
        check_fields(self)

    def execute(self) -> None:
        a, b = read_networks(self.a), read_networks(self.b)
        made = explore.blend(generator_of(a), generator_of(b), self.at, self.width)
        made.settings = replace(unlocated(made.settings), growing=False)
        names = {name: Path(networks.name).name for name, networks in (("a", a), ("b", b))}  # with their checksums
        source = {"blended": {**names, "at": self.at, "width": self.width}}
        with new_folder(self.to) as folder:
            save(made, folder)
            write_text(folder / "run.json", json.dumps(source, indent=2) + "\n")
        print(f"wrote {self.to}")


@dataclass
class Explore:
    """Look into a trained generator: pictures and films of what its latents do."""

    what: Annotated[
        Annotated[Mix, tyro.conf.subcommand("mix")] | Annotated[Truncate, tyro.conf.subcommand("truncate")]
        | Annotated[Interpolate, tyro.conf.subcommand("interpolate")]
        | Annotated[Project, tyro.conf.subcommand("project")]
        | Annotated[Directions, tyro.conf.subcommand("directions")]
        | Annotated[Blend, tyro.conf.subcommand("blend")], tyro.conf.arg(name="")]

    def execute(self) -> None:
        self.what.execute()
