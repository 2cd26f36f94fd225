"""The list of labels that a dataset tool writes, and folders that are no classes."""

import io
import json
import logging
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from stylegan2.data import labels as labels_module
from stylegan2.data import open_source, opening


def tool_name(i):
    """As the tool writes it: a folder for a thousand images."""
    return f"{i // 1000:05d}/img{i:08d}.png"


def png(value):
    image, data = Image.fromarray(np.full((4, 4, 3), value, np.uint8)), io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


NAMES = [tool_name(i) for i in (0, 1, 1000, 2000)]
IMAGES = {name: png(200 + k) for k, name in enumerate(NAMES)}


@pytest.fixture(params=["now", "later"])
def when(request, monkeypatch):
    if request.param == "later":
        monkeypatch.setattr(opening, "MEMORY_LIMIT", 0)
    return request.param


@pytest.fixture(params=["zip", "folder"])
def pack(request, tmp_path):
    """Puts files into a zip or a folder."""
    def made(files):
        path = tmp_path / ("set.zip" if request.param == "zip" else "set")
        if request.param == "folder":
            for name, data in files.items():
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                (path / name).write_bytes(data)
        else:
            with zipfile.ZipFile(path, "w") as archive:
                for name, data in files.items():
                    archive.writestr(name, data)
        return path

    return made


def listing(labels):
    return {"dataset.json": json.dumps({"labels": labels}).encode()}


def found(source):
    """The label of each image, by the number that its pixels hold."""
    index = torch.arange(len(source))
    values = (source.images(index)[:, 0, 0, 0] - 200).tolist()
    return dict(zip(values, source.labels(index).tolist(), strict=True))


def test_the_list_says_the_classes(pack, when):
    """In any order, and with a class that has no image."""
    pairs = [[name, label] for name, label in zip(NAMES, [3, 0, 3, 1], strict=True)]
    source = open_source(pack(IMAGES | listing(pairs[::-1])), 4)
    assert found(source) == {0: 3, 1: 0, 2: 3, 3: 1}
    assert source.class_names == ("0", "1", "2", "3")
    assert source.n_classes == 4


@pytest.mark.parametrize("one", [1, 1.0])
def test_one_hot_vectors_are_their_class(pack, one):
    """As long as the vectors are, so many classes."""
    pairs = [[name, [one * (k == label) for k in range(6)]]
             for name, label in zip(NAMES, [3, 0, 3, 1], strict=True)]
    source = open_source(pack(IMAGES | listing(pairs)), 4)
    assert found(source) == {0: 3, 1: 0, 2: 3, 3: 1}
    assert source.n_classes == 6


@pytest.mark.parametrize("content", [
    {"labels": None}, {}, {"labels": [[name, None] for name in NAMES]}, {"labels": []}])
def test_a_list_without_labels(pack, when, content):
    data = json.dumps(content).encode()
    source = open_source(pack(IMAGES | {"dataset.json": data}), 4)
    assert source.labels(torch.tensor([0])) is None
    assert source.class_names == ()
    assert source.n_classes == 0


def test_folders_beside_a_list_without_labels_are_no_classes(pack, caplog):
    files = {"cat/1.png": png(200), "dog/1.png": png(201), **listing(None)}
    with caplog.at_level(logging.WARNING):
        assert open_source(pack(files), 4).n_classes == 0
    assert "the folders are not taken for classes; remove it if they are" in caplog.text


def test_a_list_is_stronger_than_folders(pack):
    files = {"cat/1.png": png(200), "dog/1.png": png(201)}
    pairs = [["cat/1.png", 1], ["dog/1.png", 0]]
    assert found(open_source(pack(files | listing(pairs)), 4)) == {0: 1, 1: 0}


@pytest.mark.parametrize("names", [
    NAMES,
    [f"wrapped/{name}" for name in NAMES],
    [f"images/{i // 1000 * 1000:05d}/{i:05d}.png" for i in (0, 999, 1000, 69999)],
])
def test_folders_that_keep_each_other_short_are_no_classes(pack, caplog, names):
    """Of the dataset tool, and of FFHQ."""
    source = open_source(pack(dict.fromkeys(names, png(200))), 4)
    assert source.n_classes == 0
    assert caplog.text == ""


@pytest.mark.parametrize("names", [
    ["00000/a.png", "00001/img00001000.png"],
    ["00000/img00001000.png", "00001/img00000000.png"],  # not the tool's numbers
    ["00000/00000_00000.png", "00001/00000_00000.png"],  # German traffic signs
    ["00000/00000.png", "00001/00001.png"],
    ["0/1.png", "1/2.png"],
])
def test_folders_that_are_classes_though_they_are_numbers(pack, names):
    source = open_source(pack({name: png(200) for name in names}), 4)
    assert source.class_names == tuple(name.split("/")[0] for name in names)


def test_a_set_in_a_folder_of_its_own(pack):
    """Where not what is in the tool's folder was packed, but the folder itself."""
    pairs = [[name, k] for k, name in enumerate(NAMES)]
    files = {**IMAGES, **listing(pairs)}
    source = open_source(pack({f"my/set/{name}": files[name] for name in files}), 4)
    assert found(source) == {0: 0, 1: 1, 2: 2, 3: 3}


def test_backslashes_as_separators(tmp_path):
    pairs = [[name.replace("/", "\\"), k] for k, name in enumerate(NAMES)]
    backslashed = {name.replace("/", "\\"): IMAGES[name] for name in NAMES}
    for k, turned in enumerate([IMAGES, backslashed]):
        with zipfile.ZipFile(tmp_path / f"{k}.zip", "w") as archive:
            for name, data in {**turned, **listing(pairs)}.items():
                archive.writestr(name, data)
        source = open_source(tmp_path / f"{k}.zip", 4)
        assert found(source) == {0: 0, 1: 1, 2: 2, 3: 3}


def test_folders_behind_backslashes_are_classes(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for k, name in enumerate(["cat\\1.png", "dog\\1.png"]):
            archive.writestr(name, png(200 + k))
    assert open_source(tmp_path / "a.zip", 4).class_names == ("cat", "dog")


def test_broken_images_take_their_labels_with_them(pack, when, caplog):
    pairs = [[name, k] for k, name in enumerate(NAMES)]
    path = pack({**IMAGES, NAMES[1]: b"no image", **listing(pairs)})
    source = open_source(path, 4)
    assert found(source) == {0: 0, 2: 2, 3: 3}
    assert source.n_classes == 4
    assert NAMES[1] in caplog.text


def test_a_refused_entry_may_be_listed(tmp_path, caplog):
    """It is in the zip, if not used."""
    names = ["a.png", "../b.png"]
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in names:
            archive.writestr(name, png(200))
        archive.writestr(*listing([[name, 1] for name in names]).popitem())
    assert found(open_source(tmp_path / "a.zip", 4)) == {0: 1}
    assert "climbs out of the zip" in caplog.text


def with_labels(*labels):
    return [[name, label] for name, label in zip(NAMES, labels, strict=True)]


@pytest.mark.parametrize(("pairs", "message"), [
    (with_labels(0, 1, 2, 3)[:2],
     r"does not list 00001/img00001000.png and 1 more: add the labels"),
    ([*with_labels(0, 1, 2, 3), ["00007/img00007000.png", 1]],
     r"lists 00007/img00007000.png, and there is no such image: add what is missing"),
    ([*with_labels(0, 1, 2, 3), ["../secret.png", 1]],
     r"lists ../secret.png, and there is no such image"),
    ([*with_labels(0, 1, 2, 3), [NAMES[0], 1]],
     rf"lists {NAMES[0]} twice, with different labels: take the wrong one out"),
    (with_labels(0, None, 2, 3),
     rf"gives no label \(null\) to {NAMES[1]}, but labels other images: label every"),
    (with_labels(0, -1, 2, 3), rf"gives {NAMES[1]} the label -1: number the classes"),
    (with_labels(0, 1.5, 2, 3), rf"gives {NAMES[1]} the label 1.5: number the classes"),
    (with_labels(0, "cat", 2, 3), rf"gives {NAMES[1]} the label 'cat': number the"),
    (with_labels(0, True, 2, 3), rf"gives {NAMES[1]} the label True: number the"),
    (with_labels(0, [0, 1], 2, 3), rf"gives {NAMES[1]} the label \[0, 1\]: number the"),
    (with_labels(0, 10**18, 2, 3), r"the label 1000000000000000000: .* up to 65535"),
    (with_labels([0, 1], [1, 0], [0.5, 0.5], [0, 1]), "not all of which are one-hot"),
    (with_labels([0, 1], [1, 0], [0, 0], [0, 1]), "not all of which are one-hot"),
    (with_labels([0, 1], [1, 0], [1, 1], [0, 1]), "not all of which are one-hot"),
    (with_labels([0, 1], [1, 0], [1, 0, 0], [0, 1]), "and as long as the others"),
    (with_labels([0, 1], [1, 0], [10**400, 0], [0, 1]), "not all of which are one-hot"),
    (with_labels([], [], [], []), "not all of which are one-hot"),
    (["a.png"], r"lists 'a.png', which is no pair of file and label: mend it"),
    ([[1, NAMES[0]]], "which is no pair of file and label: mend it"),
    ({"a.png": 1}, r"has the labels {'a.png': 1}, neither null nor a list"),
    ("none", r"has the labels 'none', neither null nor a list"),
])
def test_lists_that_do_not_fit(pack, pairs, message):
    with pytest.raises(ValueError, match=rf"^dataset.json of .*set.* {message}"):
        open_source(pack(IMAGES | listing(pairs)), 4)


def test_a_label_twice_is_no_contradiction(pack):
    pairs = with_labels(0, 1, 2, 3)
    source = open_source(pack(IMAGES | listing(pairs * 2)), 4)
    assert found(source) == {0: 0, 1: 1, 2: 2, 3: 3}


@pytest.mark.parametrize(("content", "message"), [
    (b"", "is no JSON"), (b'{"labels": [', "is no JSON"), (b"\xff\xfe\xff", "no JSON"),
    (b"[" * 100_000, "is no JSON"), (b'{"labels": ' + b"9" * 9999 + b"}", "is no JSON"),
    (b"[1, 2]", r"holds \[1, 2\], not an object like"), (b"null", "holds None, not an"),
])
def test_files_that_are_no_list(pack, content, message):
    with pytest.raises(ValueError, match=rf"{message}.*remove it to train without"):
        open_source(pack(IMAGES | {"dataset.json": content}), 4)


def test_a_list_may_begin_with_a_byte_order_mark(pack):
    """As some editors of Windows write it."""
    data = listing(with_labels(0, 1, 2, 3))["dataset.json"]
    source = open_source(pack(IMAGES | {"dataset.json": b"\xef\xbb\xbf" + data}), 4)
    assert source.n_classes == 4


def test_a_huge_list_is_not_read(pack, monkeypatch):
    monkeypatch.setattr("stylegan2.data.rows.MAX_LIST_BYTES", 100)
    path = pack(IMAGES | {"dataset.json": b" " * 101})
    with pytest.raises(ValueError, match="has 101 bytes, more than 100, so it is no"):
        open_source(path, 4)
    assert labels_module.MAX_LIST_BYTES == 2**28


@pytest.mark.parametrize("spoil", ["encrypt", "corrupt"])
def test_a_list_that_cannot_be_unpacked(tmp_path, spoil):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", png(200))
        archive.writestr("dataset.json", '{"labels": [["a.png", 1]]}')
    data = bytearray(path.read_bytes())
    if spoil == "encrypt":  # the flag, in the entry and in the table of contents
        data[data.rindex(b"PK\x03\x04") + 6] |= 1
        data[data.rindex(b"PK\x01\x02") + 8] |= 1
    else:
        data[data.index(b'{"labels"') + 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"dataset.json of .* cannot be read .*pack"):
        open_source(path, 4)


def test_a_folder_in_place_of_the_list(tmp_path):
    (tmp_path / "dataset.json").mkdir()
    (tmp_path / "a.png").write_bytes(png(200))
    assert open_source(tmp_path, 4).n_classes == 0
