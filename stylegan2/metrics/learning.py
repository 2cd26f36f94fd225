"""How the classifier of ToyFaces learns, and how well it reads faces that it has never seen."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from stylegan2.data import FACTORS, ToyFaces
from stylegan2.images import to_float
from stylegan2.metrics.classifier import COLUMNS, HUES, LEVELS, N_VALUES, SCALARS, FaceClassifier, targets

TRAINING_SEED, HELD_OUT_SEED = 1001, 1002  # not those of a set that a generator is trained on, or measured against


def train(images: int, batch_size: int = 64, learning_rate: float = 3e-3, seed: int = 0, log_every: int = 100,
          device: str | torch.device = "cpu") -> tuple[FaceClassifier, list[dict[str, int | float]]]:
    """Learn from so many faces, each drawn for the purpose and seen once.

    Adam, with a learning rate that rises for a fifth of the time and then falls to 0.

    Returns:
        the classifier, in evaluation mode; and the mean loss of every `log_every` steps.

    Raises:
        ValueError: there are fewer images than 10 batches.
    """
    steps = images // batch_size
    if steps < 10:
        raise ValueError(f"{images} images are {steps} batches of {batch_size}: take at least {10 * batch_size}")
    torch.manual_seed(seed)
    faces = ToyFaces(32, size=images, seed=TRAINING_SEED)
    classifier = FaceClassifier().to(device)
    adam = torch.optim.AdamW(classifier.parameters(), lr=learning_rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, learning_rate, total_steps=steps, pct_start=0.2)
    history: list[dict[str, int | float]] = []
    recent: list[float] = []
    for step, index in enumerate(torch.arange(steps * batch_size).split(batch_size), start=1):
        pixels, factors = faces[index]
        images_of_step = to_float(pixels.to(device)).contiguous(memory_format=torch.channels_last)
        error = loss(classifier.head(classifier(images_of_step)), targets(factors).to(device))
        adam.zero_grad()
        error.backward()
        adam.step()
        schedule.step()
        recent.append(error.item())
        if step % log_every == 0 or step == steps:
            history.append({"images": step * batch_size, "loss": round(sum(recent) / len(recent), 5)})
            print(history[-1], flush=True)
            recent = []
    return classifier.eval(), history


def loss(answers: Float[Tensor, "batch columns"], truth: Float[Tensor, "batch targets"]) -> Float[Tensor, ""]:
    """The mean over all factors: squared error of what is continuous, in variances; cross-entropy of levels."""
    squared = F.mse_loss(answers[:, :N_VALUES], truth[:, :N_VALUES]) * (len(SCALARS) + len(HUES))
    logits = answers[:, N_VALUES:].split(list(LEVELS.values()), dim=1)
    entropy = sum(F.cross_entropy(part, level.long()) for part, level in
                  zip(logits, truth[:, N_VALUES:].unbind(dim=1), strict=True))
    return (squared + entropy) / len(FACTORS)


@torch.no_grad()
def held_out_scores(classifier: FaceClassifier, images: int = 10_000) -> dict[str, dict[str, float]]:
    """On faces of a seed of their own: accuracy for factors with levels (with that of the commonest level, which a
    guess would have), R² for the others (of cosine and sine together, for a hue).
    """
    device = next(classifier.parameters()).device
    faces, answers, truth = ToyFaces(32, size=images, seed=HELD_OUT_SEED), [], []
    for index in torch.arange(images).split(500):
        pixels, factors = faces[index]
        answers.append(classifier.table(to_float(pixels.to(device))).cpu())
        truth.append(targets(factors))
    table, wanted = dict(zip(COLUMNS, torch.cat(answers).T, strict=True)), torch.cat(truth)
    right = dict(zip([*COLUMNS[:N_VALUES], *LEVELS], wanted.T, strict=True))
    scores = {}
    for name in FACTORS:
        if name in LEVELS:
            guess = torch.stack([table[f"{name}.{level}"] for level in range(LEVELS[name])]).argmax(dim=0)
            commonest = right[name].long().bincount().max() / images
            scores[name] = {"accuracy": (guess == right[name]).float().mean().item(), "chance": commonest.item()}
        else:
            parts = [f"{name}.cos", f"{name}.sin"] if name in HUES else [name]
            error = sum((table[part] - right[part]).square().mean() for part in parts)
            spread = sum(right[part].var(correction=0) for part in parts)
            scores[name] = {"r2": 1 - (error / spread).item()}
    return {name: {key: round(value, 4) for key, value in score.items()} for name, score in scores.items()}
