"""ToyFaces and image files."""

import io
import logging
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

from stylegan2.data import FACTORS, HAIR_STYLES, ToyFaces, draw_faces, open_source, shuffled_indices
from stylegan2.data.toyfaces import uniform


def test_a_face_depends_on_its_index_alone():
    small, large = ToyFaces(32, size=10), ToyFaces(32, size=1000)
    index = torch.tensor([7, 3])
    torch.testing.assert_close(small.images(index), large.images(torch.arange(10))[index])
    assert not torch.equal(ToyFaces(32, seed=1).images(index), small.images(index))


def split_mix_64(state):
    """Steele, Lea and Flood's generator, in Python's integers of any length."""
    mask = 2**64 - 1
    z = (state * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


@settings(max_examples=50, deadline=None)
@given(index=st.integers(0, 2**31), stream=st.integers(0, 40), seed=st.integers(0, 1000))
def test_the_same_faces_on_every_machine(index, stream, seed):
    """Factors come from 24 bits of an integer hash, which no machine's arithmetic can round differently."""
    expected = (split_mix_64(((seed * 1024 + stream) << 32) + index + 1) >> 40) / 2**24
    assert uniform(torch.tensor([index]), stream, seed).item() == expected


def test_factors_are_uniform_and_independent():
    factors = ToyFaces(8, size=20_000).factors(torch.arange(20_000))
    assert factors.keys() == FACTORS.keys()
    assert len(factors) >= 10
    for name, factor in FACTORS.items():
        values = factors[name].numpy()
        if factor.odds:
            shares = np.bincount(values.astype(int), minlength=len(factor.odds)) / len(values)
            np.testing.assert_allclose(shares, np.array(factor.odds) / sum(factor.odds), atol=0.015)
        else:
            uniform = stats.uniform(factor.low, factor.high - factor.low)
            assert stats.kstest(values, uniform.cdf).pvalue > 1e-4, name
    correlation = np.corrcoef(np.stack([v.numpy() for v in factors.values()]))
    assert np.abs(correlation - np.eye(len(correlation))).max() < 0.04


@pytest.mark.parametrize("name", FACTORS)
def test_every_factor_changes_the_image(name):
    """Between its ends (or its first and last level), with the others at a face on which it can be seen."""
    f = {key: torch.full([2], (factor.low + factor.high) / 2) for key, factor in FACTORS.items()}
    f |= {"hair": torch.ones(2), "glasses": torch.zeros(2), "beard": torch.zeros(2)}
    factor = FACTORS[name]
    high = (factor.low + factor.high) / 2 if name.endswith("hue") else factor.high  # hues are a circle
    f[name] = torch.tensor([0.0, len(factor.odds) - 1.0] if factor.odds else [factor.low, high])
    first, last = draw_faces(f, 64).float()
    assert (first - last).abs().amax() > 20


def test_faces_are_anti_aliased():
    """A large drawing, averaged down, is the small drawing but for what a pixel's width changes."""
    index = torch.arange(16)
    small, large = ToyFaces(32).images(index).float(), ToyFaces(256).images(index).float()
    averaged = torch.nn.functional.avg_pool2d(large, 8)
    assert (small - averaged).abs().mean() < 3  # of 255
    assert (small - averaged).square().mean().sqrt() < 8


def test_factors_come_with_the_images():
    faces = ToyFaces(16)
    images, factors = faces[torch.arange(5)]
    assert images.shape == (5, 3, 16, 16)
    assert images.dtype == torch.uint8
    torch.testing.assert_close(draw_faces(factors, 16), images)


@pytest.mark.parametrize("index", [[-1], [10]])
def test_an_index_outside(index):
    with pytest.raises(IndexError, match="this set has 0 to 9"):
        ToyFaces(8, size=10).images(torch.tensor(index))


def test_unknown_factors_are_named():
    factors = ToyFaces(8).factors(torch.arange(2))
    factors["horns"] = factors.pop("nose")
    with pytest.raises(KeyError, match=r"missing factors \['nose'\], unknown \['horns'\]"):
        draw_faces(factors, 8)


@settings(max_examples=30, deadline=None)
@given(size=st.integers(1, 40), position=st.integers(0, 200), count=st.integers(1, 50), seed=st.integers(0, 9))
def test_every_epoch_shows_every_image_once(size, position, count, seed):
    whole = shuffled_indices(size, 0, 250 // size * size + size, seed)
    for epoch in whole.split(size):
        assert sorted(epoch.tolist()) == list(range(size))
    torch.testing.assert_close(shuffled_indices(size, position, min(count, 250 - position), seed),
                               whole[position:position + min(count, 250 - position)])


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
    good = png(np.full((8, 8, 3), 9))
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
        archive.writestr("a.png", png(np.full((8, 8, 3), 1)))
        archive.writestr("b.png", png(np.full((8, 8, 3), 2)))
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 6] ^= 0xFF  # of a.png: its checksum no longer holds
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        assert len(open_source(path, 8)) == 1
    assert "a.png" in caplog.text


@pytest.mark.parametrize("resolution", [0, 2, 3, 48, -4])
def test_a_resolution_that_is_no_power_of_two(resolution):
    with pytest.raises(ValueError, match=f"resolution is {resolution}: it must be a power of two"):
        open_source("toyfaces", resolution)


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
