"""Public sets, fetched from a server on this machine that holds synthetic ones in the same formats."""

import gzip
import hashlib
import http.server
import io
import tarfile
import threading
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from stylegan2.data import named, open_source
from stylegan2.data.download import CHUNK, RemoteFile, cache
from stylegan2.data.named import NAMED_SETS, NamedSet


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`; breaks the connection after `limit` bytes of a body; notes what was asked for."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.limit, self.ranges, self.asked = {}, None, True, []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        data = self.server.files.get(self.path.lstrip("/"))
        if data is None:
            return self.send_error(404)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.ranges else 0
        if start >= len(data):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start:][:self.server.limit])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("STYLEGAN2_DATA", str(tmp_path / "cache"))
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def remote(server, name, data, wrong=None):
    server.files[name] = data
    return RemoteFile(f"{server.url}/{name}", f"md5:{wrong or hashlib.md5(data).hexdigest()}", name)


DATA = bytes(range(256)) * 1000


# ---- downloading

def test_a_file_is_fetched_once(server):
    file = remote(server, "a.bin", DATA)
    assert file.fetch().read_bytes() == DATA
    assert file.fetch() == cache() / "a.bin"
    assert server.asked == [None]


def test_it_goes_on_while_every_connection_brings_something(server):
    server.limit = 100_000
    assert remote(server, "a.bin", DATA).fetch().read_bytes() == DATA
    assert server.asked == [None, f"bytes={CHUNK}-", f"bytes={2 * CHUNK}-", f"bytes={3 * CHUNK}-"]


def test_it_goes_on_after_an_interruption(server):
    """What a killed process left is kept; the next one asks for the rest only."""
    file = remote(server, "a.bin", DATA)
    cache().mkdir()
    (cache() / "a.bin.part").write_bytes(DATA[:70_000])
    assert file.fetch().read_bytes() == DATA
    assert server.asked == ["bytes=70000-"]
    assert [p.name for p in cache().iterdir()] == ["a.bin"]


def test_a_broken_connection_leaves_what_came(server):
    server.limit = 0
    file = remote(server, "a.bin", DATA)
    cache().mkdir()
    (cache() / "a.bin.part").write_bytes(DATA[:70_000])
    with pytest.raises(ConnectionError, match="Run again to go on"):
        file.fetch()
    assert (cache() / "a.bin.part").read_bytes() == DATA[:70_000]
    server.limit = None
    assert file.fetch().read_bytes() == DATA


def test_a_server_that_sends_no_pieces(server):
    server.ranges = False
    file = remote(server, "a.bin", DATA)
    cache().mkdir()
    (cache() / "a.bin.part").write_bytes(b"x" * 70_000)
    assert file.fetch().read_bytes() == DATA


def test_a_download_that_was_complete_but_not_checked(server):
    file = remote(server, "a.bin", DATA)
    cache().mkdir()
    (cache() / "a.bin.part").write_bytes(DATA)
    assert file.fetch().read_bytes() == DATA


def test_a_wrong_checksum_names_both(server):
    file = remote(server, "a.bin", DATA, wrong="0" * 32)
    with pytest.raises(ValueError, match="0" * 32) as error:
        file.fetch()
    assert hashlib.md5(DATA).hexdigest() in str(error.value)
    assert "give its path to --data" in str(error.value)
    assert list(cache().iterdir()) == []


def test_a_file_put_into_the_cache_by_hand_is_checked(server):
    file = remote(server, "a.bin", DATA)
    cache().mkdir()
    (cache() / "a.bin").write_bytes(b"something else")
    assert file.fetch().read_bytes() == DATA


def test_offline(server):
    file = remote(server, "a.bin", DATA)
    server.shutdown()
    server.server_close()
    with pytest.raises(ConnectionError) as error:
        file.fetch()
    for part in (file.url, file.checksum, str(cache() / "a.bin"), "--data toyfaces"):
        assert part in str(error.value)


def test_an_address_that_no_longer_exists(server):
    file = RemoteFile(f"{server.url}/gone", "md5:" + "0" * 32, "gone")
    with pytest.raises(ConnectionError, match="404"):
        file.fetch()


def test_the_cache_of_the_system(monkeypatch):
    monkeypatch.delenv("STYLEGAN2_DATA", raising=False)
    assert cache().name == "stylegan2"


# ---- the formats

def tar_of(members):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz", compresslevel=1) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return data.getvalue()


def cifar_members():
    """Image i has the label i mod 10; its red is its batch, its green i mod 256, its blue counts along the row."""
    for k in range(1, 6):
        records = np.zeros((10_000, 3073), np.uint8)
        records[:, 0] = np.arange(10_000) % 10
        pixels = records[:, 1:].reshape(10_000, 3, 32, 32)
        pixels[:, 0], pixels[:, 1], pixels[:, 2] = k, (np.arange(10_000) % 256)[:, None, None], np.arange(32)
        yield f"cifar-10-batches-bin/data_batch_{k}.bin", records.tobytes()


def test_cifar(server, monkeypatch):
    file = remote(server, "cifar.tar.gz", tar_of([("../evil.bin", b"x"), *cifar_members()]))
    monkeypatch.setitem(NAMED_SETS, "cifar10", NamedSet((file,), named.read_cifar))
    source = open_source("cifar10", 32)
    assert len(source) == 50_000
    assert source.class_names[3] == "cat"
    index = torch.tensor([3, 20_007])
    assert source.labels(index).tolist() == [3, 7]
    images = source.images(index)
    assert images[:, 0, 5, 5].tolist() == [1, 3]
    assert images[:, 1, 5, 5].tolist() == [3, 7]
    assert images[0, 2, 9].tolist() == list(range(32))
    assert [p.name for p in cache().parent.rglob("*")] == ["cache", "cifar.tar.gz"]  # nothing was unpacked


@pytest.mark.parametrize("content", [None, b"short", bytes(10_000 * 3073 + 5), "/etc/passwd"])  # the last, a link
def test_an_archive_that_is_not_cifar(server, content):
    members = [] if content is None else [("cifar-10-batches-bin/data_batch_1.bin", content)]
    file = remote(server, "cifar.tar.gz", tar_of(members))
    with pytest.raises(ValueError, match="does not hold CIFAR-10"):
        NamedSet((file,), named.read_cifar).open()


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return gzip.compress(header + array.tobytes(), 1)


def fashion(server, images, labels):
    files = remote(server, "images.gz", images), remote(server, "labels.gz", labels)
    return NamedSet(files, named.read_fashion)


def test_fashion(server, monkeypatch):
    images = np.zeros((60_000, 28, 28), np.uint8)
    images[7] = np.arange(28) * 9
    labels = (np.arange(60_000) % 10).astype(np.uint8)
    monkeypatch.setitem(NAMED_SETS, "fashion-mnist", fashion(server, idx(images), idx(labels)))
    source = open_source("fashion-mnist", 32)
    assert len(source) == 60_000
    assert source.n_classes == 10
    assert source.labels(torch.tensor([7])).tolist() == [7]
    image = source.images(torch.tensor([7]))[0]
    inside = image[:, 2:30, 2:30]
    assert inside.unique(dim=0).tolist() == [[list(range(0, 252, 9))] * 28]
    assert image[:, :2].max() == image[..., 30:].max() == 0


@pytest.mark.parametrize("broken", ["cut", "shape", "no gzip"])
def test_files_that_are_not_fashion(server, broken):
    images = np.zeros((60_000, 28, 28), np.uint8)
    data = {"cut": idx(images)[:-1000], "shape": idx(images[:100]), "no gzip": b"PK"}[broken]
    with pytest.raises(ValueError, match="delete it to fetch it again"):
        fashion(server, data, idx(np.zeros(60_000, np.uint8))).open()


def image_zip(names):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for k, name in enumerate(names):
            png = io.BytesIO()
            Image.new("RGB", (16, 16), (200 + k,) * 3).save(png, "PNG")
            archive.writestr(name, png.getvalue())
    return data.getvalue()


def test_afhq_is_its_training_images(server, monkeypatch):
    names = ["afhq/train/cat/0.png", "afhq/train/dog/1.png", "afhq/train/wild/2.png", "afhq/val/cat/3.png"]
    monkeypatch.setitem(NAMED_SETS, "afhq", NamedSet((remote(server, "afhq.zip", image_zip(names)),), named.read_afhq))
    source = open_source("afhq", 16)
    assert source.class_names == ("cat", "dog", "wild")
    index = torch.arange(3)
    assert source.labels(index).tolist() == [0, 1, 2]
    assert source.images(index)[:, 0, 0, 0].tolist() == [200, 201, 202]


def test_the_folders_of_ffhq_are_no_classes(server, monkeypatch):
    names = ["thumbnails128x128/00000/00000.png", "thumbnails128x128/01000/01000.png"]
    file = remote(server, "ffhq.zip", image_zip(names))
    monkeypatch.setitem(NAMED_SETS, "ffhq-thumbnails", NamedSet((file,), named.read_ffhq))
    source = open_source("ffhq-thumbnails", 16)
    assert len(source) == 2
    assert source.n_classes == 0


@pytest.mark.parametrize("name", NAMED_SETS)
def test_addresses_and_checksums_have_their_form(name):
    for file in NAMED_SETS[name].files:
        kind, digits = file.checksum.split(":")
        assert len(digits) == {"md5": 32, "sha256": 64}[kind]
        int(digits, 16)
        assert file.url.startswith("https://")
