"""Pictures of what a style does: style mixing, truncation, noise.

Source: StyleGAN (arXiv 1812.04948), sections 3.1 and 3.2, figures 3, 4 and 8.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from stylegan2.explore.latents import CELL, as_noise, device_of, stored_maps, synthesize
from stylegan2.images import tile, to_rgb
from stylegan2.weights import TrainedGenerator


def mix(a: Float[Tensor, "layers batch d_latent"], b: Float[Tensor, "layers batch d_latent"],
        layers: range) -> Float[Tensor, "layers batch d_latent"]:
    """a, but with the w of b in `layers`.

    Raises:
        ValueError: there is one layer only, so that nothing can be mixed, or `layers` goes beyond the last.
    """
    if len(a) < 2:
        raise ValueError("this generator takes one w for the whole image (n_layers is 1): its styles cannot be mixed")
    if layers.start < 0 or layers.stop > len(a):
        raise ValueError(f"layers {layers.start} to {layers.stop - 1} are asked for; this generator has layers "
                         f"0 to {len(a) - 1}")
    mixed = a.clone()
    mixed[layers.start:layers.stop] = b[layers.start:layers.stop]
    return mixed


def mixing_grid(trained: TrainedGenerator, a: Float[Tensor, "layers rows d_latent"],
                b: Float[Tensor, "layers columns d_latent"],
                layers: range) -> Float[Tensor, "rows columns channels side side"]:
    """Row i, column j: a[i] with the styles of b[j] in `layers`.

    Raises:
        ValueError: as in `mix`.
    """
    rows, columns = a.shape[1], b.shape[1]
    mixed = mix(a.repeat_interleave(columns, dim=1), b.repeat(1, rows, 1), layers)  # [layers, rows·columns, d]
    return synthesize(trained, mixed).unflatten(0, (rows, columns))


def with_sources(grid: Float[Tensor, "rows columns channels side side"], a: Float[Tensor, "rows channels side side"],
                 b: Float[Tensor, "columns channels side side"]) -> Float[Tensor, "rows1 columns1 channels side side"]:
    """A mixing grid with the images of its sources a to the left and b above; the corner is white."""
    first = torch.cat([torch.ones_like(b[:1]), b])[None]  # [1, 1 + columns, 3, side, side]
    return torch.cat([first, torch.cat([a[:, None], grid], dim=1)])


def truncation_sweep(trained: TrainedGenerator, w: Float[Tensor, "layers rows d_latent"], psis: Sequence[float],
                     cutoff: int | None = None) -> Float[Tensor, "rows columns channels side side"]:
    """Row i, column j: w[i] truncated by psis[j]; a negative ψ gives what is opposite to w in every way.

    Args:
        w: not truncated.
        cutoff: truncate the first so many layers only.
    """
    columns = [synthesize(trained, trained.mapping.truncate(w, psi, cutoff)) for psi in psis]
    return torch.stack(columns, dim=1)


@torch.no_grad()
def noise_variation(trained: TrainedGenerator, w: Float[Tensor, "layers batch d_latent"], draws: int = 32,
                    seed: int = 0) -> Float[Tensor, "noise_layers batch side side"]:
    """How much each noise input changes each pixel: the standard deviation over draws, mean of the three colours.

    While the noise of one layer is drawn anew, every other layer keeps its stored map.

    Raises:
        ValueError: the run was trained without noise, or draws is less than 2.
    """
    stored = stored_maps(trained)
    if not stored:
        raise ValueError("this run was trained without noise (settings.noise): there is nothing to vary")
    if draws < 2:
        raise ValueError(f"draws is {draws}: a standard deviation needs 2 or more")
    source = torch.Generator().manual_seed(seed)
    variation = []
    for layer, const in enumerate(stored):
        images = []
        for _ in range(draws):
            drawn = torch.randn(w.shape[1], *const.shape[1:], generator=source).to(device_of(trained))
            images.append(trained.generator(w, as_noise([*stored[:layer], drawn, *stored[layer + 1:]])))
        variation.append(torch.stack(images).std(dim=0).mean(dim=1))  # [batch, side, side]
    return torch.stack(variation)


def sheet(images: Float[Tensor, "rows columns channels side side"], row_labels: Sequence[str] = (),
          column_labels: Sequence[str] = (), sources: bool = False) -> Image.Image:
    """The images in one picture, with labels to the left and above; small images are enlarged without smoothing.

    Args:
        row_labels, column_labels: one for each row and column, or none. Latin letters only: Pillow's own font, the
            one that is everywhere, has no Greek.
        sources: the first row and column are what the rest is made of; a gap sets them apart.

    Raises:
        ValueError: there are labels, but not one for each row or column.
    """
    rows, columns, _, _, side = images.shape
    for name, labels, count in (("row", row_labels, rows), ("column", column_labels, columns)):
        if labels and len(labels) != count:
            raise ValueError(f"there are {len(labels)} {name} labels for {count} {name}s")
    font = ImageFont.load_default(size=14)
    cell, gap = side * max(1, round(CELL / side)), 8 if sources else 0
    left = max((int(font.getlength(label)) + 12 for label in row_labels), default=0)
    top = 24 if column_labels else 0
    x = [left + j * cell + gap * (j > 0) for j in range(columns)]
    y = [top + i * cell + gap * (i > 0) for i in range(rows)]
    page = Image.new("RGB", (x[-1] + cell, y[-1] + cell), "white")
    for i in range(rows):
        for j in range(columns):
            page.paste(tile(to_rgb(images[i, j][None]), 1).resize((cell, cell), Image.Resampling.NEAREST), (x[j], y[i]))
    draw = ImageDraw.Draw(page)
    for label, start in zip(row_labels, y, strict=False):
        draw.text((left - 6, start + cell / 2), label, fill="black", font=font, anchor="rm")
    for label, start in zip(column_labels, x, strict=False):
        draw.text((start + cell / 2, top / 2), label, fill="black", font=font, anchor="mm")
    return page
