"""The look of every figure in the book, and grids of images."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

# Okabe and Ito's palette, told apart by all common kinds of colour vision; without its yellow, too light on white.
CYCLE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
INK = "#222222"
# A figure is a white card on a light page and on a dark one: one picture, readable on both.
STYLE = {
    "figure.figsize": (6.4, 3.6),
    "figure.dpi": 120,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.labelsize": 10,
    "axes.facecolor": "white",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.prop_cycle": plt.cycler(color=CYCLE),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "image.cmap": "viridis",
}


def use_style() -> None:
    """Draw every figure from here on in the book's style."""
    plt.style.use(STYLE)


def image_grid(
    images: Float[Tensor, "n 3 height width"],
    *,
    columns: int = 8,
    scale: float = 1.0,
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    title: str | None = None,
) -> Figure:
    """Images in rows of `columns`, as one figure. End a cell with it to show it.

    Args:
        images: values in [-1, 1]; what lies outside is cut off.
        columns: images in a row; fewer images than that make one short row.
        scale: 1 draws an image 0.8 inch wide.
        row_labels: one text for each row, written to its left.
        column_labels: one text for each column, written above it.
        title: a line above the grid.

    Raises:
        ValueError: `images` is no batch of RGB images, `columns` is below 1, or there are too few or too many labels.
    """
    if images.ndim != 4 or images.shape[1] != 3 or len(images) == 0:
        raise ValueError(f"images of shape {tuple(images.shape)}; expected [n, 3, height, width] with n of 1 or more")
    if columns < 1:
        raise ValueError(f"columns={columns}; expected 1 or more")
    count, _, height, width = images.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    for name, labels, expected in (("row_labels", row_labels, rows), ("column_labels", column_labels, columns)):
        if labels is not None and len(labels) != expected:
            raise ValueError(f"{len(labels)} {name} for {expected} of them; give one for each")

    gap = max(1, width // 32)
    canvas = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), dtype=np.float32)
    pixels = ((images.detach().float().cpu().clamp(-1, 1) + 1) / 2).permute(0, 2, 3, 1).numpy()  # [n, height, width, 3]
    for index, image in enumerate(pixels):
        top, left = (index // columns) * (height + gap), (index % columns) * (width + gap)
        canvas[top : top + height, left : left + width] = image

    inches = 0.8 * scale
    # Made through pyplot, so that a notebook can show it, and closed, so that it is shown once: where it is returned.
    figure, axes = plt.subplots(figsize=(columns * inches, rows * inches * height / width), layout="constrained")
    plt.close(figure)
    axes.imshow(canvas, interpolation="nearest")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.set_xticks([], [])
    axes.set_yticks([], [])
    if column_labels is not None:
        axes.set_xticks([column * (width + gap) + width / 2 for column in range(columns)], column_labels)
    if row_labels is not None:
        axes.set_yticks([row * (height + gap) + height / 2 for row in range(rows)], row_labels)
    if title is not None:
        axes.set_title(title)
    return figure
