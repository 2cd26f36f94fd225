"""What every exploration needs: z from a seed, w from z, the layers that a style acts on, images from w.

Everywhere in `stylegan2.explore` a latent is one w per layer, [layers, batch, d_latent], unless it says otherwise.
"""

import math
import re
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from stylegan2.generator import Noise, NoiseMap
from stylegan2.images import images_at_once
from stylegan2.weights import TrainedGenerator

BATCH = 16  # images at a time, or as many as fit
CELL = 96  # pixels; in pictures a smaller image is enlarged by a whole factor to about this


def draw_z(trained: TrainedGenerator, count: int, seed: int = 0) -> Float[Tensor, "count d_latent"]:
    """z ~ N(0, 1), the same on every device."""
    z = torch.randn(count, trained.generator.d_latent, generator=torch.Generator().manual_seed(seed))
    return z.to(device_of(trained))


@torch.no_grad()
def map_z(trained: TrainedGenerator, z: Float[Tensor, "batch d_latent"],
          label: int | None = None) -> Float[Tensor, "batch d_latent"]:
    """One w for each z, not truncated.

    Args:
        label: class of every image, for a network that was trained with classes.
    """
    return trained.mapping(z, None if label is None else torch.full([len(z)], label, device=z.device))


def per_layer(trained: TrainedGenerator,
              w: Float[Tensor, "batch d_latent"]) -> Float[Tensor, "layers batch d_latent"]:
    """The same w for every layer."""
    return w.expand(trained.generator.n_layers, -1, -1)


def draw_w(trained: TrainedGenerator, count: int, seed: int = 0, psi: float = 1.0,
           label: int | None = None) -> Float[Tensor, "layers count d_latent"]:
    """w per layer of z drawn with this seed, truncated by psi."""
    return per_layer(trained, trained.mapping.truncate(map_z(trained, draw_z(trained, count, seed), label), psi))


@torch.no_grad()
def synthesize(trained: TrainedGenerator,
               w: Float[Tensor, "layers batch d_latent"]) -> Float[Tensor, "batch channels side side"]:
    """Images in about [−1, 1] on the generator's device, with the stored noise if the run was trained with noise.

    Raises:
        ValueError: w is not one per layer.
    """
    check_w(w, trained.generator.n_layers)
    n = images_at_once(trained.settings.resolution, BATCH)
    return torch.cat([trained.generator(part, trained.noise) for part in w.split(n, dim=1)])


def check_w(w: Tensor, n_layers: int) -> None:
    """
    Raises:
        ValueError: w is not one per layer, [layers, batch, d_latent]; or it is the files' [batch, layers, d_latent].
    """
    if w.ndim == 3 and w.shape[1] == n_layers and (len(w) != n_layers or same_along(w, 1) > same_along(w, 0)):
        raise ValueError(f"w is {list(w.shape)} and looks like [batch, layers, d_latent], as other programs keep it; "
                         "here layers come first: w.transpose(0, 1)")
    if w.ndim != 3 or len(w) != n_layers:
        raise ValueError(f"w is {list(w.shape)}: one w for each of the generator's {n_layers} layers is expected, "
                         "[layers, batch, d_latent]; per_layer(trained, w) repeats a single one")


def same_along(w: Tensor, axis: int) -> int:
    """How many neighbours along an axis are equal: styles that two layers share, or a sample that is there twice."""
    last = w.shape[axis] - 1
    return int((w.narrow(axis, 0, last) == w.narrow(axis, 1, last)).all(dim=2).sum())


def layer_range(trained: TrainedGenerator, layers: str) -> range:
    """The layers that a name or a span means.

    Layers 0–3, 4–7 and 8–17 of the eighteen of a 1024² generator are coarse, middle and fine in StyleGAN (arXiv
    1812.04948, figure 3): 2, 2 and 5 of its nine resolutions. Smaller generators are divided in the same proportion.

    Args:
        layers: "coarse", "middle", "fine" or "all"; a layer, "3"; or a span with both its ends, "2-5".

    Raises:
        ValueError: there are no such layers.
    """
    n, blocks = trained.generator.n_layers, trained.generator.n_blocks
    if n < 2 and layers in ("coarse", "middle", "fine"):
        raise ValueError("this generator has no styles (Progressive GAN): one latent vector enters below, and there "
                         "are no layers to be told apart")
    middle, fine = max(1, round(blocks * 2 / 9)), max(2, round(blocks * 4 / 9))
    named = {"coarse": range(2 * middle), "middle": range(2 * middle, 2 * fine), "fine": range(2 * fine, n),
             "all": range(n)}
    if layers in named:
        chosen = named[layers]
    elif match := re.fullmatch(r"(\d+)(?:-(\d+))?", layers):
        chosen = range(int(match[1]), int(match[2] or match[1]) + 1)
    else:
        raise ValueError(f"layers is {layers!r}: give {', '.join(named)}, a layer such as 3, or a span such as 2-5")
    if not chosen or chosen.stop > n:
        raise ValueError(f"layers is {layers!r}: this generator has {n} {'layer' if n == 1 else 'layers'}, counted "
                         f"from 0, and that means {f'{chosen.start} to {chosen.stop - 1}' if chosen else 'none'}")
    return chosen


def image_side(trained: TrainedGenerator) -> int:
    """Of the images that the generator makes now; a growing one may not have reached its full size."""
    return 4 << math.ceil(getattr(trained.generator, "stage", trained.generator.n_blocks - 1))


def cell_side(trained: TrainedGenerator) -> int:
    """Of a generated image in a picture, in pixels: enlarged by a whole factor to about `CELL`."""
    side = image_side(trained)
    return side * max(1, round(CELL / side))


def stored_maps(trained: TrainedGenerator) -> list[Float[Tensor, "1 1 _ _"]]:
    """The noise maps that go with the weights, one per noise layer; none if the run was trained without noise, or has
    no noise layers (Progressive GAN).
    """
    if trained.noise is None:
        return []
    layers = ["style_constant", "style_block",  # StyleGAN has noise on the constant too
              *(f"blocks.{i}.style_block{j}" for i in range(trained.generator.n_blocks - 1) for j in (1, 2))]
    buffers = dict(trained.generator.named_buffers())
    names = [f"{layer}.noise_const" for layer in layers]
    return [buffers[name] for name in names if name in buffers]


def as_noise(maps: Sequence[NoiseMap]) -> Noise:
    """One map per noise layer as the generator takes them, a pair per block, of which the first
    may have one only."""
    padded = [None] * (len(maps) % 2) + list(maps)
    return list(zip(padded[::2], padded[1::2], strict=True)) if maps else None


def device_of(trained: TrainedGenerator) -> torch.device:
    return trained.mapping.mean_w.device
