"""Projection of an image into w."""

import math

import numpy as np
import pytest
import torch

from book.records import record
from stylegan2 import Generator, MappingNetwork, explore
from stylegan2.data import ToyFaces
from stylegan2.explore.project import autocorrelation, rate, whiten
from stylegan2.images import to_float
from stylegan2.training.config import Settings
from stylegan2.weights import TrainedGenerator, load


def tiny(resolution=16, noise=False):
    torch.manual_seed(0)
    options = Settings(resolution=resolution, n_features=4, max_features=8, d_latent=8, mapping_layers=2, noise=noise)
    trained = TrainedGenerator(options, MappingNetwork(8, 2), Generator(options.log_resolution, 8, 4, 8)).eval()
    for name, parameter in trained.generator.named_parameters():
        if name.endswith("noise_strength"):
            parameter.data.fill_(0.1)
    return trained


@pytest.fixture(scope="module")
def faces():
    return load(record("toyfaces-32"))


def test_an_image_of_the_generators_own_is_found_again(faces):
    w = explore.draw_w(faces, 2, seed=11)
    found = explore.project(faces, explore.synthesize(faces, w), steps=100)
    assert (found.distances < found.history[0] / 20).all()
    torch.testing.assert_close(explore.synthesize(faces, found.w), found.images, atol=1e-4, rtol=0)
    # Each target got its own w, nearer to the true one than the other's, and the same in every layer.
    assert (found.w - found.w[:1]).abs().max() == 0
    apart = (found.w[0][:, None] - w[0][None]).norm(dim=-1)
    assert apart[0, 0] < apart[0, 1]
    assert apart[1, 1] < apart[1, 0]


def test_a_drawn_face_is_met_nearer_with_a_w_per_layer(faces):
    target = to_float(ToyFaces(32).images(torch.tensor([7])))
    one, free = (explore.project(faces, target, steps=80, free_layers=layers) for layers in (False, True))
    assert free.distances < 0.8 * one.distances
    assert (free.w - free.w[:1]).abs().max() > 0.1


@pytest.mark.parametrize("noise", [False, True])
def test_a_projection_repeats(noise):
    trained, target = tiny(noise=noise), torch.rand(1, 3, 16, 16) * 2 - 1
    with torch.no_grad():  # as in most notebooks
        first, second, third = (explore.project(trained, target, steps=12, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.w, second.w)
    assert torch.equal(first.history, second.history)
    assert not torch.equal(first.w, third.w)
    assert first.history.shape == (12, 1)
    assert all(p.grad is None for p in trained.parameters())
    torch.testing.assert_close(trained.generator(first.w, first.noise), first.images)


def test_noise_maps_are_searched_and_stay_white():
    """With a weight of 0 on whiteness the maps paint the image: nearer to the target, and far from white."""
    trained, target = tiny(noise=True), torch.rand(1, 3, 16, 16) * 2 - 1
    before = [buffer.clone() for buffer in trained.generator.buffers()]
    white, painted = (explore.project(trained, target, steps=60, noise_weight=weight) for weight in (1e5, 0.0))
    maps = [[m for pair in found.noise for m in pair if m is not None] for found in (white, painted)]
    assert len(maps[0]) == 5
    for noise in maps[0]:
        assert noise.mean().abs() < 1e-5
        torch.testing.assert_close(noise.std(correction=0), torch.tensor(1.0))
    assert sum(map(autocorrelation, maps[0])) < 0.1 * sum(map(autocorrelation, maps[1]))
    assert all(torch.equal(a, b) for a, b in zip(before, trained.generator.buffers(), strict=True))


def test_the_own_distance_is_used():
    """Told to look at the mean colour alone, the projection matches the mean colour."""
    def colour(a, b):
        return (a.mean(dim=(2, 3)) - b.mean(dim=(2, 3))).square().sum(dim=1)

    trained, target = tiny(), torch.tensor([0.3, 0.1, -0.2])[None, :, None, None].expand(1, 3, 16, 16)
    found = explore.project(trained, target, steps=200, distance=colour)
    assert found.distances < 1e-2 * found.history[0]
    torch.testing.assert_close(found.distances, colour(found.images, target))


def test_pyramid_distance():
    a, b = torch.rand(2, 2, 3, 16, 16, dtype=torch.float64)
    levels = []
    for size in (16, 8, 4):  # averaged in numpy
        small = [x.numpy().reshape(2, 3, size, 16 // size, size, 16 // size).mean(axis=(3, 5)) for x in (a, b)]
        levels.append(np.abs(small[0] - small[1]).mean(axis=(1, 2, 3)))
    np.testing.assert_allclose(explore.pyramid_distance(a, b), np.mean(levels, axis=0))


def test_a_pyramid_sees_how_far_a_line_is_off():
    """Pixels at full size call a line one pixel off as wrong as one that is ten pixels off."""
    lines = torch.zeros(3, 3, 32, 32)
    for image, column in zip(lines, (8, 9, 18), strict=True):
        image[:, :, column] = 1
    near, far = explore.pyramid_distance(lines[1:], lines[:1].expand(2, -1, -1, -1))
    assert near < 0.6 * far


def test_the_learning_rate_goes_up_and_comes_down():
    assert rate(0.0) == 0
    assert rate(0.05) == rate(0.5) == rate(0.75) == 1
    assert rate(0.025) == 0.5
    assert rate(0.875) == pytest.approx(0.5)
    assert rate(1.0) == 0
    assert rate(0.8125) == pytest.approx(0.5 + 0.5 * math.cos(math.pi / 4))


def test_autocorrelation_in_numpy():
    noise = torch.randn(2, 1, 16, 16, dtype=torch.float64)
    total = 0.0
    for sample in noise[:, 0].numpy():
        for size in (16, 8):
            k = 16 // size
            small = sample.reshape(size, k, size, k).sum(axis=(1, 3)) / k
            for axis in (0, 1):
                total += np.mean(small * np.roll(small, 1, axis)) ** 2
    assert autocorrelation(noise).item() == pytest.approx(total)
    flat = torch.ones(1, 1, 32, 32)
    assert autocorrelation(flat) > 100 * autocorrelation(torch.randn(1, 1, 32, 32))


def test_whiten():
    maps = [3 + 2 * torch.randn(2, 1, 8, 8), torch.randn(2, 1, 4, 4) - 1]
    whiten(maps)
    for noise in maps:
        torch.testing.assert_close(noise.mean(dim=(1, 2, 3)), torch.zeros(2), atol=1e-6, rtol=0)
        torch.testing.assert_close(noise.square().mean(dim=(1, 2, 3)), torch.ones(2))


def test_targets_of_another_size():
    with pytest.raises(ValueError, match=r"targets are 8 × 8 .* makes images of 16 × 16"):
        explore.project(tiny(), torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="at least one step"):
        explore.project(tiny(), torch.zeros(1, 3, 16, 16), steps=0)
