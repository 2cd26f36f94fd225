"""The white of images: what becomes 255, and sets that would be nearly black."""

import logging
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from stylegan2.data import DecodedImages, StoredImages, decode, open_source, opening


@pytest.fixture(params=["now", "later"])
def when(request, monkeypatch):
    if request.param == "later":
        monkeypatch.setattr(opening, "MEMORY_LIMIT", 0)
    return request.param


def first(source):
    return source.images(torch.tensor([0]))[0]


def raw_png(values, bits, colour_type, transparent=()):
    """A PNG of these integers [height, width, channels], packed by hand."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(
            ">I", zlib.crc32(kind + data))

    height, width, _ = values.shape
    rows = values.reshape(height, -1)
    if bits < 8:
        each = 8 // bits
        shifts = bits * np.arange(each)[::-1]
        packed = (rows.reshape(height, -1, each) << shifts).sum(-1).astype(np.uint8)
    else:
        packed = rows.astype(f">u{bits // 8}")
    data = b"".join(b"\0" + row.tobytes() for row in packed)
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    if transparent:
        chunks.insert(1, (b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*c) for c in chunks)


GREY, RGB, RGBA = 0, 2, 6


def levels(most, shape=(4, 4)):
    """From 0 to most, evenly."""
    return np.linspace(0, most, int(np.prod(shape))).round().astype(int).reshape(shape)


def by_255(values, white):
    """In Python's exact integers: rounded half up, which no value here comes to."""
    scaled = [min(255, (2 * 255 * int(v) + white) // (2 * white)) for v in values.flat]
    return torch.tensor(scaled, dtype=torch.uint8).reshape(values.shape)


@pytest.mark.parametrize("white", [4095, 1023, 65535, 255])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits_are_scaled_by_the_white(tmp_path, when, white, suffix):
    values = levels(4095)
    Image.fromarray(values.astype(np.uint16)).save(tmp_path / f"a.{suffix}")
    found = first(open_source(tmp_path, 4, white=white))
    torch.testing.assert_close(found, by_255(values, white).expand(3, 4, 4))


@pytest.mark.parametrize("white", [1, 15, 16, 100, 255, 4095])
@pytest.mark.parametrize("kind", ["png", "array", "rgb array", "large array"])
def test_8_bits_are_scaled_by_the_white(tmp_path, when, white, kind):
    """A white that 8 bits cannot hold leaves them alone."""
    values = levels(100)
    grey = values.astype(np.uint8)
    if kind == "png":
        Image.fromarray(grey).save(tmp_path / "a.png")
    data = {"png": tmp_path, "array": grey[None],
            "rgb array": np.stack([grey] * 3, -1)[None],
            "large array": grey[None].repeat(4, 1).repeat(4, 2)}[kind]
    found = first(open_source(data, 4, white=white))
    expected = by_255(values, min(white, 255)).expand(3, 4, 4)
    if kind == "large array":  # the resize blurs the edges
        assert (found.float() - expected).abs().mean() < 15
    else:
        torch.testing.assert_close(found, expected)


def test_the_white_leaves_alpha_and_background_alone(tmp_path):
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[..., 0], pixels[:2, :, 3], pixels[2, :, 3] = 15, 255, 51  # a fifth
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = first(open_source(tmp_path, 4, background=(10, 20, 30), white=15))
    assert found[:, 0, 0].tolist() == [255, 0, 0]
    assert found[:, 2, 0].tolist() == [59, 16, 24]
    assert found[:, 3, 0].tolist() == [10, 20, 30]


def test_the_colours_of_a_palette_are_scaled(tmp_path):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 3, 6, 15])
    image.save(tmp_path / "a.png")
    assert first(open_source(tmp_path, 4, white=15))[:, 0, 0].tolist() == [51, 102, 255]


@pytest.mark.parametrize("white", [0, -1, 65536])
def test_a_white_out_of_range(white):
    with pytest.raises(ValueError, match=r"white is .*from 1 to 65535, as 4095"):
        open_source("toyfaces", 4, white=white)
    with pytest.raises(ValueError, match="white is"):
        decode.prepare(Image.new("RGB", (4, 4)), 4, (0, 0, 0), white)


@pytest.mark.parametrize("background", [(300, 0, 0), (0, -1, 0), (0, 0, 256)])
def test_a_background_out_of_range(background):
    with pytest.raises(ValueError, match=r"background is .*integers from 0 to 255"):
        open_source("toyfaces", 4, background=background)
    with pytest.raises(ValueError, match="background is"):
        decode.prepare(Image.new("RGB", (4, 4)), 4, background)


# ---- sets that would be nearly black

@pytest.mark.parametrize(("most", "usual"), [
    (255, "of 8 bits stored in 16: --white 255"),
    (1000, "of 10 bits stored in 16: --white 1023"),
    (2000, "of 12 bits stored in 16: --white 4095"),
    (4095, "of 12 bits stored in 16: --white 4095"),
    (8000, "of 14 bits stored in 16: --white 16383"),
])
def test_few_bits_in_16_are_refused(tmp_path, when, most, usual):
    Image.fromarray(levels(most).astype(np.uint16)).save(tmp_path / "a.png")
    message = rf"brightest pixel of 1 of them is {most} of 65535, as in .* {usual} "
    with pytest.raises(ValueError, match=message + ".*--white 65535 takes them as"):
        open_source(tmp_path, 4)


@pytest.mark.parametrize("most", [1, 15, 31])
@pytest.mark.parametrize("kind", ["png", "array", "large array"])
def test_small_numbers_in_8_bits_are_refused(tmp_path, when, kind, most):
    grey = levels(most, (16, 16)).astype(np.uint8)
    if kind == "png":
        Image.fromarray(grey).save(tmp_path / "a.png")
    data = tmp_path if kind == "png" else grey[None]
    message = rf"{most} of 255, as in masks or digits .*--white {most} stretches .*255"
    with pytest.raises(ValueError, match=message):
        open_source(data, 8 if kind == "large array" else 16)


def test_black_images_are_refused(when):
    with pytest.raises(ValueError, match=r"is 0 of 255: look .*--white 255 takes"):
        open_source(np.zeros((3, 8, 8, 3), np.uint8), 8)


@pytest.mark.parametrize(("colour_type", "channels"), [(RGB, 3), (RGBA, 4)])
def test_colours_of_16_bits_of_which_8_are_read(tmp_path, when, colour_type, channels):
    """No white can bring back the lower 8 bits that Pillow drops."""
    values = np.repeat(levels(4095)[..., None], channels, -1)
    values[..., 3:] = 65535
    (tmp_path / "a.png").write_bytes(raw_png(values, 16, colour_type))
    with pytest.raises(ValueError, match=r"at most 4095 of 65535.*convert them to 8"):
        open_source(tmp_path, 4)
    whole = raw_png(np.where(values == 65535, 65535, values * 16), 16, colour_type)
    (tmp_path / "a.png").write_bytes(whole)
    assert first(open_source(tmp_path, 4)).max() == 4095 * 16 >> 8


def test_what_a_message_advises_helps(tmp_path, when, caplog):
    Image.fromarray(levels(4095).astype(np.uint16)).save(tmp_path / "a.png")
    with caplog.at_level(logging.WARNING):
        assert first(open_source(tmp_path, 4, white=4095)).max() == 255
        assert caplog.text == ""
        assert first(open_source(tmp_path, 4, white=65535)).max() == 16
    assert "4095 of 65535, though --white is 65535" in caplog.text


def test_a_given_white_that_leaves_a_set_dark_is_said(when, caplog):
    with caplog.at_level(logging.WARNING):
        open_source(np.full((2, 8, 8), 15, np.uint8), 8, white=4095)
    assert "15 of 255, though --white is 4095" in caplog.text


def test_one_bright_image_is_enough(tmp_path):
    for i in range(200):
        value = 200 if i == 123 else 3
        Image.new("L", (4, 4), value).save(tmp_path / f"{i:03d}.png")
    assert isinstance(open_source(tmp_path, 4), StoredImages)


@pytest.mark.parametrize("bright", range(3))
def test_a_few_images_are_looked_at_before_they_are_decoded(
        tmp_path, monkeypatch, bright):
    monkeypatch.setattr(opening, "MEMORY_LIMIT", 0)
    for i in range(3):
        Image.new("L", (4, 4), 200 if i == bright else 3).save(tmp_path / f"{i}.png")
    assert isinstance(open_source(tmp_path, 4), DecodedImages)


def test_few_bright_pixels_are_no_darkness(tmp_path, when, caplog):
    """Stars: the resize dims them, and no other white would be right."""
    sky = np.zeros((256, 256), np.uint8)
    sky[::64, ::64] = 255
    Image.fromarray(sky).save(tmp_path / "a.png")
    with caplog.at_level(logging.WARNING):
        assert first(open_source(tmp_path, 4)).max() < 32
    assert caplog.text == ""


def test_dark_ink_on_a_bright_background(tmp_path, when):
    """Black in every pixel, and not dark for that."""
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 2, 4))
    image.save(tmp_path / "a.png")
    assert first(open_source(tmp_path, 4)).max() == 255
    with pytest.raises(ValueError, match="is 0 of 255"):
        open_source(tmp_path, 4, background=(0, 0, 0))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_pixels_of_one_bit_are_black_and_white(tmp_path, when, suffix):
    image = Image.new("1", (4, 4), 0)
    image.paste(1, (0, 0, 2, 4))
    image.save(tmp_path / f"a.{suffix}")
    found = first(open_source(tmp_path, 4))
    assert found[:, 0].tolist() == [[255, 255, 0, 0]] * 3


# ---- the transparent value of a PNG

@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_transparent_grey(tmp_path, when, bits):
    """It is written in the bits of the file."""
    most = 2**bits - 1
    values = np.full((8, 8, 1), most)
    values[:4] = most // 2
    png = raw_png(values, bits, GREY, transparent=(most // 2,))
    (tmp_path / "a.png").write_bytes(png)
    found = first(open_source(tmp_path, 8, background=(10, 20, 30)))
    assert found[:, 0, 0].tolist() == [10, 20, 30]
    assert found[:, 7, 7].tolist() == [255, 255, 255]


def test_a_transparent_colour_of_16_bits(tmp_path, when):
    values = np.full((4, 4, 3), 60_000)
    values[:2] = (1000, 20_000, 30_000)
    png = raw_png(values, 16, RGB, transparent=(1000, 20_000, 30_000))
    (tmp_path / "a.png").write_bytes(png)
    found = first(open_source(tmp_path, 4, background=(10, 20, 30)))
    assert found[:, 0, 0].tolist() == [10, 20, 30]
    assert found[:, 3, 3].tolist() == [60_000 >> 8] * 3
