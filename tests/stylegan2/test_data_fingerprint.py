"""Fingerprints of sets, and names that are no UTF-8."""

import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stylegan2.data import StoredImages, ToyFaces, fingerprint, open_source, opening

CPU = torch.device("cpu")


@pytest.fixture(params=["now", "later"])
def when(request, monkeypatch):
    if request.param == "later":
        monkeypatch.setattr(opening, "MEMORY_LIMIT", 0)
    return request.param


def save(folder, name, size=4, value=200):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), (value,) * 3).save(path)


@pytest.fixture
def folder(tmp_path):
    for k, name in enumerate(["cat/1.png", "cat/2.png", "dog/3.png"]):
        save(tmp_path / "set", name, value=200 + k)
    return tmp_path / "set"


def zipped(folder, to):
    with zipfile.ZipFile(to, "w") as archive:
        for path in sorted(folder.rglob("*.*")):
            archive.write(path, path.relative_to(folder).as_posix())
    return to


def of(kind, folder):
    """The fingerprint of this folder, or of a zip of it."""
    path = zipped(folder, folder.parent / "a.zip") if kind == "zip" else folder
    return open_source(path, 4).fingerprint


@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_the_same_set_elsewhere(tmp_path, folder, when, kind):
    value = of(kind, folder)
    assert len(value) == 16
    int(value, 16)
    copy = shutil.copytree(folder, tmp_path / "else" / "where")
    assert of(kind, copy) == value


@pytest.mark.parametrize("kind", ["zip", "folder"])
@pytest.mark.parametrize("change", ["add", "remove", "rename", "size", "class", "list"])
def test_what_changes_it(folder, when, kind, change):
    before = of(kind, folder)
    if change == "add":
        save(folder, "dog/4.png")
    elif change == "remove":
        (folder / "cat" / "1.png").unlink()
    elif change == "rename":
        (folder / "cat" / "1.png").rename(folder / "cat" / "0.png")
    elif change == "size":
        save(folder, "cat/1.png", size=16)
    elif change == "class":
        (folder / "cat").rename(folder / "cow")
    else:
        (folder / "dataset.json").write_text('{"labels": null}', encoding="utf-8")
    assert of(kind, folder) != before


def test_a_zip_tells_contents_of_one_size_apart(tmp_path):
    found = set()
    for value in (201, 202):
        save(tmp_path / str(value), "a.bmp", value=value)
        found.add(of("zip", tmp_path / str(value)))
    assert len(found) == 2


@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_labels_of_a_list_count(folder, kind):
    found = set()
    for label in (1, 2):
        pairs = [["cat/1.png", label], ["cat/2.png", 0], ["dog/3.png", 2]]
        text = json.dumps({"labels": pairs})
        (folder / "dataset.json").write_text(text, encoding="utf-8")
        found.add(of(kind, folder))
    assert len(found) == 2


@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_it_does_not_depend_on_what_becomes_of_the_images(folder, when, kind):
    path = zipped(folder, folder.parent / "a.zip") if kind == "zip" else folder
    others = [open_source(path, 8), open_source(path, 4, background=(0, 0, 0)),
              open_source(path, 4, white=100)]
    assert {source.fingerprint for source in others} == {of(kind, folder)}


def test_it_does_not_depend_on_when_they_are_decoded(folder, monkeypatch):
    now = open_source(folder, 4).fingerprint
    monkeypatch.setattr(opening, "MEMORY_LIMIT", 0)
    later = open_source(folder, 4)
    assert later.fingerprint == pickle.loads(pickle.dumps(later)).fingerprint == now


def test_parts_do_not_run_into_one():
    """As the name of a file and the size behind it."""
    of_parts = fingerprint.fingerprint_of
    assert of_parts([b"a1", b"2"]) != of_parts([b"a", b"12"])


SCRIPT = """
import hashlib, sys
from stylegan2.data import open_source, opening

sha256, hashlib.sha256 = hashlib.sha256, None
opening.MEMORY_LIMIT = int(sys.argv[2])
source = open_source(open_source(sys.argv[1], 4), 4)
hashlib.sha256 = sha256
print(source.fingerprint)
"""


@pytest.mark.parametrize("limit", [0, 10**6])
def test_it_is_computed_when_it_is_asked_for(folder, limit):
    """In a process of its own: the checks of types in this one look at every property."""
    found = subprocess.run([sys.executable, "-c", SCRIPT, folder, str(limit)], text=True,
                           capture_output=True, check=True)
    assert found.stdout.strip() == of("folder", folder)


def test_toyfaces():
    value = ToyFaces(32).fingerprint
    assert ToyFaces(64).fingerprint == open_source("toyfaces", 8).fingerprint == value
    others = {ToyFaces(32, seed=1).fingerprint, ToyFaces(32, size=5).fingerprint}
    assert len(others | {value}) == 3


def random_images(shape=(10, 8, 8, 3)):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_arrays(tmp_path, when):
    """By what is in them, wherever they come from."""
    pixels = random_images()
    np.save(tmp_path / "a.npy", pixels)
    np.savez(tmp_path / "a.npz", images=pixels)
    fortran = np.asfortranarray(pixels)
    everywhere = [pixels, fortran, torch.from_numpy(pixels), tmp_path / "a.npy",
                  tmp_path / "a.npz"]
    found = {open_source(data, resolution).fingerprint
             for data in everywhere for resolution in (4, 8)}
    assert len(found) == 1


def test_what_changes_that_of_an_array(tmp_path):
    pixels = random_images()
    pixel = pixels.copy()
    pixel[7, 3, 3, 1] ^= 1
    arrays = [pixels, pixel, pixels[:9], pixels[::-1], pixels.reshape(10, 16, 4, 3)]
    found = [open_source(array, 8).fingerprint for array in arrays]
    for labels in (np.arange(10), np.arange(10)[::-1]):
        np.savez(tmp_path / "a.npz", images=pixels, labels=labels)
        found.append(open_source(tmp_path / "a.npz", 8).fingerprint)
    assert len(set(found)) == len(found)


def test_of_a_large_array_some_rows_are_read(monkeypatch):
    monkeypatch.setattr(fingerprint, "SAMPLE_BYTES", 5 * 8 * 8 * 3)
    pixels = random_images((17, 8, 8, 3))
    value = open_source(pixels, 8).fingerprint
    changed = []
    for i in range(17):
        copy = pixels.copy()
        copy[i, 0, 0, 0] ^= 1
        if open_source(copy, 8).fingerprint != value:
            changed.append(i)
    assert changed == [0, 4, 8, 12, 16]


def test_images_in_memory():
    pixels = torch.from_numpy(random_images((6, 3, 8, 8)))
    labels = torch.arange(6) % 2
    source = StoredImages(pixels, labels)
    assert source.fingerprint == StoredImages(pixels.clone(), labels).fingerprint
    assert source.to(CPU).fingerprint == source.fingerprint
    others = [StoredImages(pixels), StoredImages(pixels, 1 - labels),
              StoredImages(pixels, labels, ("cat", "dog")), StoredImages(pixels[:5])]
    assert len({source.fingerprint, *(other.fingerprint for other in others)}) == 5


def test_moved_images_keep_the_fingerprint_of_their_files(folder):
    source = open_source(folder, 4)
    assert source.to(CPU).fingerprint == source.fingerprint == of("folder", folder)


# ---- names that are no UTF-8

@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="names are Unicode there")
def test_names_that_are_no_utf_8(tmp_path, when, caplog):
    """In every place where a name is seen, it can be written as UTF-8."""
    root = os.fsencode(tmp_path) + b"/f\xe4cher"
    for folder in (b"c\xe4t", b"d\xf6g"):
        os.makedirs(root + b"/" + folder)
        save(Path(os.fsdecode(root + b"/" + folder)), os.fsdecode(b"\xfc.png"))
    with open(root + b"/c\xe4t/\xe9.png", "wb") as file:
        file.write(b"no image")
    with caplog.at_level(logging.INFO):
        source = open_source(os.fsdecode(root), 4)
    assert source.class_names == ("c\\udce4t", "d\\udcf6g")
    assert source.labels(torch.arange(2)).tolist() == [0, 1]
    assert len(source.fingerprint) == 16
    assert "\\udce9.png" in caplog.text
    caplog.text.encode()
    for name in (b"/nothing\xe9", b"/c\xe4t/\xe9.png"):
        with pytest.raises((FileNotFoundError, ValueError)) as error:
            open_source(os.fsdecode(root + name), 4)
        str(error.value).encode()


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="names are Unicode there")
def test_lists_with_names_that_are_no_utf_8(tmp_path):
    """JSON can write them; a message shows them escaped."""
    name = os.fsdecode(b"\xe4.png")
    save(tmp_path, name)
    for label in (3, None, -1):
        text = json.dumps({"labels": [[name, label]]})
        (tmp_path / "dataset.json").write_text(text, encoding="utf-8")
        if label == -1:
            with pytest.raises(ValueError, match=r"gives .*udce4.png the label -1"):
                open_source(tmp_path, 4)
        else:
            labels = open_source(tmp_path, 4).labels(torch.tensor([0]))
            assert labels is None if label is None else labels.tolist() == [3]
