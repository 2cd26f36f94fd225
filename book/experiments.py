"""Series of runs that pages compare: `python -m book record ablation` makes results/ablation.

One JSON file and one strip of samples a run. A series that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch.nn import functional

from book.records import ROOT
from stylegan2.data import ImageSource, ToyFaces
from stylegan2.files import write_text
from stylegan2.generator import Generator
from stylegan2.images import tile, to_float
from stylegan2.metrics import FaceClassifier, load_classifier, measure
from stylegan2.training.checkpoint import checkpoints
from stylegan2.training.config import Settings
from stylegan2.training.folder import located, told
from stylegan2.training.presets import PRESETS, command
from stylegan2.training.trainer import Trainer
from stylegan2.weights import TrainedGenerator, load, sample

MEASURED_AT = (2_000, 5_000, 10_000, 20_000, 30_000, 40_000, 70_000, 100_000)  # images seen, as far as a run goes
IMAGES, PAIRS = 5_000, 500  # on each side of a distance, and for a path length, at the end; a fifth of them before
NAMES = {"Fréchet distance": "frechet", "precision": "precision", "recall": "recall",
         "path length in w, end points": "path_length"}

BASE = replace(PRESETS["stylegan2"], images=40_000)
# What StyleGAN2's Table 1 adds, one after another. Growing is twice as quick as the default, so that half of the images
# are seen at the full resolution; noise is off everywhere, as it is in a short StyleGAN2 run.
A = replace(PRESETS["stylegan"], images=BASE.images, grow_images=5_000, noise=False)
B = replace(A, style="demodulation")
C = replace(B, r1_interval=BASE.r1_interval)
D = replace(C, path_length_weight=BASE.path_length_weight)
E = BASE
F = replace(E, n_features=2 * E.n_features)  # twice the channels where the limit lets them: at 32² and 16²
TINY = replace(BASE, subset=50)
EMOJI = replace(BASE, data="noto-emoji-128.zip", x_flip=True, images=100_000)
FEW_EMOJI, MANY_EMOJI = replace(EMOJI, subset=500), replace(EMOJI, subset=3_000)  # of 3,583: 583 are never seen


def augmented(settings: Settings) -> Settings:
    """The same run with adaptive augmentation, whose strength can go from 0 to 1 in 20,000 images."""
    return replace(settings, augment=True, augment_images=20_000)


SERIES: dict[str, dict[str, Settings]] = {
    "ablation": {
        f"{name}-{seed}": replace(settings, seed=seed)
        for seed in range(3) for name, settings in zip("ABCDEF", (A, B, C, D, E, F), strict=True)},
    "architectures": {  # the generator's, then the discriminator's; the last is the ablation's E
        f"{g}-{d}": replace(BASE, generator=g, discriminator=d)
        for g in ("plain", "residual", "skip") for d in ("plain", "skip", "residual")},
    "failures": {
        "reference": BASE,
        "no-r1": replace(BASE, r1_gamma=0.0),
        "fast": replace(BASE, learning_rate=10 * BASE.learning_rate),
        "no-minibatch-std": replace(BASE, minibatch_std=False),
        "tiny": TINY,
        "tiny-augmented": augmented(TINY)},
    "emoji": {  # by the number of images trained on
        "500": FEW_EMOJI, "500-augmented": augmented(FEW_EMOJI),
        "3000": MANY_EMOJI, "3000-augmented": augmented(MANY_EMOJI)},
}


def record_series(name: str, chosen: Sequence[str] = ()) -> int:
    """Make the runs of a series (all, or those chosen) whose record is not there. Returns the exit status."""
    if name not in SERIES:
        sys.exit(f"there is no series {name!r}; the series are {', '.join(SERIES)}")
    if unknown := [run for run in chosen if run not in SERIES[name]]:
        sys.exit(f"{name} has no run {unknown[0]!r}; its runs are {', '.join(SERIES[name])}")
    for run in chosen or SERIES[name]:
        path = ROOT / "results" / name / f"{run}.json"
        if not path.exists():
            record_run(SERIES[name][run], ROOT / "runs" / name / run, path)
    return 0


def record_run(settings: Settings, run: Path, path: Path) -> None:
    """Train in parts and measure after each; a run that diverges is recorded up to there.

    Raises:
        FileExistsError: the folder holds a run that was begun with other settings.
    """
    if checkpoints(run) and replace(Settings.load(run / "settings.json"), images=settings.images) != located(settings):
        raise FileExistsError(f"{run} was begun with other settings: delete it, and the run is made anew")
    classifier, rows, measures, ended = load_classifier(), [], [], None
    for images in [at for at in MEASURED_AT if at <= settings.images]:
        trainer = Trainer(run, replace(settings, images=images), resume=bool(checkpoints(run)), log_every=500,
                          checkpoint_every=images, sample_every=images)
        try:
            finished = trainer.train()
        except FloatingPointError as error:
            ended = str(error)
            break
        if not finished:
            sys.exit(130)
        trained = load(run)
        share = 1 if images == settings.images else 5
        measures.append({"images": images,
                         **measured(trained, trainer.source, classifier, IMAGES // share, PAIRS // share),
                         **seen_and_unseen(trainer)})
        rows.append(functional.interpolate(sample(trained, 8), settings.resolution))  # growing ones begin smaller
    history = [json.loads(line) for line in (run / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    made = {**told(run), "command": command(settings), "seed": settings.seed, "images": trainer.images_seen,
            "minutes": round(trainer.seconds / 60, 2),
            "processor_minutes": round(trainer.processor_seconds / 60, 2), "ended": ended,
            "settings": asdict(settings), "history": history, "measures": measures}
    made.pop("resumed", None)  # the parts, all on one machine
    path.parent.mkdir(parents=True, exist_ok=True)
    tile(torch.cat(rows), columns=8).save(path.with_suffix(".png"))
    write_text(path, json.dumps(made) + "\n")
    print(f"wrote {path}", flush=True)


def measured(trained: TrainedGenerator, source: ImageSource, classifier: FaceClassifier, images: int,
             pairs: int) -> dict[str, object]:
    """Distances to the whole set in the features of the ToyFaces classifier, path length, and what each resolution
    adds."""
    rows = measure(trained, source, classifier, classifier,
                   ("frechet", "precision-recall", "path-length"), images, pairs)
    return {**{NAMES[row.name]: round(row.value, 5) for row in rows if row.name in NAMES},
            "rgb_std": rgb_std(trained)}


@torch.no_grad()
def seen_and_unseen(trainer: Trainer, images: int = 1_024) -> dict[str, float]:
    """Mean score of real images: of those that are trained on, and of others. They differ where the discriminator knows
    its images by heart. Nothing for networks that grow, which see each image at the resolution of the day.

    Source: Karras et al. (arXiv 2006.06676), figure 1.
    """
    settings, source = trainer.settings, trainer.source
    if settings.growing:
        return {}
    seen = source.images(trainer.chosen[torch.arange(images) % len(trainer.chosen)])
    if settings.data == "toyfaces":
        unseen = ToyFaces(settings.resolution, seed=1).images(torch.arange(images))
    else:
        every = torch.arange(len(source))
        rest = every[~torch.isin(every, trainer.chosen)][:images]
        unseen = source.images(rest[:len(rest) // 4 * 4])  # whole groups of the minibatch standard deviation
    scores = [trainer.players.discriminator(to_float(images)).mean().item() for images in (seen, unseen)]
    return {"score_seen": round(scores[0], 5), "score_unseen": round(scores[1], 5)}


def rgb_std(trained: TrainedGenerator, images: int = 1_024) -> list[float] | None:
    """Standard deviation of the pixels that each toRGB layer gives, 4² first; None where there is one such layer.

    Source: Karras et al. (arXiv 1912.04958), figure 8.
    """
    if not isinstance(trained.generator, Generator):
        return None
    layers = [trained.generator.to_rgb, *(block.get_submodule("to_rgb") for block in trained.generator.blocks)]
    given: list[list[torch.Tensor]] = [[] for _ in layers]
    hooks = [layer.register_forward_hook(lambda _layer, _in, out, kept=kept: kept.append(out))
             for layer, kept in zip(layers, given, strict=True)]
    try:
        sample(trained, images)
    finally:
        for hook in hooks:
            hook.remove()
    return [round(torch.cat(kept).std().item(), 5) for kept in given]
