"""The generator on the page against the one in torch."""

import json

import numpy as np
import pytest
import torch

from book.playground import images
from book.records import record
from stylegan2.images import to_uint8
from stylegan2.weights import load

SET = """(figure, values) => {
  for (const [name, value] of Object.entries(values)) {
    const slider = figure.querySelector(`input[name="${name}"]`);
    slider.value = value;
    slider.dispatchEvent(new Event("input"));
  }
  return figure.playground.drawing;
}"""
READ = """figure => [...figure.querySelectorAll("canvas")].map(canvas =>
  [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data])"""


@pytest.fixture(scope="module")
def figure(browser, site):
    page = browser.new_page()
    page.goto(f"{site}/chapters/welcome.html")
    page.wait_for_load_state("networkidle")
    yield page.locator("figure.playground").element_handle()
    page.close()


@pytest.fixture(scope="module")
def given(figure):
    return json.loads(figure.query_selector('script[type="application/json"]').text_content())


def drawn(figure):
    pixels = np.array(figure.evaluate(READ), dtype=np.uint8)  # [3, side² · 4]
    side = round((pixels.shape[1] / 4) ** 0.5)
    rgba = pixels.reshape(3, side, side, 4)
    assert (rgba[..., 3] == 255).all()
    return rgba[..., :3].transpose(0, 3, 1, 2).astype(int)


@pytest.mark.parametrize(("psi", "crossover", "moved"), [(0.8, 4, 0.0), (0.0, 0, 0.0), (1.2, 8, 0.0), (0.5, 1, -1.5)])
def test_the_browser_draws_what_torch_draws(figure, given, psi, crossover, moved):
    """To one level of 255: the sums run in another order."""
    values = {"psi": psi, "crossover": crossover}
    values |= {name: moved * (-1) ** i for i, name in enumerate(given["directions"])}
    figure.evaluate(SET, values)
    directions = {name: torch.tensor(vector) for name, vector in given["directions"].items()}
    expected = images(load(record("toyfaces-32")), torch.tensor(given["z"]), values, directions)
    assert np.abs(drawn(figure) - to_uint8(expected).numpy().astype(int)).max() <= 1


def test_buttons(figure):
    """Another face changes that face and the mixture; the controls go back to where they were."""
    figure.evaluate(SET, {"crossover": 4, "psi": 0.8})
    before = drawn(figure)
    figure.query_selector('button[data-face="1"]').click()
    figure.evaluate("figure => figure.playground.drawing")
    changed = np.abs(drawn(figure) - before).mean(axis=(1, 2, 3))
    assert changed[0] > 1
    assert changed[1] == 0
    assert changed[2] > 1
    figure.query_selector("button[data-reset]").click()
    figure.evaluate("figure => figure.playground.drawing")
    assert figure.query_selector('input[name="psi"]').input_value() == "0.8"
    np.testing.assert_array_equal(drawn(figure)[2], before[2])
    assert "ms, in this browser" in figure.query_selector("[role=status]").text_content()
