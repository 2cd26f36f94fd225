"""Folders, zips and arrays: what comes out, and what hostile files cannot do."""

import io
import logging
import os
import pickle
import struct
import zipfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from stylegan2.data import DecodedImages, ImageSource, StoredImages, ToyFaces, decode, open_source, opening, rows


@pytest.fixture(params=["now", "later"])
def when(request, monkeypatch):
    """Both ways to decode: everything at once into memory, and each image when it is asked for."""
    if request.param == "later":
        monkeypatch.setattr(opening, "MEMORY_LIMIT", 0)
    return request.param


def encoded(image, suffix="PNG", **options):
    data = io.BytesIO()
    image.save(data, suffix, **options)
    return data.getvalue()


def first(source):
    return source.images(torch.tensor([0]))[0]


def everything(source):
    return source.images(torch.arange(len(source)))


def png(pixels, mode="RGB"):
    data = io.BytesIO()
    Image.fromarray(np.asarray(pixels, dtype=np.uint8), mode).save(data, "PNG")
    return data.getvalue()


def test_transparent_pixels_take_the_background_before_the_resize(tmp_path):
    """Red hidden under full transparency must not bleed into the image at any size."""
    rgba = np.zeros((64, 64, 4))
    rgba[..., 0] = 255
    rgba[:32] = (0, 0, 255, 255)
    (tmp_path / "a.png").write_bytes(png(rgba, "RGBA"))
    image = open_source(tmp_path, 8, background=(0, 255, 0)).images(torch.tensor([0]))[0]
    assert image[0].max() == 0
    assert image[:, 7, 4].tolist() == [0, 255, 0]
    assert image[:, 0, 4].tolist() == [0, 0, 255]


def test_resizing_filters(tmp_path):
    """Stripes finer than the new pixels become grey; taking every n-th pixel would give black or white."""
    stripes = np.zeros((64, 64, 3))
    stripes[:, ::2] = 255
    (tmp_path / "a.png").write_bytes(png(stripes))
    image = open_source(tmp_path, 8).images(torch.tensor([0]))
    assert (image.float() - 127.5).abs().max() < 8


def test_the_middle_square_is_taken(tmp_path):
    wide = np.zeros((16, 48, 3))
    wide[:, 16:32] = 200
    (tmp_path / "a.png").write_bytes(png(wide))
    assert (open_source(tmp_path, 16).images(torch.tensor([0])) == 200).all()


def test_zip_and_folder_give_the_same_images(tmp_path):
    folder = tmp_path / "folder" / "deep"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for i in range(3):
            data = png(rng.integers(0, 256, (12, 12, 3)))
            (folder / f"{i}.png").write_bytes(data)
            archive.writestr(f"deep/{i}.png", data)
        archive.writestr("readme.txt", "no image")
    a, b = open_source(tmp_path / "folder", 8), open_source(str(tmp_path / "set.zip"), 8)
    assert len(a) == len(b) == 3
    torch.testing.assert_close(a.images(torch.arange(3)), b.images(torch.arange(3)))


def test_broken_files_are_named_and_skipped(tmp_path, caplog):
    good = png(np.full((8, 8, 3), 209))
    (tmp_path / "good.png").write_bytes(good)
    (tmp_path / "cut.png").write_bytes(good[:40])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.png").write_text("not an image")
    with caplog.at_level(logging.WARNING):
        assert len(open_source(tmp_path, 8)) == 1
    for name in ("cut.png", "empty.jpg", "text.png", "skipped 3 of 4 images"):
        assert name in caplog.text


def test_a_broken_zip_entry_is_skipped(tmp_path, caplog):
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("a.png", png(np.full((8, 8, 3), 201)))
        archive.writestr("b.png", png(np.full((8, 8, 3), 202)))
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 6] ^= 0xFF  # of a.png: its checksum no longer holds
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        assert len(open_source(path, 8)) == 1
    assert "a.png" in caplog.text


def test_no_usable_image(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(ValueError, match="no usable image"):
        open_source(str(tmp_path), 8)


def test_missing_data(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder, zip"):
        open_source(str(tmp_path / "nothing"), 8)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="neither a folder nor a zip"):
        open_source(str(tmp_path / "file"), 8)


# ---- what an image may be

def test_memory_and_files_give_the_same(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for i in range(5):
        (tmp_path / f"{i}.png").write_bytes(png(rng.integers(0, 256, (20, 16, 3))))
    (tmp_path / "broken.png").write_bytes(b"no image")
    stored = open_source(tmp_path, 8)
    monkeypatch.setattr(opening, "MEMORY_LIMIT", 5 * 3 * 64)  # one image less than there are files
    later = open_source(tmp_path, 8)
    assert isinstance(stored, StoredImages)
    assert isinstance(later, DecodedImages)
    assert isinstance(stored, ImageSource)
    assert isinstance(later, ImageSource)
    index = torch.tensor([4, 0, 4, 2])
    torch.testing.assert_close(stored.images(index), later.images(index))


def test_what_exceeds_the_memory_limit_is_said(tmp_path, monkeypatch, caplog):
    (tmp_path / "a.png").write_bytes(png(np.full((4, 4, 3), 200)))
    monkeypatch.setattr(opening, "MEMORY_LIMIT", 0)
    with caplog.at_level(logging.INFO):
        open_source(tmp_path, 8)
    assert "more than the 0 GiB that are kept in memory" in caplog.text


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_scaled(tmp_path, when, suffix):
    """0 … 65535 onto 0 … 255 by rounding v / 257; Pillow's own conversion clips at 255."""
    values = np.array([[0, 255, 257, 300], [5000, 32767, 32768, 65535]] * 2, np.uint16)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    image = first(open_source(tmp_path, 4))
    expected = torch.tensor([[0, 1, 1, 1], [19, 127, 128, 255]] * 2, dtype=torch.uint8)
    torch.testing.assert_close(image, expected.expand(3, 4, 4))


def test_16_bit_grey_as_pgm(tmp_path):
    """Pillow opens this one in its 32-bit mode."""
    (tmp_path / "a.png").write_bytes(b"P5 2 2 65535\n" + np.full(4, 40_000, ">u2").tobytes())
    assert (first(open_source(tmp_path, 4)) == round(40_000 / 257)).all()


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_without_a_known_white_are_refused(tmp_path, caplog, mode):
    values = np.full((4, 4), 1e6)
    Image.fromarray(values.astype({"I": np.int32, "F": np.float32}[mode])).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="no usable image"):
        open_source(tmp_path, 4)
    assert "no known white" in caplog.text


def test_palette_with_transparency(tmp_path, when):
    image = Image.new("P", (4, 4), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(1, (0, 0, 2, 4))
    image.save(tmp_path / "a.png", transparency=0)
    found = first(open_source(tmp_path, 4, background=(10, 20, 30)))
    assert found[:, 0, 0].tolist() == [0, 0, 255]
    assert found[:, 0, 3].tolist() == [10, 20, 30]


def test_rgb_with_a_transparent_colour(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(Image.new("RGB", (4, 4), (1, 2, 3)), transparency=(1, 2, 3)))
    assert (first(open_source(tmp_path, 4, background=(209, 9, 9)))[0] == 209).all()


def test_grey_with_alpha(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(Image.new("LA", (4, 4), (100, 0))))
    assert (first(open_source(tmp_path, 4, background=(7, 8, 9)))[:, 0, 0] == torch.tensor([7, 8, 9])).all()


def test_cmyk(tmp_path, when):
    """Red is no cyan, all magenta, all yellow, no black."""
    (tmp_path / "a.jpg").write_bytes(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95))
    found = first(open_source(tmp_path, 8)).float()
    assert (found - torch.tensor([255.0, 0, 0])[:, None, None]).abs().max() < 8


def test_exif_rotation(tmp_path, when):
    """Orientation 6: what is stored left belongs on top."""
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "a.jpg").write_bytes(encoded(Image.fromarray(pixels), "JPEG", quality=95, exif=exif))
    found = first(open_source(tmp_path, 8)).float()
    assert found[:, :3].min() > 200
    assert found[:, 5:].max() < 55


def test_of_an_animation_the_first_frame(tmp_path, when):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((200, 0, 0), (0, 200, 0))]
    (tmp_path / "a.gif").write_bytes(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    (tmp_path / "b.png").write_bytes(encoded(frames[0], "PNG", save_all=True, append_images=frames[1:]))
    found = everything(open_source(tmp_path, 4))
    assert (found[:, :, 0, 0] == torch.tensor([200, 0, 0])).all()


def test_one_pixel(tmp_path, when):
    (tmp_path / "a.png").write_bytes(png(np.full((1, 1, 3), 77)))
    assert (first(open_source(tmp_path, 16)) == 77).all()


def test_large_jpegs_are_decoded_at_a_smaller_scale(tmp_path):
    """Leaving out the frequencies that the resize removes anyway changes next to nothing."""
    y, x = np.mgrid[:512, :512] / 512
    smooth = np.stack([x, y, np.sin(9 * x * y) ** 2], -1) * 255
    data = encoded(Image.fromarray(smooth.astype(np.uint8)), "JPEG", quality=95)
    (tmp_path / "a.jpg").write_bytes(data)
    whole = Image.open(io.BytesIO(data)).resize((32, 32), Image.Resampling.LANCZOS)
    expected = torch.from_numpy(np.array(whole)).permute(2, 0, 1).float()
    assert (first(open_source(tmp_path, 32)).float() - expected).abs().max() < 3


# ---- hostile files

def bomb(side):
    """A PNG of a few hundred bytes whose header promises side × side pixels."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*c) for c in chunks)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_000, 100_000])  # above Pillow's warning, and above its error
def test_decompression_bombs_are_named_and_skipped(tmp_path, when, caplog, side):
    (tmp_path / "bomb.png").write_bytes(bomb(side))
    (tmp_path / "good.png").write_bytes(png(np.full((8, 8, 3), 205)))
    assert len(open_source(tmp_path, 8)) == 1
    assert "bomb.png" in caplog.text
    assert "decompression bomb" in caplog.text


def test_the_limit_is_no_lower_than_pillows(tmp_path):
    assert decode.MAX_PIXELS == Image.MAX_IMAGE_PIXELS


def test_truncated_behind_the_header(tmp_path, when, caplog):
    """Its header is fine, so that only decoding tells. Decoded later, the next image takes its place, always."""
    rng = np.random.default_rng(0)
    whole = png(rng.integers(0, 256, (32, 32, 3)))
    (tmp_path / "a.png").write_bytes(whole[:len(whole) // 2])
    (tmp_path / "b.png").write_bytes(png(np.full((8, 8, 3), 205)))
    source = open_source(tmp_path, 8)
    assert len(source) == (1 if when == "now" else 2)
    assert (everything(source) == 205).all()
    assert "a.png" in caplog.text


def test_a_substitute_is_of_the_same_class(tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "MEMORY_LIMIT", 0)
    for folder, value in (("cat", 200), ("dog", 201)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").write_bytes(png(np.full((8, 8, 3), value)))
    whole = png(np.random.default_rng(0).integers(0, 256, (32, 32, 3)))
    (tmp_path / "cat" / "b.png").write_bytes(whole[:len(whole) // 2])
    source = open_source(tmp_path, 8)
    index = torch.arange(3)
    values = source.images(index)[:, 0, 0, 0].long()
    torch.testing.assert_close(values, source.labels(index) + 200)


def test_nothing_can_be_decoded_later(tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "MEMORY_LIMIT", 0)
    whole = png(np.random.default_rng(0).integers(0, 256, (32, 32, 3)))
    (tmp_path / "a.png").write_bytes(whole[:len(whole) // 2])
    with pytest.raises(ValueError, match="can be decoded"):
        first(open_source(tmp_path, 8))


def zip_of(path, entries, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("name", ["../x.png", "/etc/x.png", "a/../../x.png", "..\\x.png", "C:\\x.png"])
def test_entries_that_climb_out_of_a_zip(tmp_path, when, caplog, name):
    folder = tmp_path / "deep" / "folder"
    folder.mkdir(parents=True)
    good = png(np.full((8, 8, 3), 205))
    entries = [(name, png(np.full((8, 8, 3), 209))), ("good.png", good)]
    source = open_source(zip_of(folder / "a.zip", entries), 8)
    assert (everything(source) == 205).all()
    assert "climbs out of the zip" in caplog.text
    assert [p.name for p in tmp_path.rglob("*")] == ["deep", "folder", "a.zip"]  # nothing was unpacked


def test_zip_bombs_are_named_and_skipped(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(rows, "MAX_BYTES", 10**6)
    good = png(np.full((8, 8, 3), 205))
    entries = [("bomb.bmp", bytes(10**6 + 1)), ("good.png", good)]
    path = zip_of(tmp_path / "a.zip", entries, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10_000
    assert len(open_source(path, 8)) == 1
    assert "bomb.bmp: it would unpack to 1000001 bytes" in caplog.text


def test_a_zip_entry_that_lies_about_its_size(tmp_path, caplog):
    """The table of contents says 100 bytes: no more than these are unpacked."""
    entries = [("bomb.bmp", bytes(10**6)), ("good.png", png(np.full((8, 8, 3), 205)))]
    path = zip_of(tmp_path / "a.zip", entries, compression=zipfile.ZIP_DEFLATED)
    path.write_bytes(path.read_bytes().replace(struct.pack("<I", 10**6), struct.pack("<I", 100)))
    assert len(open_source(path, 8)) == 1
    assert "bomb.bmp" in caplog.text


def test_an_encrypted_zip(tmp_path, caplog):
    path = zip_of(tmp_path / "a.zip", [("a.png", png(np.full((4, 4, 3), 200)))])
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x03\x04") + 6] |= 1  # the flag, in the entry and in the table of contents
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="there is no image"):
        open_source(path, 4)
    assert "it is encrypted; pack the zip again without a password" in caplog.text


def test_a_zip_cut_short(tmp_path):
    path = zip_of(tmp_path / "a.zip", [("a.png", png(np.full((4, 4, 3), 200)))])
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match="neither a folder nor a zip"):
        open_source(path, 4)


def test_a_zip_with_a_broken_table_of_contents(tmp_path):
    path = zip_of(tmp_path / "a.zip", [("a.png", png(np.full((4, 4, 3), 200)))])
    path.write_bytes(path.read_bytes().replace(b"PK\x01\x02", b"PK\x01\x03"))
    with pytest.raises(ValueError, match="fetch or pack it again"):
        open_source(path, 4)


def test_loops_of_links(tmp_path, when):
    """Linked folders are searched, each once."""
    (tmp_path / "set" / "inside").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "set" / "inside" / "a.png").write_bytes(png(np.full((8, 8, 3), 201)))
    (tmp_path / "elsewhere" / "b.png").write_bytes(png(np.full((8, 8, 3), 202)))
    (tmp_path / "set" / "inside" / "loop").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "dangling.png").symlink_to(tmp_path / "nothing")
    found = everything(open_source(tmp_path / "set", 4))
    assert sorted(found[:, 0, 0, 0].tolist()) == [201, 202]


def test_a_pipe_with_the_name_of_an_image(tmp_path):
    """Opening it would wait for ever."""
    (tmp_path / "a.png").write_bytes(png(np.full((8, 8, 3), 201)))
    os.mkfifo(tmp_path / "b.png")
    assert len(open_source(tmp_path, 4)) == 1


def test_a_folder_without_images(tmp_path):
    (tmp_path / "readme.txt").write_text("no image")
    with pytest.raises(ValueError, match=r"there is no image in .*\.png"):
        open_source(tmp_path, 8)


def test_side_files_of_macos_are_left_out(tmp_path, caplog):
    good = png(np.full((4, 4, 3), 200))
    entries = [("a.png", good), ("__MACOSX/._a.png", b"\x00\x05\x16\x07")]
    assert len(open_source(zip_of(tmp_path / "a.zip", entries), 4)) == 1
    assert caplog.text == ""


# ---- labels

@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_folders_are_classes(tmp_path, when, kind):
    names = ["set/train/cat/1.png", "set/train/cat/deep/2.png", "set/train/dog/1.png", "set/train/emu/1.png"]
    values = [110, 111, 120, 130]
    if kind == "zip":
        path = zip_of(tmp_path / "a.zip", [(n, png(np.full((4, 4, 3), v))) for n, v in zip(names, values, strict=True)])
    else:
        path = tmp_path
        for name, value in zip(names, values, strict=True):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(png(np.full((4, 4, 3), value)))
    source = open_source(path, 4)
    assert source.class_names == ("cat", "dog", "emu")
    assert source.n_classes == 3
    index = torch.tensor([3, 1, 0, 2])
    values = source.images(index)[:, 0, 0, 0]
    assert source.labels(index).tolist() == (values // 10 - 11).tolist()


def test_labels_stay_with_their_images_when_files_are_skipped(tmp_path, when):
    cat, dog = (png(np.full((4, 4, 3), value)) for value in (201, 202))
    entries = [("cat/0.png", b""), ("cat/1.png", cat), ("dog/1.png", dog)]
    source = open_source(zip_of(tmp_path / "a.zip", entries), 4)
    assert source.labels(torch.arange(2)).tolist() == [0, 1]
    assert everything(source)[:, 0, 0, 0].tolist() == [201, 202]


@pytest.mark.parametrize("names", [["a.png", "b.png"], ["cat/a.png", "cat/b.png"], ["cat/a.png", "b.png"]])
def test_sets_without_classes(tmp_path, when, names):
    entries = [(name, png(np.full((4, 4, 3), 200))) for name in names]
    source = open_source(zip_of(tmp_path / "a.zip", entries), 4)
    assert source.labels(torch.tensor([1])) is None
    assert source.n_classes == 0
    assert source.class_names == ()


# ---- arrays

@pytest.mark.parametrize("shape", [(5, 8, 8), (5, 8, 8, 1), (5, 1, 8, 8), (5, 8, 8, 3), (5, 3, 8, 8)])
@pytest.mark.parametrize("kind", ["npy", "npz", "array", "tensor"])
def test_arrays(tmp_path, when, shape, kind):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    if kind == "npy":
        np.save(tmp_path / "a.npy", pixels)
        data = str(tmp_path / "a.npy")
    elif kind == "npz":
        np.savez(tmp_path / "a.npz", images=pixels, labels=np.array([0, 2, 1, 0, 1]))
        data = str(tmp_path / "a.npz")
    else:
        data = torch.from_numpy(pixels) if kind == "tensor" else pixels
    source = open_source(data, 8)
    channels_first = {3: pixels[:, None], 4: pixels if shape[1] in (1, 3) else np.moveaxis(pixels, -1, 1)}[len(shape)]
    torch.testing.assert_close(everything(source), torch.from_numpy(channels_first.copy()).expand(5, 3, 8, 8))
    assert source.n_classes == (3 if kind == "npz" else 0)
    if kind == "npz":
        assert source.labels(torch.tensor([1, 4])).tolist() == [2, 1]


def test_an_array_is_resized_as_a_file_is(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (1, 32, 24, 3), dtype=np.uint8)
    (tmp_path / "a.png").write_bytes(png(pixels[0]))
    torch.testing.assert_close(everything(open_source(pixels, 8)), everything(open_source(tmp_path, 8)))


def test_rgba_arrays_take_the_background():
    source = open_source(np.zeros((2, 4, 4, 4), np.uint8), 4, background=(205,) * 3)
    assert (everything(source) == 205).all()


@pytest.mark.parametrize(("array", "message"), [
    (np.zeros((2, 4, 4, 3), np.float32), "holds float32: images must be uint8"),
    (np.zeros((2, 8, 8, 2), np.uint8), r"shape \[2, 8, 8, 2\]"),
    (np.zeros((4, 4), np.uint8), r"shape \[4, 4\].*array\[None\]"),
    (np.zeros((2, 8, 8), np.uint16), "holds uint16: .*255 / .white - black"),
    (np.zeros((0, 4, 4, 3), np.uint8), r"shape \[0, 4, 4, 3\]"),
])
def test_arrays_that_are_no_images(array, message):
    with pytest.raises(ValueError, match=message):
        open_source(array, 4)


@pytest.mark.parametrize(("labels", "message"), [
    (np.zeros(3, int), "there must be 2"),
    (np.array([0, -1]), "begin at -1"),
    (np.array([0.0, 1.0]), "integers"),
    (np.array([[1], [0]]), r"there must be 2 .*reshape\(-1\)"),
    (np.array([[1, 0], [1, 1]]), "not 2 one-hot vectors"),
    (np.array([[0.1, 0.9], [1, 0]]), "not 2 one-hot vectors"),
    (np.array([[np.nan, 1.0], [1, 0]]), "not 2 one-hot vectors"),
    (np.eye(3), "not 2 one-hot vectors"),
    (np.array([0, 2**40]), "end at 1099511627776: number the classes"),
    (np.array([0, 2**64 - 1], np.uint64), "number the classes")])
def test_labels_that_do_not_fit(tmp_path, labels, message):
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 4, 4, 3), np.uint8), labels=labels)
    with pytest.raises(ValueError, match=message):
        open_source(tmp_path / "a.npz", 4)


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.float32, bool])
def test_one_hot_labels(tmp_path, dtype):
    """As many classes as the vectors are long, also when the last have no image."""
    pixels = np.full((4, 4, 4, 3), 200, np.uint8)
    labels = np.eye(5, dtype=dtype)[[2, 0, 3, 2]]
    np.savez(tmp_path / "a.npz", images=pixels, labels=labels)
    source = open_source(tmp_path / "a.npz", 4)
    assert source.labels(torch.arange(4)).tolist() == [2, 0, 3, 2]
    assert source.class_names == ("0", "1", "2", "3", "4")


def test_a_class_without_images(tmp_path, when):
    np.savez(tmp_path / "a.npz", images=np.full((2, 4, 4, 3), 200, np.uint8),
             labels=np.array([4, 1]))
    source = open_source(tmp_path / "a.npz", 4)
    assert source.labels(torch.arange(2)).tolist() == [4, 1]
    assert source.n_classes == len(source.class_names) == 5


@pytest.mark.parametrize("shape", [
    (64, 48, 3), (64, 64, 4), (64, 64, 1), (3, 64, 48), (3, 64, 64), (4, 64, 64)])
def test_one_picture_is_no_set(shape):
    """64 grey pictures, 48 high and 3 wide, or three in all: nobody has such a set."""
    picture = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    with pytest.raises(ValueError, match=r"one picture with its channels: array.None"):
        open_source(picture, 8)
    assert len(open_source(picture[None], 8)) == 1
    assert len(open_source(picture[..., None], 8)) == shape[0]


def as_squares(pixels):
    """As [n, 3, side, side]."""
    return torch.from_numpy(pixels.copy()).expand(-1, 3, -1, -1)


@pytest.mark.parametrize(("shape", "to_channels_first"), [
    ((10, 3, 4, 4), lambda a: a),
    ((10, 1, 4, 4), lambda a: a),
    ((10, 4, 4, 3), lambda a: a.transpose(0, 3, 1, 2)),
    ((10, 4, 4, 1), lambda a: a.transpose(0, 3, 1, 2)),
    ((10, 4, 4), lambda a: a[:, None]),
    ((1, 4, 4), lambda a: a[:, None]),
])
def test_small_images_are_read_as_squares(when, shape, to_channels_first):
    """4 is a number of channels and the smallest resolution."""
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    found = everything(open_source(pixels, 4))
    torch.testing.assert_close(found, as_squares(to_channels_first(pixels)))


@pytest.mark.parametrize("shape", [
    (10, 3, 3), (10, 2, 2), (10, 3, 3, 3), (10, 1, 1, 3)])
def test_tiny_images_are_enlarged(when, shape):
    assert everything(open_source(np.full(shape, 200, np.uint8), 4)).min() == 200


@pytest.mark.parametrize("shape", [(10, 3, 32, 3), (10, 1, 28, 3), (10, 4, 16, 1)])
def test_shapes_that_can_be_read_in_two_ways(shape):
    """Turned as the message says, either reading is clear."""
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    with pytest.raises(ValueError, match=r"transpose\(0, 3, 1, 2\), or the other way"):
        open_source(pixels, 8)
    for axes in ((0, 3, 1, 2), (0, 2, 3, 1)):
        assert len(open_source(pixels.transpose(axes), 8)) == 10


def test_an_npz_without_images(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=np.zeros((2, 4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match="it holds x_train; name the array images"):
        open_source(tmp_path / "a.npz", 4)


class Trap:
    def __reduce__(self):
        return os.mkdir, ("trap",)


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_arrays_of_objects_are_not_unpickled(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    hostile = np.array([Trap()], dtype=object)
    np.save("a.npy", hostile) if kind == "npy" else np.savez("a.npz", images=hostile)
    with pytest.raises(ValueError, match="cannot be"):
        open_source(tmp_path / f"a.{kind}", 4)
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize("kind", ["npy", "npz"])
@pytest.mark.parametrize("keep", [0, 60, 200])
def test_array_files_cut_short(tmp_path, kind, keep):
    pixels = np.zeros((2, 4, 4, 3), np.uint8)
    np.save(tmp_path / "a.npy", pixels)
    np.savez(tmp_path / "a.npz", images=pixels)
    (tmp_path / f"a.{kind}").write_bytes((tmp_path / f"a.{kind}").read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"a\.np. cannot be"):
        open_source(tmp_path / f"a.{kind}", 4)


def test_a_mapped_array_is_not_pickled(tmp_path, monkeypatch):
    """Processes that decode get its path; the array may be larger than the memory."""
    monkeypatch.setattr(opening, "MEMORY_LIMIT", 0)
    np.save(tmp_path / "a.npy", np.full((100, 32, 32, 3), 200, np.uint8))
    source = open_source(tmp_path / "a.npy", 8)
    copy = pickle.dumps(source)
    assert len(copy) < 10_000
    torch.testing.assert_close(everything(pickle.loads(copy)), everything(source))


# ---- the rest

def test_a_source_is_taken_as_it_is():
    faces = ToyFaces(16, size=10)
    assert open_source(faces, 16) is faces
    with pytest.raises(ValueError, match="images of 16²"):
        open_source(faces, 32)


def test_the_seed_of_procedural_images():
    index = torch.arange(3)
    torch.testing.assert_close(open_source("toyfaces", 8, seed=3).images(index), ToyFaces(8, seed=3).images(index))
