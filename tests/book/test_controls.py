import base64
import io
import json
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
from bs4 import BeautifulSoup
from PIL import Image

from book.controls import MOST_FRAMES, explore


def grey(level, step=0):
    """A figure that is one shade of grey, so that a frame can be told by its middle pixel."""
    figure = plt.figure(figsize=(1, 1))
    shade = (level + step) / 255
    figure.add_axes((0, 0, 1, 1), facecolor=(shade, shade, shade)).set(xticks=[], yticks=[])
    return figure


def shade(address):
    image = Image.open(io.BytesIO(base64.b64decode(address.split(",", 1)[1])))
    return int(np.asarray(image.convert("L"))[image.height // 2, image.width // 2])


@pytest.fixture
def twin(monkeypatch):
    monkeypatch.setenv("BOOK_STATIC", "1")
    return BeautifulSoup(explore(grey, alt="A <shade>", level=[40, 120], step=[0.0, 20.0, 40.0]).data, "html.parser")


def test_twin_has_a_slider_for_each_parameter(twin):
    sliders = twin.select("label > input[type=range]")
    assert [(slider["min"], slider["max"], slider["value"]) for slider in sliders] == [("0", "1", "0"), ("0", "2", "0")]
    assert [name.get_text() for name in twin.select(".explore-name")] == ["level", "step"]
    assert [shown.get_text() for shown in twin.select("output")] == ["40", "0"]


def test_twin_carries_every_frame_last_parameter_fastest(twin):
    data = json.loads(twin.select_one('script[type="application/json"]').get_text())
    shades = [shade(frame) for frame in data["frames"]]
    np.testing.assert_allclose(shades, [40, 60, 80, 120, 140, 160], atol=2)
    assert data["parameters"] == [
        {"name": "level", "values": ["40", "120"]},
        {"name": "step", "values": ["0", "20", "40"]},
    ]


def test_twin_shows_its_first_frame_without_a_script(twin):
    image = twin.select_one("img")
    assert shade(image["src"]) == pytest.approx(40, abs=2)
    assert image["alt"] == "A <shade> (level = 40, step = 0)"


def test_twin_needs_no_widgets():
    script = """if True:
        import os, sys
        os.environ["BOOK_STATIC"] = "1"
        import matplotlib.pyplot as plt
        from book.controls import explore
        explore(lambda x: plt.figure(), alt="nothing", x=[1])
        sys.exit("ipywidgets" in sys.modules)
    """
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_text_cannot_end_the_script(monkeypatch):
    monkeypatch.setenv("BOOK_STATIC", "1")
    page = explore(lambda **_: grey(0), alt="</script><b>", word=["</script>"]).data
    parsed = BeautifulSoup(page, "html.parser")
    assert len(parsed.select("script")) == 2
    assert parsed.select("b") == []


def test_live_slider_redraws(monkeypatch):
    monkeypatch.delenv("BOOK_STATIC", raising=False)
    box = explore(grey, alt="A shade", level=[40, 120], step=[0, 20])
    level, _, picture = box.children
    address = BeautifulSoup(picture.value, "html.parser").img["src"]
    assert shade(address) == pytest.approx(40, abs=2)
    level.value = 120
    redrawn = BeautifulSoup(picture.value, "html.parser").img
    assert shade(redrawn["src"]) == pytest.approx(120, abs=2)
    assert redrawn["alt"] == "A shade"


@pytest.mark.parametrize("static", ["0", "1"])
def test_figures_are_closed(monkeypatch, static):
    monkeypatch.setenv("BOOK_STATIC", static)
    explore(grey, alt="A shade", level=[40, 120])
    assert plt.get_fignums() == []


def test_what_cannot_be_drawn_is_refused(monkeypatch):
    monkeypatch.setenv("BOOK_STATIC", "1")
    with pytest.raises(ValueError, match=f"65 combinations.*{MOST_FRAMES} at most"):
        explore(grey, alt="x", level=range(65))
    with pytest.raises(ValueError, match="level has no values"):
        explore(grey, alt="x", level=[])
    with pytest.raises(ValueError, match="needs a parameter"):
        explore(grey, alt="x")
    with pytest.raises(ValueError, match="alt is empty"):
        explore(grey, alt=" ", level=[1])
    with pytest.raises(TypeError, match="draw returned int"):
        explore(lambda level: level, alt="x", level=[1])
