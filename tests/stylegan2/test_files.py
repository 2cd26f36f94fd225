"""Files are written whole or not at all, never over what is not ours, and read back as they were written."""

import json
import os
import stat

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from stylegan2.explore import save_animation
from stylegan2.files import (
    CheckpointError,
    is_ours,
    load_tensors,
    new_folder,
    output,
    read_json,
    save_tensors,
    whole,
    write_text,
)
from stylegan2.images import PICTURES, save_picture
from stylegan2.training.provenance import provenance

RED = Image.new("RGB", (16, 16), "red")


def test_a_file_is_there_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with whole(path) as part:
        part.write_text("half")
        assert not path.exists()
        assert part.suffix == path.suffix
    assert path.read_text() == "half"
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")

    def fill():
        with whole(path) as part:
            part.write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        fill()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["folder", "device", "below a file"])
def test_what_cannot_be_written_is_known_before_the_work(kind, tmp_path):
    (tmp_path / "file").touch()
    path = {"folder": tmp_path, "device": os.devnull, "below a file": tmp_path / "file" / "a"}[kind]
    with pytest.raises(OSError, match="cannot write"), whole(type(tmp_path)(path)):
        raise AssertionError("the work has begun")
    assert not os.path.isfile(os.devnull)


def test_files_have_the_rights_of_files(tmp_path):
    write_text(tmp_path / "a.json", "{}")
    save_tensors(tmp_path / "a.safetensors", {"a": torch.ones(2)}, {})
    (tmp_path / "plain").touch()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(modes) == 1


@pytest.mark.parametrize("suffix", PICTURES)
def test_a_picture_of_ours_gives_way_and_a_photograph_does_not(suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    for colour in ("red", "blue"):
        with output(path, "picture") as part:
            save_picture(Image.new("RGB", (16, 16), colour), part)
    RED.save(path)  # by another program
    photograph = path.read_bytes()
    with pytest.raises(FileExistsError, match="was not written by this program"), output(path, "picture"):
        raise AssertionError("the work has begun")
    assert path.read_bytes() == photograph


@pytest.mark.parametrize("kind", ["picture", "report", "latents"])
def test_weights_and_notes_never_give_way(kind, tmp_path):
    """A checkpoint is ours too, and a user's notes may speak of this program."""
    save_tensors(tmp_path / "generator.safetensors", {"a": torch.ones(2)}, {})
    write_text(tmp_path / "run.json", json.dumps(provenance(torch.device("cpu"))))
    write_text(tmp_path / "notes.txt", "On annotated-stylegan2-gradnorm, the book")
    for path in list(tmp_path.iterdir()):
        with pytest.raises(FileExistsError, match=f"was not written by this program as a {kind}"), output(path, kind):
            raise AssertionError("the work has begun")


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".mp4"])
def test_a_film_of_ours_is_known(suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    save_animation([RED, Image.new("RGB", (16, 16), "blue")], path, fps=10)
    assert is_ours(path, "picture")
    assert not is_ours(path, "report")


def test_a_film_that_fails_leaves_nothing(tmp_path):
    def frames():
        yield RED
        raise OSError(28, "No space left on device")

    for suffix in (".gif", ".webp", ".mp4"):
        with pytest.raises(OSError, match="No space"):
            save_animation(frames(), tmp_path / f"a{suffix}", fps=10)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("empty", [True, False])
def test_a_folder_is_there_when_it_is_whole(empty, tmp_path):
    path = tmp_path / "record"
    if empty:
        path.mkdir()
    with new_folder(path) as part:
        (part / "a").write_text("a")
        assert not (path / "a").exists()
    assert [entry.name for entry in path.iterdir()] == ["a"]
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileExistsError, match="nothing is overwritten"), new_folder(path):
        raise AssertionError("the work has begun")
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="not an empty folder"), new_folder(tmp_path / "file"):
        raise AssertionError("the work has begun")


def test_a_folder_that_fails_leaves_nothing(tmp_path):
    def fill():
        with new_folder(tmp_path / "record") as part:
            (part / "a").write_text("a")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        fill()
    assert not list(tmp_path.iterdir())


TENSORS = {"a.weight": torch.randn(3, 4), "b": torch.tensor(2.5), "c": torch.arange(5), "d": torch.zeros(0, 3),
           "e": torch.tensor([True, False]), "f": torch.randn(4).bfloat16(), "g": torch.randn(2, dtype=torch.float64)}


def test_tensors_come_back_as_they_were(tmp_path):
    state = {"steps": 3, "name": "Zoë"}
    save_tensors(tmp_path / "a.safetensors", TENSORS, state)
    tensors, again = load_tensors(tmp_path / "a.safetensors")
    assert again == state
    assert tensors.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert (tensors[name].dtype, tensors[name].shape) == (value.dtype, value.shape)
        assert torch.equal(tensors[name], value)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_flipped_bit_is_noticed(tmp_path_factory, data):
    """Anywhere in the numbers, and in the state."""
    path = tmp_path_factory.mktemp("flip") / "a.safetensors"
    save_tensors(path, {"a": torch.arange(100.0), "b": torch.ones(7)}, {"steps": 21})
    content = bytearray(path.read_bytes())
    numbers = 8 + int.from_bytes(content[:8], "little")
    steps = content.index(b": 21}") + 2  # 2 becomes 3
    place = data.draw(st.integers(numbers, len(content) - 1) | st.just(steps))
    content[place] ^= 1 << data.draw(st.integers(0, 7) if place >= numbers else st.just(0))
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"has changed since it was written.*Copy it again"):
        load_tensors(path)


def test_a_file_of_an_earlier_version_is_read(tmp_path):
    save_file({"a": torch.ones(3)}, tmp_path / "a.safetensors", {"state": "{}"})
    assert load_tensors(tmp_path / "a.safetensors")[0]["a"].tolist() == [1, 1, 1]


def test_a_file_without_rights_is_not_called_damaged(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"a": torch.ones(3)}, {})

    def refuse(self, *arguments, **keywords):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "open", refuse)
    with pytest.raises(PermissionError, match=r"cannot be opened .*see to its rights") as refusal:
        load_tensors(path)
    assert "elete" not in str(refusal.value)


def test_json_that_is_none_is_named(tmp_path):
    write_text(tmp_path / "run.json", json.dumps({"a": "²"}))
    assert read_json(tmp_path / "run.json") == {"a": "²"}
    (tmp_path / "run.json").write_bytes(b'{"a": \xff')
    with pytest.raises(ValueError, match=r"run\.json is damaged"):
        read_json(tmp_path / "run.json")
