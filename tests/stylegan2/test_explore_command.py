"""python -m stylegan2 explore …"""

import pytest
import torch
import tyro
from PIL import Image
from safetensors.torch import load_file

from book.records import record
from stylegan2 import explore
from stylegan2.commands.explore import Explore
from stylegan2.data import ToyFaces
from stylegan2.images import to_float, to_uint8
from stylegan2.metrics.classifier import COLUMNS, FaceClassifier
from stylegan2.weights import load_generator

RECORD = record("toyfaces-32")


def run(*arguments):
    tyro.cli(Explore, args=[arguments[0], "--run", str(RECORD), *map(str, arguments[1:])]).execute()


def size_of(path):
    with Image.open(path) as picture:
        return picture.size


def test_mix(tmp_path, capsys):
    run("mix", "--out", tmp_path / "new" / "mix.png", "--rows", 2, "--columns", 3, "--layers", "3-5")
    assert "layers 3 to 5 of 8" in capsys.readouterr().out
    width, height = size_of(tmp_path / "new" / "mix.png")
    assert width > 4 * 96
    assert height > 3 * 96


def test_truncate(tmp_path):
    run("truncate", "--out", tmp_path / "psi.png", "--rows", 2, "--psis", -1, 0, 1)
    with Image.open(tmp_path / "psi.png") as picture:
        assert picture.size == (3 * 96, 24 + 2 * 96)
        columns = [[picture.crop((96 * j, 24 + 96 * i, 96 * (j + 1), 120 + 96 * i)).tobytes() for i in range(2)]
                   for j in range(3)]
    assert [first == second for first, second in columns] == [False, True, False]  # psi 0: one image for all


@pytest.mark.parametrize("space", ["w", "z"])
def test_interpolate(tmp_path, space):
    run("interpolate", "--out", tmp_path / "walk.gif", "--space", space, "--keyframes", 3, "--steps", 2, "--rows", 1,
        "--columns", 2, "--fps", 10)
    with Image.open(tmp_path / "walk.gif") as film:
        assert (film.n_frames, film.size, film.info["duration"], film.info["loop"]) == (6, (192, 96), 100, 0)


def test_project(tmp_path, capsys):
    pixels = ToyFaces(64).images(torch.tensor([5]))[0].permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(tmp_path / "face.png")
    run("project", "--out", tmp_path / "found.png", "--steps", 25, "--images", tmp_path / "face.png")
    assert "distance" in capsys.readouterr().out
    assert size_of(tmp_path / "found.png") == (3 * 96, 24 + 96)
    latents = load_file(tmp_path / "found.safetensors")
    assert {name: tuple(w.shape) for name, w in latents.items()} == {"w": (8, 1, 128), "w_per_layer": (8, 1, 128)}
    # What was written is what the latents give, and resembles the face.
    image = explore.synthesize(load_generator(RECORD), latents["w_per_layer"])
    with Image.open(tmp_path / "found.png") as picture:
        shown = torch.tensor(picture.getpixel((2 * 96 + 48, 24 + 48)))
    assert (to_uint8(image)[0, :, 16, 16] - shown).abs().max() <= 1
    target = to_float(ToyFaces(32).images(torch.tensor([5])))
    assert explore.pyramid_distance(image, target) < 0.2


def test_project_wants_images(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match=r"text\.png cannot be read as an image"):
        run("project", "--images", tmp_path / "text.png")
    with pytest.raises(FileNotFoundError, match="nothing"):
        run("project", "--images", tmp_path / "nothing.png")


@pytest.mark.parametrize("method", ["sefa", "pca"])
def test_directions(tmp_path, capsys, method):
    run("directions", "--out", tmp_path / "moves.png", "--method", method, "--count", 2, "--samples", 300,
        "--amounts", -2, 0, 2)
    lines = capsys.readouterr().out.splitlines()
    scores = [float(line.split("score ")[1].split(",")[0]) for line in lines[:2]]
    assert scores[0] > scores[1] > 0
    with Image.open(tmp_path / "moves.png") as picture:
        left = picture.width - 3 * 96
        middle = [picture.crop((left + 96, top, left + 192, top + 96)).tobytes() for top in (24, 120)]
        ends = [picture.crop((left, top, left + 96, top + 96)).tobytes() for top in (24, 120)]
    assert middle[0] == middle[1]  # both rows start from the same image
    assert len({*middle, *ends}) == 3


def test_directions_of_factors(tmp_path, capsys, monkeypatch):
    """With a classifier that was never trained: its answers are functions of the image all the same."""
    torch.manual_seed(0)
    monkeypatch.setattr("stylegan2.commands.explore.load_classifier", lambda: FaceClassifier().eval())
    run("directions", "--out", tmp_path / "moves.png", "--method", "regress", "--samples", 400, "--count", 2,
        "--amounts", -1, 1)
    lines = [line.split(": score ") for line in capsys.readouterr().out.splitlines()[:2]]
    assert all(name in COLUMNS for name, _ in lines)
    assert 1 >= float(lines[0][1].split(",")[0]) >= float(lines[1][1].split(",")[0])
    assert size_of(tmp_path / "moves.png")[1] == 24 + 2 * 96


def test_layers_of_another_generator(tmp_path):
    with pytest.raises(ValueError, match="8 layers, counted from 0, and that means 7 to 9"):
        run("mix", "--out", tmp_path / "mix.png", "--layers", "7-9")
