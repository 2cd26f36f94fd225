"""Projection: the latent whose image is nearest to a given one.

Source: StyleGAN2 (arXiv 1912.04958), appendix D; one w per layer as in Image2StyleGAN (arXiv 1904.03189).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from stylegan2.explore.latents import as_noise, device_of, draw_z, image_side, map_z, stored_maps
from stylegan2.generator import Noise
from stylegan2.weights import TrainedGenerator

Distance = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Projection:
    """What `project` found."""

    w: Float[Tensor, "layers batch d_latent"]
    noise: Noise
    """What the generator takes beside w: the maps that were found, or None for a run without noise."""
    images: Float[Tensor, "batch channels side side"]
    distances: Float[Tensor, "batch"]
    """Of the images from the targets."""
    history: Float[Tensor, "steps batch"]
    """The distance at each step, at the w that noise was added to."""


def pyramid_distance(images: Float[Tensor, "batch channels side side"],
                     targets: Float[Tensor, "batch channels side side"]) -> Float[Tensor, "batch"]:
    """Mean absolute difference of the pixels, averaged over the image at full size, half, a quarter … 4².

    The small sizes tell an image that is nearly there but shifted from one that is all wrong, which pixels at full
    size do not.
    """
    levels = []
    difference = images - targets
    while difference.shape[-1] >= 4:
        levels.append(difference.abs().mean(dim=(1, 2, 3)))
        difference = F.avg_pool2d(difference, 2)  # linear: the difference of the smaller images
    return torch.stack(levels).mean(dim=0)


def project(trained: TrainedGenerator, targets: Float[Tensor, "batch channels side side"], *, free_layers: bool = False,
            steps: int = 1000, learning_rate: float = 0.1, noise_weight: float = 1e5,
            distance: Distance = pyramid_distance, label: int | None = None, seed: int = 0) -> Projection:
    """Search w by gradient descent from the mean of w. On a CPU the same seed gives the same result bit for bit.

    Noise that fades out is added to w on the way, so that the search does not end in the first hollow; the noise maps
    are found along with w if the run was trained with noise, and kept white, so that they cannot paint the image.

    Args:
        targets: in [−1, 1]; each is projected on its own.
        free_layers: a w for each layer instead of one for all: nearer to the target, but out of what the mapping
            network can give, so that edits and mixing work less well on it.
        steps, learning_rate: of Adam.
        noise_weight: of the penalty that keeps the maps white.
        distance: (images, targets) → [batch]; LPIPS in the paper, which any module with this signature can give.
        label: class, for a network that was trained with classes.
        seed: of the noise that is added to w.

    Raises:
        ValueError: targets have another size than the generator's images, or steps is less than 1.
    """
    side = image_side(trained)
    if targets.shape[-2:] != (side, side) or steps < 1:
        raise ValueError(f"targets are {targets.shape[-2]} × {targets.shape[-1]} and steps is {steps}: this generator "
                         f"makes images of {side} × {side}, and at least one step is needed")
    targets, source = targets.to(device_of(trained)), torch.Generator().manual_seed(seed)
    drawn = map_z(trained, draw_z(trained, 10_000), label)
    spread = (drawn - drawn.mean(dim=0)).square().sum(dim=1).mean().sqrt()  # the paper's σ_w
    n_layers = trained.generator.n_layers
    w = drawn.mean(dim=0).repeat(n_layers if free_layers else 1, len(targets), 1).requires_grad_()
    maps = [const.repeat(len(targets), 1, 1, 1).requires_grad_() for const in stored_maps(trained)]
    optimizer = torch.optim.Adam([w, *maps], lr=learning_rate)
    history = []
    with torch.enable_grad():
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = learning_rate * rate(step / steps)
            jitter = 0.05 * spread * max(0.0, 1 - step / steps / 0.75) ** 2
            near = w + jitter * torch.randn(w.shape, generator=source).to(w.device)
            images = trained.generator(near.expand(n_layers, -1, -1), as_noise(maps))
            distances = distance(images, targets)
            loss = distances.sum() + noise_weight * sum(map(autocorrelation, maps))
            # Not loss.backward(): the gradients of the networks' weights are neither needed nor wanted.
            for tensor, grad in zip([w, *maps], torch.autograd.grad(loss, [w, *maps]), strict=True):
                tensor.grad = grad
            optimizer.step()
            whiten(maps)
            history.append(distances.detach())
    w, maps = w.detach().expand(n_layers, -1, -1), [m.detach() for m in maps]
    with torch.no_grad():
        images = trained.generator(w, as_noise(maps))
        return Projection(w, as_noise(maps), images, distance(images, targets), torch.stack(history))


def rate(t: float) -> float:
    """Share of the learning rate at the time t in [0, 1]: up linearly for a twentieth, down by a cosine at the last
    quarter.
    """
    return min(1.0, t / 0.05) * (0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - t) / 0.25)))


def autocorrelation(noise: Float[Tensor, "batch 1 side side"]) -> Float[Tensor, ""]:
    """How far the map is from white: the squared correlation of neighbours, at every size down to 8² (summed over the
    batch).
    """
    total = noise.new_zeros([])
    while True:
        for axis in (2, 3):
            total = total + (noise * noise.roll(1, dims=axis)).mean(dim=(1, 2, 3)).square().sum()
        if noise.shape[-1] <= 8:
            return total
        noise = F.avg_pool2d(noise, 2) * 2  # ·2: the mean of four numbers of variance 1 has variance 1/4


@torch.no_grad()
def whiten(maps: Sequence[Float[Tensor, "batch 1 _ _"]]) -> None:
    """Back to mean 0 and standard deviation 1, in place."""
    for noise in maps:
        std, mean = torch.std_mean(noise, dim=(1, 2, 3), correction=0, keepdim=True)
        noise.sub_(mean).div_(std)
