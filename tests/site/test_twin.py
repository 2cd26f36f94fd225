"""The static twin of `book.controls.explore`, moved as a reader would."""

import matplotlib.pyplot as plt
import pytest

from book.controls import explore


def shade(level, step):
    """A figure in one shade of grey: level + step."""
    figure = plt.figure(figsize=(3, 2))
    grey = (level + step) / 255
    figure.add_axes((0, 0, 1, 1), facecolor=(grey, grey, grey)).set(xticks=[], yticks=[])
    return figure


@pytest.fixture
def page(browser, monkeypatch):
    monkeypatch.setenv("BOOK_STATIC", "1")
    twin = explore(shade, alt="A shade", level=[40, 120], step=[0, 20, 40]).data
    opened = browser.new_page(viewport={"width": 390, "height": 800})
    opened.set_content(f"<!doctype html><title>Twin</title>{twin}")
    yield opened
    opened.close()


def seen(page):
    """The grey in the middle of the picture on the screen."""
    return page.evaluate(
        """async () => {
            const image = document.querySelector(".explore img");
            await image.decode();
            const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight).getContext("2d");
            canvas.drawImage(image, 0, 0);
            return canvas.getImageData(image.naturalWidth / 2, image.naturalHeight / 2, 1, 1).data[0];
        }"""
    )


def test_the_keyboard_moves_it(page):
    assert seen(page) == pytest.approx(40, abs=2)
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    assert seen(page) == pytest.approx(120, abs=2)
    page.keyboard.press("Tab")
    page.keyboard.press("End")
    assert seen(page) == pytest.approx(160, abs=2)
    page.keyboard.press("ArrowLeft")
    assert seen(page) == pytest.approx(140, abs=2)


def test_it_says_where_it_is(page):
    step = page.get_by_label("step")
    assert step.get_attribute("aria-valuetext") == "0"
    step.focus()
    page.keyboard.press("ArrowRight")
    assert step.get_attribute("aria-valuetext") == "20"
    assert page.locator("output").nth(1).inner_text() == "20"
    assert page.get_by_role("img").get_attribute("alt") == "A shade (level = 40, step = 20)"


def test_it_fits_a_phone(page):
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    sliders = page.get_by_role("slider").all()
    heights = [slider.bounding_box()["height"] for slider in sliders]
    assert len(heights) == 2
    assert min(heights) >= 24  # CSS pixels: WCAG's least size of a target
