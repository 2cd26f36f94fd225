"""Directions in w along which something changes: from the weights, from the distribution of w, from measured factors.

Source: SeFa (arXiv 2007.06600), GANSpace (arXiv 2004.02546), and for regression InterFaceGAN (arXiv 2005.09635).
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from stylegan2.equalized import EqualizedLinear
from stylegan2.explore.latents import device_of, synthesize
from stylegan2.weights import TrainedGenerator

Predict = Callable[[Tensor], Tensor]  # images [n, 3, side, side] → factors [n, factors]


@dataclass(frozen=True)
class Directions:
    """Vectors of length 1 in w, and for each a number that says how much there is to it."""

    vectors: Float[Tensor, "count d_latent"]
    scores: Float[Tensor, "count"]


def sefa(trained: TrainedGenerator, layers: range, count: int) -> Directions:
    """The directions that change the styles most: the n of largest ‖A n‖ for the stacked style weights A of `layers`.

    They are A's right singular vectors; the scores are its singular values. No image is looked at.

    Raises:
        ValueError: no style reads w in these layers, or count is not in 1 … d_latent.
    """
    styles = styles_of_layers(trained)
    chosen = [style.weight() for layer in layers for style in styles.get(layer, [])]  # each [style, d]
    if not chosen:
        raise ValueError(f"no style reads the w of layers {layers.start} to {layers.stop - 1} of this generator; "
                         f"these layers have styles: {sorted(styles)}")
    check_count(count, trained.generator.d_latent)
    _, values, vectors = torch.linalg.svd(torch.cat(chosen).detach().double(), full_matrices=False)
    return Directions(oriented(vectors[:count]).float(), values[:count].float())


@torch.no_grad()
def styles_of_layers(trained: TrainedGenerator) -> dict[int, list[EqualizedLinear]]:
    """The affine maps that read the w of each layer, for every generator (of Progressive GAN, its first layer).

    The generator is asked, not its author: the w of layer i is filled with the number i, and every map notes what it
    gets.
    """
    generator, read = trained.generator, defaultdict(list)
    hooks = [module.register_forward_pre_hook(lambda style, w: read[round(w[0].mean().item())].append(style))
             for module in generator.modules() if isinstance(module, EqualizedLinear)]
    try:
        number = torch.arange(generator.n_layers, device=device_of(trained), dtype=torch.float32)
        generator(number[:, None, None].expand(-1, 1, generator.d_latent), None)
    finally:
        for hook in hooks:
            hook.remove()
    return dict(read)


def pca(w: Float[Tensor, "batch d_latent"], count: int) -> Directions:
    """The directions in which w varies most; the scores are the standard deviations of w along them.

    Raises:
        ValueError: count is not in 1 … d_latent, or there are too few w to tell so many directions.
    """
    check_count(count, min(len(w) - 1, w.shape[1]))
    centred = (w - w.mean(dim=0)).double()
    _, values, vectors = torch.linalg.svd(centred, full_matrices=False)
    return Directions(oriented(vectors[:count]).to(w), (values[:count] / (len(w) - 1) ** 0.5).to(w))


def regress(w: Float[Tensor, "batch d_latent"], factors: Float[Tensor, "batch factors"], ridge: float = 0.1,
            held_out: float = 0.25) -> Directions:
    """For each factor the direction in which a linear fit to it rises fastest; the scores are R² on held-out samples.

    1 is a perfect fit, 0 no better than the mean, and the factor does not depend on w linearly.

    Args:
        factors: what was measured on the images of w, such as `predict(synthesize(…))`.
        ridge: weight of ‖β‖² in units of the mean variance of w. Without it much of β lies where w hardly varies,
            which predicts as well but moves nothing.
        held_out: share of the samples, the last ones, that the fit does not see.

    Raises:
        ValueError: there are too few samples, or a factor is the same in all of them.
    """
    n = len(w) - round(len(w) * held_out)
    if n < 2 or len(w) - n < 2:
        raise ValueError(f"{len(w)} samples, of which {held_out:.0%} are held out, are too few for a fit")
    x, y = (w - w[:n].mean(dim=0)).double(), (factors - factors[:n].mean(dim=0)).double()
    constant = (y[:n].std(dim=0) == 0) | (y[n:].std(dim=0) == 0)
    if constant.any():
        raise ValueError(f"factors {constant.nonzero().flatten().tolist()} are the same in all samples: nothing can be "
                         "learned about them")
    covariance = x[:n].T @ x[:n] / n  # [d, d]
    penalty = ridge * covariance.diagonal().mean() * torch.eye(w.shape[1], dtype=x.dtype, device=x.device)
    beta = torch.linalg.solve(covariance + penalty, x[:n].T @ y[:n] / n)  # [d, factors]
    residual = y[n:] - x[n:] @ beta
    r_squared = 1 - residual.square().sum(dim=0) / (y[n:] - y[n:].mean(dim=0)).square().sum(dim=0)
    return Directions((beta / beta.norm(dim=0)).T.to(w), r_squared.to(w))


def move(w: Float[Tensor, "layers batch d_latent"], direction: Float[Tensor, "d_latent"], amount: float,
         layers: range) -> Float[Tensor, "layers batch d_latent"]:
    """w + amount · direction in `layers`, w in the others."""
    moved = w.clone()
    moved[layers.start:layers.stop] += amount * direction
    return moved


def move_grid(trained: TrainedGenerator, w: Float[Tensor, "layers rows d_latent"],
              direction: Float[Tensor, "d_latent"], amounts: Sequence[float],
              layers: range) -> Float[Tensor, "rows columns channels side side"]:
    """Row i, column j: w[i] moved by amounts[j]."""
    return torch.stack([synthesize(trained, move(w, direction, amount, layers)) for amount in amounts], dim=1)


def effects(trained: TrainedGenerator, predict: Predict, w: Float[Tensor, "layers batch d_latent"],
            vectors: Float[Tensor, "count d_latent"], amounts: Float[Tensor, "count"],
            layers: range) -> Float[Tensor, "count factors"]:
    """How much each direction changes each factor: half the mean change from −amount to +amount, in standard
    deviations that the factor has over the images of w.

    A direction that changes one factor and leaves the others has one large entry in its row.

    Args:
        amounts: for each direction, such as the standard deviation of w along it (`along`).

    Raises:
        ValueError: a factor is the same in all images of w.
    """
    spread = predict(synthesize(trained, w)).std(dim=0)
    if (spread == 0).any():
        raise ValueError(f"factors {(spread == 0).nonzero().flatten().tolist()} are the same in all images: take more")
    rows = []
    for vector, amount in zip(vectors, amounts.tolist(), strict=True):
        low, high = (predict(synthesize(trained, move(w, vector, side * amount, layers))) for side in (-1, 1))
        rows.append((high - low).mean(dim=0) / 2 / spread)
    return torch.stack(rows)


def along(w: Float[Tensor, "batch d_latent"], vectors: Float[Tensor, "count d_latent"]) -> Float[Tensor, "count"]:
    """The standard deviation of w along each of the vectors: a unit in which they can be compared."""
    return (w @ vectors.T).std(dim=0)


def oriented(vectors: Float[Tensor, "count d"]) -> Float[Tensor, "count d"]:
    """With the entry that is largest in size positive: a singular vector's sign is arbitrary, and differs between
    machines.
    """
    largest = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True))
    return vectors * largest.sign()


def check_count(count: int, most: int) -> None:
    if not 1 <= count <= most:
        raise ValueError(f"count is {count}: there are 1 to {most} directions to have")
