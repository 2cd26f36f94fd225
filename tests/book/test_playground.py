"""The notebook's half; tests/site/test_playground.py holds the page's."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from book.playground import SCALE, images, playground
from book.records import record
from stylegan2.explore import draw_z
from stylegan2.images import tile
from stylegan2.weights import load, sample

FACES = record("toyfaces-32")
DIRECTIONS = {"up": torch.ones(128) / 10}


def test_the_mixture_at_its_ends():
    """With all layers of a face the mixture is that face, and a direction moves nothing but the mixture."""
    trained = load(FACES)
    z = draw_z(trained, 2, 3)
    for crossover, face in ((0, 2), (8, 1)):
        drawn = images(trained, z, {"psi": 0.7, "crossover": crossover, "up": 0.0}, DIRECTIONS)
        torch.testing.assert_close(drawn[0], drawn[face], atol=1e-5, rtol=0)
        torch.testing.assert_close(drawn[1:], sample(trained, 2, psi=0.7, seed=3), atol=1e-5, rtol=0)
    moved = images(trained, z, {"psi": 0.7, "crossover": 8, "up": 1.0}, DIRECTIONS)
    assert (moved[0] - drawn[0]).abs().mean() > 0.01
    torch.testing.assert_close(moved[1:], drawn[1:])


def test_in_a_notebook_the_kernel_draws(monkeypatch):
    monkeypatch.delenv("BOOK_STATIC", raising=False)
    picture, buttons, *controls = playground(FACES, DIRECTIONS, seed=3).children
    psi = next(control for control in controls if control.description == "truncation ψ")
    psi.value = 0.0
    trained = load(FACES)
    nobody = tile(trained(draw_z(trained, 1, 0), 0.0).repeat(3, 1, 1, 1), columns=3)
    shown = Image.open(io.BytesIO(picture.value))
    assert shown.size == (SCALE * nobody.width, SCALE * nobody.height)
    difference = np.asarray(shown.resize(nobody.size, Image.Resampling.NEAREST), float) - np.asarray(nobody, float)
    assert np.abs(difference).max() <= 1
    psi.value = 1.0
    before = picture.value
    buttons.children[0].click()
    assert picture.value != before


def test_networks_that_the_browser_does_not_know():
    with pytest.raises(ValueError, match="stylegan-toyfaces-32 has noise True, generator plain, style adain"):
        playground(record("stylegan-toyfaces-32"), DIRECTIONS)
