"""Chapter 13 says a few things about its generators and its exercise that no cell of the chapter checks."""

import torch

from book.records import record
from stylegan2.explore import along, draw_z, regress
from stylegan2.explore.directions import styles_of_layers
from stylegan2.generator import ToRGB
from stylegan2.weights import load


def test_every_second_layer_has_a_torgb() -> None:
    """"Layers 1, 3, 5 and 7 hold a toRGB"."""
    trained = load(record("toyfaces-32"))
    painting = {id(module.to_style) for module in trained.generator.modules() if isinstance(module, ToRGB)}
    found = {layer for layer, styles in styles_of_layers(trained).items() if painting & {id(style) for style in styles}}
    assert found == {1, 3, 5, 7}


def test_in_z_there_is_no_far_and_near() -> None:
    """"The mapping network first brings every z to the same length"."""
    trained = load(record("toyfaces-32"))
    z = draw_z(trained, 8)
    with torch.no_grad():
        torch.testing.assert_close(trained.mapping(3 * z), trained.mapping(z), atol=1e-5, rtol=1e-4)


def test_a_large_ridge_takes_the_number_that_moves_the_image() -> None:
    """What the solution of the exercise that breaks regression says of a ridge of 1."""
    t = torch.randn(4_000, generator=torch.Generator().manual_seed(0))
    w = torch.stack([t, 0.01 * torch.sin(2 * t)], dim=1)
    fit = regress(w, torch.sin(2 * w[:, :1]), ridge=1.0)
    assert fit.vectors[0, 0] > 0.99
    assert fit.scores[0] < 0.5
    step = along(w, fit.vectors) * fit.vectors[0]
    change = torch.sin(2 * (w + step)[:, 0]) - torch.sin(2 * (w - step)[:, 0])
    assert abs(change.mean() / 2 / torch.sin(2 * w[:, 0]).std()) > 0.1
