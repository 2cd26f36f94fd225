"""ToyFaces, and the order of training."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from stylegan2.data import FACTORS, HAIR_STYLES, ToyFaces, draw_faces, open_source, shuffled_indices
from stylegan2.data.shapes import Canvas, Frame, ellipse
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
    assert uniform(torch.tensor([index]), torch.tensor([[stream]]), seed).item() == expected


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


@pytest.mark.parametrize("resolution", [4, 32])
@pytest.mark.parametrize("batch", [1, 40])
def test_shapes_have_no_part_outside_their_area(monkeypatch, resolution, batch):
    """Each shape is drawn on a small area only; on the whole canvas it gives the same image, bit for bit."""
    index = torch.arange(min(40, 10 * batch)).split(batch)
    faces = ToyFaces(resolution)
    small = torch.cat([faces.images(i) for i in index])
    monkeypatch.setattr(Frame, "around", lambda frame, *circle: frame)
    torch.testing.assert_close(small, torch.cat([faces.images(i) for i in index]), rtol=0, atol=0)


@settings(max_examples=30, deadline=None)
@given(x=st.floats(-1, 1), y=st.floats(-1, 1), a=st.floats(0.02, 0.9), ratio=st.floats(1, 15), angle=st.floats(-3, 3))
def test_the_area_of_an_ellipse(x, y, a, ratio, angle):
    """Thin ones too, whose distance grows slowly beside their ends."""
    canvas = Canvas(32, torch.zeros(1, 3))
    frame = canvas.place(torch.tensor([x]), torch.tensor([y]), torch.tensor([0.8]), torch.tensor([angle]))
    found = ellipse(frame, 0.1, -0.1, a, a / ratio)
    u, v = frame.x.double() - 0.1, frame.y.double() + 0.1
    value = ((u / a) ** 2 + (v * ratio / a) ** 2).sqrt()
    slope = ((u / a**2) ** 2 + (v * ratio**2 / a**2) ** 2).sqrt() / value
    whole = (0.5 - (value - 1) / slope * frame.pixels).clamp(0, 1).float()
    area = torch.zeros(1, 32, 32)
    area[:, found.where[0], found.where[1]] = found.coverage
    torch.testing.assert_close(area, whole, rtol=0, atol=1e-3)


def test_factors_come_with_the_images():
    faces = ToyFaces(16)
    images, factors = faces[torch.arange(5)]
    assert images.shape == (5, 3, 16, 16)
    assert images.dtype == torch.uint8
    torch.testing.assert_close(draw_faces(factors, 16), images)


def test_faces_have_a_class_by_their_hair():
    faces, index = ToyFaces(8), torch.arange(500)
    assert faces.class_names == HAIR_STYLES
    assert faces.n_classes == 5
    torch.testing.assert_close(faces.labels(index), faces.factors(index)["hair"].long())
    assert set(faces.labels(index).tolist()) == set(range(5))


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


@pytest.mark.parametrize("resolution", [0, 2, 3, 48, -4])
def test_a_resolution_that_is_no_power_of_two(resolution):
    with pytest.raises(ValueError, match=f"resolution is {resolution}: it must be a power of two"):
        open_source("toyfaces", resolution)
