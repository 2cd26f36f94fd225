"""Checkpointing: time and peak memory of a step, ours against torch.utils.checkpoint and against no checkpointing.

    python benchmarks/recipes_checkpoint.py [--layers 16 --width 512 --batch 1024 --rounds 7 --threads 2]

A chain of linear layers and GELUs in √layers segments. The methods take turns; the figures are of the fastest round.
"""

import argparse
import math
from functools import partial

import torch
from recipes_per_sample import fastest, peak
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint_sequential as torchs

from gradnorm.checkpoint import checkpoint_sequential


def step(forward, layers: nn.Sequential, x: Tensor) -> None:
    for p in layers.parameters():
        p.grad = None
    forward(layers, x).sum().backward()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("layers", 16), ("width", 512), ("batch", 1024), ("rounds", 7), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    blocks = (nn.Sequential(nn.Linear(options.width, options.width), nn.GELU()) for _ in range(options.layers))
    layers, x = nn.Sequential(*blocks), torch.randn(options.batch, options.width)
    segments = math.isqrt(options.layers)
    methods = {
        "no checkpoints": lambda m, x: m(x),
        "torch, use_reentrant=False": lambda m, x: torchs(m, segments, x, use_reentrant=False),
        "ours": lambda m, x: checkpoint_sequential(m, segments, x),
    }
    runs = {name: partial(step, forward, layers, x) for name, forward in methods.items()}
    times = fastest(runs, options.rounds)
    reference = times["torch, use_reentrant=False"]
    print("| | ms | × torch's | peak, MiB |\n|---|---|---|---|")
    for name, run in runs.items():
        print(f"| {name} | {1e3 * times[name]:.1f} | {times[name] / reference:.2f} | {peak(run):.0f} |")


if __name__ == "__main__":
    main()
