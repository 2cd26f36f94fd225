"""Interpolation, and the films that are made of it."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageSequence

from book.records import record
from stylegan2 import explore
from stylegan2.images import tile
from stylegan2.weights import load

VECTORS = st.integers(0, 2**20).map(lambda seed: torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(seed),
                                                              dtype=torch.float64))


@settings(max_examples=25, deadline=None)
@given(pair=VECTORS, t=st.floats(0, 1))
def test_slerp_is_shoemakes_formula(pair, t):
    a, b = torch.nn.functional.normalize(pair, dim=-1)
    angle = torch.arccos((a * b).sum(dim=-1, keepdim=True))
    expected = (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)
    torch.testing.assert_close(explore.slerp(a, b, t), expected)
    torch.testing.assert_close(explore.slerp(a, b, t).norm(dim=-1), torch.ones(5, dtype=torch.float64))


@settings(max_examples=25, deadline=None)
@given(pair=VECTORS, t=st.floats(0, 1))
def test_ends_and_lengths(pair, t):
    a, b = pair
    for blend in (explore.lerp, explore.slerp):
        torch.testing.assert_close(blend(a, b, 0.0), a)
        torch.testing.assert_close(blend(a, b, 1.0), b)
        torch.testing.assert_close(blend(a, b, t), blend(b, a, 1 - t))
    torch.testing.assert_close(explore.lerp(a, b, t), a + t * (b - a))
    torch.testing.assert_close(explore.slerp(a, b, t).norm(dim=-1), (1 - t) * a.norm(dim=-1) + t * b.norm(dim=-1))


def test_slerp_between_vectors_that_are_nearly_the_same():
    """In float32, where arccos of a scalar product of 1 − 1e-8 would be 0 or not a number."""
    a = torch.randn(4, 512)
    torch.testing.assert_close(explore.slerp(a, a, 0.3), a)
    b = a + 1e-4 * torch.randn(4, 512)
    torch.testing.assert_close(explore.slerp(a, b, 0.5), (a + b) / 2, atol=1e-6, rtol=0)


def test_slerp_takes_a_t_for_each_vector():
    a, b, t = torch.randn(3, 6), torch.randn(3, 6), torch.tensor([0.0, 0.25, 1.0])
    each = torch.stack([explore.slerp(a[i], b[i], t[i].item()) for i in range(3)])
    torch.testing.assert_close(explore.slerp(a, b, t[:, None]), each)


def test_slerp_does_not_know_the_way_to_the_opposite():
    with pytest.raises(ValueError, match="opposite"):
        explore.slerp(torch.ones(1, 4), -torch.ones(1, 4), 0.5)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(2, 5), steps=st.integers(8, 20))
def test_a_loop_goes_through_its_keyframes_and_closes_without_a_jump(n, steps):
    keyframes = torch.randn(n, 3, 6, generator=torch.Generator().manual_seed(n))
    frames = explore.loop(keyframes, steps)
    assert frames.shape == (n * steps, 3, 6)
    torch.testing.assert_close(frames[::steps], keyframes)
    speed = (frames.roll(-1, dims=0) - frames).norm(dim=-1)  # the last is the step back to the first frame
    assert (speed[-1] < 0.5 * speed.max(dim=0).values).all()
    assert (speed[-1] > 0).all()  # the first frame does not come twice
    # Slow at every keyframe, so that the change of direction there is no kink.
    at_keyframes = torch.cat([speed[::steps], speed[steps - 1::steps]])
    assert (at_keyframes <= 0.5 * speed.max(dim=0).values).all()


def test_loops_on_the_sphere():
    keyframes = torch.nn.functional.normalize(torch.randn(4, 2, 16), dim=-1)
    torch.testing.assert_close(explore.loop(keyframes, 10, explore.slerp).norm(dim=-1), torch.ones(40, 2))


@pytest.mark.parametrize(("n", "steps"), [(1, 5), (3, 0)])
def test_a_loop_needs_keyframes_and_steps(n, steps):
    with pytest.raises(ValueError, match="a loop needs"):
        explore.loop(torch.zeros(n, 4), steps)


def test_film_shows_the_cells_of_a_frame():
    faces = load(record("toyfaces-32"))
    w = explore.loop(explore.draw_w(faces, 6, psi=0.7)[0].unflatten(0, (2, 3)), 2)  # [4 frames, 3 cells, d]
    pictures = list(explore.film(faces, w, columns=2))
    assert [picture.size for picture in pictures] == [(2 * 96, 2 * 96)] * 4
    expected = tile(explore.synthesize(faces, explore.per_layer(faces, w[1])), 2)
    assert pictures[1].resize(expected.size, Image.Resampling.NEAREST).tobytes() == expected.tobytes()


def frames_of(path):
    with Image.open(path) as film:
        return [(np.asarray(frame.convert("RGB"), dtype=int), frame.info["duration"])
                for frame in ImageSequence.Iterator(film)], film.info.get("loop")


def moving_square(count, side=32):
    pictures = []
    for i in range(count):
        pixels = np.full((side, side, 3), 30, dtype=np.uint8)
        pixels[8:16, i:i + 8] = (200, 40, 90)
        pictures.append(Image.fromarray(pixels))
    return pictures


@pytest.mark.parametrize(("suffix", "fps", "duration"), [
    (".gif", 20, 50), (".gif", 30, 30), (".gif", 100, 20), (".webp", 25, 40), (".webp", 60, 17)])
def test_a_film_read_back(tmp_path, suffix, fps, duration):
    pictures, path = moving_square(12), tmp_path / "new" / f"film{suffix}"
    explore.save_animation(iter(pictures), path, fps)
    frames, loop = frames_of(path)
    assert loop == 0  # for ever
    assert [milliseconds for _, milliseconds in frames] == [duration] * 12
    for (pixels, _), picture in zip(frames, pictures, strict=True):
        assert np.abs(pixels - np.asarray(picture, dtype=int)).mean() < 4


def test_an_mp4_read_back(tmp_path):
    av = pytest.importorskip("av")
    explore.save_animation(iter(moving_square(12)), tmp_path / "film.mp4", 24)
    with av.open(str(tmp_path / "film.mp4")) as film:
        stream = film.streams.video[0]
        assert (stream.average_rate, stream.codec_context.name, stream.pix_fmt) == (24, "h264", "yuv420p")
        decoded = [frame.to_ndarray(format="rgb24").astype(int) for frame in film.decode(video=0)]
    for pixels, picture in zip(decoded, moving_square(12), strict=True):
        assert np.abs(pixels - np.asarray(picture, dtype=int)).mean() < 4


def test_what_cannot_be_filmed(tmp_path, monkeypatch):
    for suffix in (".gif", ".webp", ".mp4"):
        with pytest.raises(ValueError, match="no frame"):
            explore.save_animation([], tmp_path / f"film{suffix}")
    with pytest.raises(ValueError, match=r"\.gif, \.webp, \.mp4, not in \.avi"):
        explore.save_animation(moving_square(2), tmp_path / "film.avi")
    with pytest.raises(ValueError, match="fps is 0"):
        explore.save_animation(moving_square(2), tmp_path / "film.gif", fps=0)
    with pytest.raises(ValueError, match="both sides must be even"):
        explore.save_animation(moving_square(2, side=31), tmp_path / "film.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match="pip install av"):
        explore.save_animation(moving_square(2), tmp_path / "film.mp4")
    assert not list(tmp_path.iterdir())
