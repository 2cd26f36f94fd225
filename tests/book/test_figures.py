import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from book.figures import CYCLE, image_grid, use_style


def canvas(figure):
    return figure.axes[0].images[0].get_array()


def test_images_land_in_reading_order():
    images = torch.full((5, 3, 4, 4), -1.0)
    images[3, 0] = 1.0  # the fourth image is red: with 3 columns, second row, first column
    drawn = canvas(image_grid(images, columns=3))
    assert drawn.shape == (4 + 1 + 4, 3 * 4 + 2, 3)  # one white pixel between images
    np.testing.assert_array_equal(drawn[5:, :4], np.broadcast_to([1.0, 0.0, 0.0], (4, 4, 3)))
    np.testing.assert_array_equal(drawn[:4, :4], 0.0)
    np.testing.assert_array_equal(drawn[5:, 10:], 1.0)  # where there is no image, the page shows


def test_values_outside_the_range_are_cut_off():
    drawn = canvas(image_grid(torch.tensor([-3.0, 3.0]).reshape(2, 1, 1, 1).expand(2, 3, 4, 4)))
    assert drawn.min() == 0.0
    assert drawn.max() == 1.0


def test_labels_are_centred_on_their_rows_and_columns():
    figure = image_grid(torch.zeros(4, 3, 8, 8), columns=2, row_labels=["a", "b"], column_labels=["c", "d"], title="t")
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["c", "d"]
    assert list(axes.get_xticks()) == [4.0, 13.0]
    assert axes.get_title() == "t"


def test_a_grid_is_shown_once_where_it_is_returned():
    image_grid(torch.zeros(1, 3, 4, 4))
    assert plt.get_fignums() == []  # a notebook shows what pyplot still holds at the end of a cell, too


@pytest.mark.parametrize("shape", [(3, 4, 4), (2, 1, 4, 4), (0, 3, 4, 4)])
def test_what_is_no_batch_of_images_is_refused(shape):
    with pytest.raises(ValueError, match="expected \\[n, 3, height, width\\]"):
        image_grid(torch.zeros(shape))


def test_labels_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="3 row_labels for 2"):
        image_grid(torch.zeros(4, 3, 4, 4), columns=2, row_labels=["a", "b", "c"])
    with pytest.raises(ValueError, match="columns=0"):
        image_grid(torch.zeros(4, 3, 4, 4), columns=0)


def test_style_sets_the_cycle():
    with plt.rc_context():
        use_style()
        assert tuple(entry["color"] for entry in plt.rcParams["axes.prop_cycle"]) == CYCLE
