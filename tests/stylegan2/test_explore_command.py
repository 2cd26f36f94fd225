"""python -m stylegan2 explore …"""

import pytest
import torch
import tyro
from PIL import Image
from safetensors.torch import load_file

from book.records import record
from stylegan2 import explore
from stylegan2.cli import main
from stylegan2.commands.explore import Explore
from stylegan2.data import ToyFaces
from stylegan2.files import load_tensors
from stylegan2.images import to_float, to_uint8
from stylegan2.metrics.classifier import COLUMNS, FaceClassifier
from stylegan2.weights import load

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
    image = explore.synthesize(load(RECORD), latents["w_per_layer"])
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


def test_project_takes_the_images_of_a_folder(tmp_path, capsys):
    faces = ToyFaces(32).images(torch.arange(2)).permute(0, 2, 3, 1).numpy()
    (tmp_path / "faces" / "more").mkdir(parents=True)
    for name, pixels in zip(("b.png", "more/a.png"), faces, strict=True):
        Image.fromarray(pixels).save(tmp_path / "faces" / name)
    (tmp_path / "faces" / "notes.txt").touch()
    run("project", "--out", tmp_path / "found.png", "--steps", 2, "--images", tmp_path / "faces")
    assert size_of(tmp_path / "found.png") == (3 * 96, 24 + 2 * 96)
    tensors, state = load_tensors(tmp_path / "found.safetensors")
    assert tensors["w"].shape[1] == 2
    assert state["axes"] == ["layers", "batch", "d_latent"]
    assert [name.rsplit("/", 1)[1] for name in state["images"]] == ["b.png", "a.png"]
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="no image file in the folder"):
        run("project", "--out", tmp_path / "other.png", "--images", tmp_path / "none")
    assert not list(tmp_path.glob("other*"))


def test_an_output_that_cannot_be_written_is_known_before_the_work(tmp_path, monkeypatch):
    def working(*_, **__):
        raise AssertionError("the work has begun")

    for name in ("mixing_grid", "truncation_sweep", "film", "project", "sefa"):
        monkeypatch.setattr(f"stylegan2.explore.{name}", working)
    photograph = tmp_path / "photograph.png"
    Image.new("RGB", (8, 8)).save(photograph)
    before = photograph.read_bytes()
    for what, *more in (["mix"], ["truncate"], ["directions"], ["project", "--images", photograph]):
        with pytest.raises(FileExistsError, match="was not written by this program"):
            run(what, "--out", photograph, *more)
    (tmp_path / "found.safetensors").write_bytes(b"of somebody else")
    with pytest.raises(FileExistsError, match=r"found\.safetensors"):
        run("project", "--out", tmp_path / "found.png", "--images", photograph)
    for what, *more in (["mix"], ["interpolate"]):
        with pytest.raises(OSError, match="cannot write"):
            run(what, "--out", photograph / ("a.png" if what == "mix" else "a.gif"), *more)
    assert photograph.read_bytes() == before


@pytest.mark.parametrize(("arguments", "message"), [
    (["mix", "--rows", 900, "--columns", 900], "million pixels in one picture"),
    (["truncate", "--rows", 1000, "--psis", *[1] * 100], "million pixels in one picture"),
    (["interpolate", "--out", "a.gif", "--steps", 1000, "--keyframes", 500], "and 1,000,000 are the most")])
def test_more_than_fits_is_refused_before_the_work(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        tyro.cli(Explore, args=[arguments[0], "--run", str(RECORD.absolute()), *map(str, arguments[1:])]).execute()
    assert not list(tmp_path.iterdir())


def test_classes_are_named(tmp_path, capsys):
    """In a run with classes one must be chosen, and the message says which there are."""
    main(["train", "--run", str(tmp_path / "run"), "--resolution", "8", "--batch-size", "4", "--n-features", "4",
          "--max-features", "8", "--d-latent", "8", "--labels", "--images", "8"])
    for what in ("mix", "truncate", "interpolate", "directions"):
        suffix = "gif" if what == "interpolate" else "png"
        with pytest.raises(SystemExit):
            main(["explore", what, "--run", str(tmp_path / "run"), "--out", str(tmp_path / f"a.{suffix}")])
        assert "give --label N: 0 (bald), 1 (short), 2 (long), 3 (curls), 4 (bun)" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["sample", "--run", str(tmp_path / "run"), "--label", "5", "--out", str(tmp_path / "a.png")])
    assert "there is no class 5: give --label N: 0 (bald)" in capsys.readouterr().err
    main(["explore", "mix", "--run", str(tmp_path / "run"), "--label", "4", "--out", str(tmp_path / "a.png")])
    with pytest.raises(SystemExit):
        main(["sample", "--run", str(RECORD), "--label", "0", "--out", str(tmp_path / "b.png")])
    assert "was trained without classes" in capsys.readouterr().err
