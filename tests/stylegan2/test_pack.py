"""python -m stylegan2 pack: zips that this and the published trainers read."""

import io
import json
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from stylegan2.cli import main
from stylegan2.data import open_source


def packed(source, *flags):
    main(["pack", str(source), "--to", str(source.parent / "set.zip"), "--resolution", "8", *flags])
    with zipfile.ZipFile(source.parent / "set.zip") as archive:
        content = {entry.filename: archive.read(entry) for entry in archive.infolist()}
        stored = {entry.compress_type for entry in archive.infolist()}
    assert stored == {zipfile.ZIP_STORED}
    listed = json.loads(content.pop("dataset.json"))
    assert set(listed) == {"labels"}
    return {name: Image.open(io.BytesIO(data)) for name, data in content.items()}, listed["labels"]


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(6):
        folder = tmp_path / "photos" / ("cats" if i < 2 else "dogs")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "photos"


def test_names_labels_and_pixels(pictures):
    """As the official tool lays them out: shards of a thousand, numbered, labels by file."""
    images, labels = packed(pictures)
    assert list(images) == [f"00000/img{i:08d}.png" for i in range(6)]
    assert labels == [[name, 0 if i < 2 else 1] for i, name in enumerate(images)]
    files = sorted(pictures.rglob("*.png"))
    for file, image in zip(files, images.values(), strict=True):
        assert (np.asarray(image) == np.asarray(Image.open(file))).all()
    source = open_source(pictures.parent / "set.zip", 8)
    assert source.n_classes == 2
    assert source.labels(torch.arange(6)).tolist() == [0, 0, 1, 1, 1, 1]


def test_a_second_shard_begins_after_a_thousand(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (1002, 8, 8, 3), np.uint8)
    np.save(tmp_path / "a.npy", array)
    images, labels = packed(tmp_path / "a.npy")
    assert list(images)[999:1001] == ["00000/img00000999.png", "00001/img00001000.png"]
    assert labels is None
    assert open_source(tmp_path / "set.zip", 8).n_classes == 0  # shards are no classes


def test_without_labels(pictures):
    assert packed(pictures, "--no-labels")[1] is None


def test_what_is_packed_again_stays(pictures):
    images, labels = packed(pictures)
    (pictures.parent / "again").mkdir()
    (pictures.parent / "set.zip").rename(pictures.parent / "again.zip")
    again, labels_again = packed(pictures.parent / "again.zip")
    assert labels_again == labels
    for first, second in zip(images.values(), again.values(), strict=True):
        assert (np.asarray(first) == np.asarray(second)).all()


def test_crop_and_fit(tmp_path):
    """A picture twice as wide as high, red in its middle square, blue beside it."""
    (tmp_path / "photos").mkdir()
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[..., 2] = 255
    pixels[:, 8:24] = (255, 0, 0)
    Image.fromarray(pixels).save(tmp_path / "photos" / "a.png")
    crop = np.asarray(packed(tmp_path / "photos", "--filter", "box")[0]["00000/img00000000.png"])
    assert (crop == (255, 0, 0)).all()
    (tmp_path / "set.zip").unlink()
    flags = ("--filter", "box", "--shape", "fit", "--background", "10", "20", "30")
    fit = np.asarray(packed(tmp_path / "photos", *flags)[0]["00000/img00000000.png"])
    assert (fit[[0, 1, 6, 7]] == (10, 20, 30)).all()
    assert (fit[2:6, 2:6] == (255, 0, 0)).all()
    assert (fit[2:6, [0, 1, 6, 7]] == (0, 0, 255)).all()


def test_grey_is_packed_as_grey(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (5, 8, 8), np.uint8)
    np.save(tmp_path / "b.npy", array)
    images, _ = packed(tmp_path / "b.npy")
    assert {image.mode for image in images.values()} == {"L"}
    assert (np.stack([np.asarray(image) for image in images.values()]) == array).all()


def test_a_broken_picture_is_named_and_left_out(pictures, capsys):
    (pictures / "dogs" / "3.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    images, labels = packed(pictures)
    assert len(images) == len(labels) == 5
    said = capsys.readouterr().out
    assert "skipped" in said
    assert "3.png" in said
    assert "5 of 6 pictures, 8², RGB, 2 classes" in said


@pytest.mark.parametrize(("flags", "message"), [
    (["--resolution", "12"], "power of two"), (["--channels", "4"], "channels"), (["--to", "set.tar"], "ends in .zip")])
def test_bad_options(pictures, capsys, flags, message):
    words = {"--to": str(pictures.parent / "set.zip"), "--resolution": "8"} | dict([tuple(flags)])
    with pytest.raises(SystemExit):
        main(["pack", str(pictures), *[word for pair in words.items() for word in pair]])
    assert message in capsys.readouterr().err
    assert not list(pictures.parent.glob("*.zip"))


def test_nothing_is_overwritten_and_nothing_half_written(pictures, capsys, monkeypatch):
    target = pictures.parent / "set.zip"
    target.write_text("mine")
    with pytest.raises(SystemExit):
        packed(pictures)
    assert target.read_text() == "mine"
    target.unlink()

    def full(self, *_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    with pytest.raises(SystemExit):
        packed(pictures)
    assert "No space left on device" in capsys.readouterr().err
    assert [path.name for path in pictures.parent.iterdir()] == ["photos"]


def test_a_folder_without_pictures(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    with pytest.raises(SystemExit):
        packed(tmp_path / "photos")
    assert "no picture in" in capsys.readouterr().err
    assert not (tmp_path / "set.zip").exists()
