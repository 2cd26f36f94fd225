"""Directions in w."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from book.records import record
from stylegan2 import Generator, MappingNetwork, explore
from stylegan2.explore.directions import styles_of_layers
from stylegan2.training.config import Settings
from stylegan2.weights import TrainedGenerator, load


def tiny():
    torch.manual_seed(0)
    options = Settings(resolution=16, n_features=4, max_features=8, d_latent=8, mapping_layers=2)
    return TrainedGenerator(options, MappingNetwork(8, 2), Generator(4, 8, 4, 8)).eval()


@pytest.fixture(scope="module")
def faces():
    return load(record("toyfaces-32"))


def test_which_styles_a_layer_has():
    """As the paper has it: 4² has one convolution, every other resolution two, and toRGB shares the next one's w."""
    trained = tiny()
    generator, blocks = trained.generator, trained.generator.blocks
    expected = [[generator.style_block], [generator.to_rgb, blocks[0].style_block1], [blocks[0].style_block2],
                [blocks[0].to_rgb, blocks[1].style_block1], [blocks[1].style_block2], [blocks[1].to_rgb]]
    found = styles_of_layers(trained)
    assert found.keys() == set(range(6))
    for layer, modules in enumerate(expected):
        assert {id(style) for style in found[layer]} == {id(module.to_style) for module in modules}
    assert not any(module._forward_pre_hooks for module in trained.modules())


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**20), first=st.integers(0, 5), length=st.integers(1, 6))
def test_no_direction_changes_the_styles_more_than_sefas_first(seed, first, length):
    trained = tiny()
    layers = range(first, min(6, first + length))
    found = explore.sefa(trained, layers, 3)
    zero = torch.zeros(1, 8)

    def change(n):
        """‖A n‖: how far the styles of the layers move, by running their affine maps."""
        styles = [style for layer in layers for style in styles_of_layers(trained)[layer]]
        return torch.cat([style(n[None]) - style(zero) for style in styles], dim=1).norm()

    n = torch.nn.functional.normalize(torch.randn(8, generator=torch.Generator().manual_seed(seed)), dim=0)
    assert change(n) <= found.scores[0] + 1e-5
    for vector, score in zip(found.vectors, found.scores, strict=True):
        torch.testing.assert_close(change(vector), score, atol=1e-5, rtol=1e-5)
    beside = n - found.vectors[0] * (n @ found.vectors[0])  # orthogonal to the first: no better than the second
    assert change(beside) <= found.scores[1] * beside.norm() + 1e-5


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**20), shift=st.floats(-5, 5))
def test_pca_is_numpys(seed, shift):
    rng = np.random.default_rng(seed)
    w = rng.normal(size=(60, 6)) @ rng.normal(size=(6, 6)) + shift
    variances, vectors = np.linalg.eigh(np.cov(w.T))
    found = explore.pca(torch.from_numpy(w), 6)
    np.testing.assert_allclose(found.scores, np.sqrt(variances[::-1]), rtol=1e-6)
    np.testing.assert_allclose(np.abs((found.vectors.numpy() * vectors.T[::-1]).sum(axis=1)), 1, rtol=1e-6)
    largest = found.vectors.abs().argmax(dim=1)
    assert (found.vectors[torch.arange(6), largest] > 0).all()  # the same sign on every machine
    torch.testing.assert_close(explore.along(torch.from_numpy(w), found.vectors), found.scores)


@pytest.mark.parametrize("count", [0, 9])
def test_as_many_directions_as_there_are(count):
    for find in (lambda: explore.sefa(tiny(), range(6), count), lambda: explore.pca(torch.randn(50, 8), count)):
        with pytest.raises(ValueError, match=f"count is {count}: there are 1 to 8 directions"):
            find()


def test_layers_without_styles():
    with pytest.raises(ValueError, match="no style reads the w of layers 6 to 7"):
        explore.sefa(tiny(), range(6, 8), 1)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**20))
def test_regression_finds_a_planted_direction(seed):
    """factor = w·n + noise of half its standard deviation: R² = 1/(1 + 1/4)."""
    source = torch.Generator().manual_seed(seed)
    w = torch.randn(4000, 8, generator=source) + 3
    n = torch.nn.functional.normalize(torch.randn(8, generator=source), dim=0)
    noise = torch.randn(4000, 2, generator=source)
    factors = torch.stack([5 * (w @ n + 0.5 * noise[:, 0]) - 2, noise[:, 1]], dim=1)  # the second is not in w at all
    found = explore.regress(w, factors)
    assert found.vectors[0] @ n > 0.99
    assert found.scores[0] == pytest.approx(0.8, abs=0.05)
    assert found.scores[1] < 0.02
    torch.testing.assert_close(found.vectors.norm(dim=1), torch.ones(2))


def test_without_ridge_regression_is_least_squares():
    w, factors = torch.randn(40, 5).double(), torch.randn(40, 2).double()
    design = np.column_stack([w[:30].numpy(), np.ones(30)])
    beta = np.linalg.lstsq(design, factors[:30].numpy(), rcond=None)[0]
    predicted = np.column_stack([w[30:].numpy(), np.ones(10)]) @ beta
    held_out = factors[30:].numpy()
    r_squared = 1 - ((held_out - predicted) ** 2).sum(axis=0) / ((held_out - held_out.mean(axis=0)) ** 2).sum(axis=0)
    found = explore.regress(w, factors, ridge=0.0)
    np.testing.assert_allclose(found.scores, r_squared)
    np.testing.assert_allclose(found.vectors, (beta[:5] / np.linalg.norm(beta[:5], axis=0)).T)


def test_what_regression_cannot_do():
    with pytest.raises(ValueError, match="too few for a fit"):
        explore.regress(torch.randn(4, 2), torch.randn(4, 1))
    with pytest.raises(ValueError, match=r"factors \[1\] are the same in all samples"):
        explore.regress(torch.randn(40, 2), torch.stack([torch.randn(40), torch.ones(40)], dim=1))


def test_moving_touches_its_layers_only():
    w, direction = torch.randn(6, 2, 8), torch.randn(8)
    moved = explore.move(w, direction, -2.0, range(1, 3))
    assert torch.equal(moved[0], w[0])
    assert torch.equal(moved[3:], w[3:])
    torch.testing.assert_close(moved[1:3], w[1:3] - 2 * direction)


def corner_and_middle(images):
    """Brightness of the upper left corner, which is background, and of the middle, which is skin."""
    return torch.stack([images[..., :4, :4].mean(dim=(1, 2, 3)), images[..., 14:22, 12:20].mean(dim=(1, 2, 3))], dim=1)


def test_directions_of_measured_factors_change_them_and_little_else(faces):
    w = explore.draw_w(faces, 300, seed=3)
    found = explore.regress(w[0], corner_and_middle(explore.synthesize(faces, w)))
    assert (found.scores > 0.4).all()
    sample, everywhere = w[:, :40], range(faces.generator.n_layers)
    effect = explore.effects(faces, corner_and_middle, sample, found.vectors,
                             explore.along(w[0], found.vectors), everywhere)
    assert (effect.diagonal() > 0.1).all()
    assert (effect.fliplr().diagonal().abs() < 0.5 * effect.diagonal()).all()
    # The grid of moves: in the middle w itself, to the right brighter corners.
    grid = explore.move_grid(faces, sample[:, :4], found.vectors[0], [-2.0, 0.0, 2.0], everywhere)
    torch.testing.assert_close(grid[:, 1], explore.synthesize(faces, sample[:, :4]), atol=1e-4, rtol=0)
    corners = torch.stack([corner_and_middle(images)[:, 0].mean() for images in grid.unbind(dim=1)])
    assert corners[0] < corners[1] < corners[2]


def test_effects_by_hand():
    trained = tiny()
    w, vectors = explore.draw_w(trained, 5), torch.eye(8)[:2]
    effect = explore.effects(trained, corner_and_middle_16, w, vectors, torch.tensor([0.5, 2.0]), range(2, 4))
    spread = corner_and_middle_16(explore.synthesize(trained, w)).std(dim=0)
    for i, amount in enumerate((0.5, 2.0)):
        high, low = w.clone(), w.clone()
        high[2:4, :, i] += amount
        low[2:4, :, i] -= amount
        change = corner_and_middle_16(explore.synthesize(trained, high)) - corner_and_middle_16(
            explore.synthesize(trained, low))
        torch.testing.assert_close(effect[i], (change / 2).mean(dim=0) / spread, atol=1e-5, rtol=1e-4)


def corner_and_middle_16(images):
    return torch.stack([images[..., :2, :2].mean(dim=(1, 2, 3)), images[..., 6:10, 6:10].mean(dim=(1, 2, 3))], dim=1)


def test_a_factor_that_never_changes_has_no_effects():
    trained = tiny()
    with pytest.raises(ValueError, match=r"factors \[0\] are the same in all images"):
        explore.effects(trained, lambda images: torch.ones(len(images), 1), explore.draw_w(trained, 3),
                        torch.eye(8)[:1], torch.ones(1), range(6))
