"""What explores a generator explores each of them: three generations, grown or half grown, with noise or without."""

import pytest
import torch

from stylegan2 import Generator, MappingNetwork, explore
from stylegan2.explore.directions import styles_of_layers
from stylegan2.explore.latents import as_noise, stored_maps
from stylegan2.generator import ResidualGenerator, StyleBlock
from stylegan2.progressive import ProgressiveGenerator
from stylegan2.stylegan1 import AdaINBlock, GrowingGenerator
from stylegan2.training.config import Settings
from stylegan2.weights import TrainedGenerator

SIZES = (4, 8, 4, 8)  # 16 × 16 pixels, w of 8 numbers
GENERATORS = {
    "skip": lambda: Generator(*SIZES), "skip, AdaIN": lambda: Generator(*SIZES, style_block=AdaINBlock),
    "residual": lambda: ResidualGenerator(*SIZES), "StyleGAN": lambda: GrowingGenerator(*SIZES, style_block=AdaINBlock),
    "growing": lambda: GrowingGenerator(*SIZES, style_block=StyleBlock), "ProGAN": lambda: ProgressiveGenerator(*SIZES),
}
each = pytest.mark.parametrize("name", GENERATORS)


def trained_as(name, noise=True, n_classes=0):
    torch.manual_seed(0)
    settings = Settings(resolution=16, n_features=4, max_features=8, d_latent=8, mapping_layers=2, noise=noise)
    mapping = MappingNetwork(8, 0 if name == "ProGAN" else 2, n_classes=n_classes)
    trained = TrainedGenerator(settings, mapping, GENERATORS[name]()).eval()
    for parameter_name, parameter in trained.generator.named_parameters():
        if parameter_name.endswith("noise_strength"):
            parameter.data.fill_(0.5)
    return trained


@each
def test_every_layer_has_its_styles(name):
    """The directions that no style of a layer sees change nothing; the strongest change the image."""
    trained = trained_as(name, noise=False)
    n = trained.generator.n_layers
    assert styles_of_layers(trained).keys() == set(range(n))
    w = explore.draw_w(trained, 2)
    images = explore.synthesize(trained, w)
    for layer in range(n):
        vector = explore.sefa(trained, range(layer, layer + 1), 1).vectors[0]
        assert not torch.equal(explore.synthesize(trained, explore.move(w, vector, 1.0, range(layer, layer + 1))),
                               images)


@each
def test_stored_noise_by_layer_is_stored_noise(name):
    trained = trained_as(name)
    w, maps = explore.draw_w(trained, 2), stored_maps(trained)
    assert len(maps) == {"ProGAN": 0, "StyleGAN": 6}.get(name, 5)
    torch.testing.assert_close(trained.generator(w, as_noise(maps)), trained.generator(w, "const"))
    if maps:
        assert (explore.noise_variation(trained, w, draws=2).amax(dim=(1, 2, 3)) > 0).all()
    else:
        with pytest.raises(ValueError, match="without noise"):
            explore.noise_variation(trained, w)


@each
def test_projection(name):
    trained = trained_as(name)
    w = explore.draw_w(trained, 1, seed=4)
    found = explore.project(trained, explore.synthesize(trained, w), steps=30, free_layers=True)
    assert found.w.shape == (trained.generator.n_layers, 1, 8)
    assert (found.distances < 0.8 * found.history[0]).all()


def test_without_layers_nothing_is_mixed():
    trained = trained_as("ProGAN")
    w = explore.draw_w(trained, 2)
    with pytest.raises(ValueError, match="n_layers is 1"):
        explore.mixing_grid(trained, w, w, range(1))
    with pytest.raises(ValueError, match="no styles"):
        explore.layer_range(trained, "coarse")
    assert explore.layer_range(trained, "all") == range(1)


@pytest.mark.parametrize("name", ["StyleGAN", "growing", "ProGAN"])
@pytest.mark.parametrize(("stage", "side"), [(0.0, 4), (0.5, 8), (1.0, 8)])
def test_half_grown(name, stage, side):
    trained = trained_as(name)
    trained.generator.stage = stage
    w = explore.draw_w(trained, 2)
    images = explore.synthesize(trained, w)
    assert images.shape == (2, 3, side, side)
    assert explore.image_side(trained) == side
    assert explore.project(trained, images, steps=3).images.shape == images.shape
    styles = styles_of_layers(trained)
    assert 0 in styles
    if name != "ProGAN":
        assert trained.generator.n_layers - 1 not in styles  # the last layers are not there yet


def test_classes():
    trained = trained_as("skip", n_classes=3)
    a, b = (explore.draw_w(trained, 2, label=label) for label in (0, 2))
    assert (a - b).abs().max() > 0.1
    torch.testing.assert_close(a[0], trained.mapping(explore.draw_z(trained, 2), torch.tensor([0, 0])))
    image = explore.synthesize(trained, a[:, :1])
    assert explore.project(trained, image, steps=2, label=0).history.shape == (2, 1)
    for label in (None, 3):
        with pytest.raises(ValueError, match="labels"):
            explore.draw_w(trained, 1, label=label)
