"""What a run computes where nothing else is asked for: by model, set, size and number of
processes; and the command line that names what differs from it.
"""

import dataclasses
import shlex
from dataclasses import replace

from stylegan2.training.config import Settings

PRESETS: dict[str, Settings] = {
    "stylegan2": Settings(),
    "stylegan": Settings(
        model="stylegan", style="adain", generator="plain", discriminator="plain",
        growing=True, noise=True, r1_interval=1, path_length_weight=0.0),
    "progan": Settings(
        model="progan", style="none", generator="plain", discriminator="plain",
        growing=True, grow_from=4, grow_images=8_000, mapping_layers=0,
        style_mixing=0.0, loss="wasserstein", learning_rate=0.003, r1_interval=1,
        path_length_weight=0.0),
}
"""Each generation as its paper has it, at the size and rate of a short run on ToyFaces."""


def preset(model: str = Settings.model, data: str = Settings.data,
           resolution: int = Settings.resolution, processes: int = 1,
           batch_size: int | None = None, images: int | None = None,
           start: str | None = None) -> Settings:
    """The settings that a run of this model on this set has where no others are given.

    ToyFaces, and the two older generations, have short runs. StyleGAN2 on any other set,
    or from a network that was trained before, has what the published trainer derives from
    the resolution and the batch (`published`).

    Args:
        processes: that share a batch.
        batch_size, images: where they are given; what depends on them follows.
        start: where the run starts from.
    """
    short = PRESETS[model]
    if model == "stylegan2" and (data != "toyfaces" or start is not None):
        short = published(resolution, processes, batch_size, images, start)
    return replace(short, data=data, resolution=resolution, start=start,
                   batch_size=batch_size or short.batch_size, images=images or short.images)


def published(resolution: int, processes: int, batch_size: int | None,
              images: int | None, start: str | None) -> Settings:
    """The configuration `auto` of StyleGAN2-ADA (arXiv 2006.06676, and the options of its
    trainer): widths, batch, rate, γ and half-life by the resolution.

    The strength of the augmentation can go from 0 to 1 in 500,000 images, or in a fifth of
    a run that is shorter than five times as many; of one that starts from a trained
    network, whose discriminator knows its craft at once, in 100,000 at most.
    """
    images = images or 1_000_000
    batch_size = batch_size or processes * images_per_process(resolution, processes)
    return Settings(
        images=images, batch_size=batch_size, noise=True, mapping_layers=2,
        n_features=min(512, (32_768 if resolution >= 512 else 16_384) // resolution),
        max_features=512, d_latent=512,
        learning_rate=0.002 if resolution >= 1024 else 0.0025,
        r1_gamma=0.0002 * resolution**2 / batch_size,
        ema_half_life=max(1, batch_size * 10_000 // 32),
        augment=True,
        augment_images=max(1, min(100_000 if start else 500_000, images // 5)))


def images_per_process(resolution: int, processes: int) -> int:
    """As many as the published trainer gives a GPU: 4096 by the resolution, 32 at most, and
    64 at most in all; whole groups of the minibatch standard deviation.
    """
    most = max(1, min(4096 // resolution, 32, 64 // processes))
    if most * processes < 4:
        return most
    return most if most < 4 and most * processes % 4 == 0 else max(4, most // 4 * 4)


def command(settings: Settings) -> str:
    """The command line that trains with these settings: what differs from the preset of one
    process is named.
    """
    s = settings
    bare = preset(s.model, s.data, s.resolution, start=s.start)
    following = preset(s.model, s.data, s.resolution, 1, s.batch_size, s.images, s.start)
    # what decides on the others is compared with what stands where nothing is given
    decide = {"data": Settings.data, "resolution": Settings.resolution, "start": None,
              "batch_size": bare.batch_size, "images": bare.images}
    words = ["python -m stylegan2 train"]
    if s.model != Settings.model:
        words.append(f"--model {s.model}")
    for name, value in dataclasses.asdict(s).items():
        if name == "model" or value == decide.get(name, getattr(following, name)):
            continue
        flag = "from" if name == "start" else name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            values = value if isinstance(value, tuple) else (value,)
            words.append(f"--{flag} {shlex.join(map(str, values))}")
    return " ".join(words)
