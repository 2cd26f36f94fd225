"""Milliseconds, forward and backward, of the layers that have two forms: which is faster, and by how much.

    python benchmarks/layers.py [--batch 16 --threads 2 --rounds 5]

Modulated convolution: scaled activations against one weight per sample (a grouped convolution), and the form that
`Conv2dWeightModulate.forward` takes. The low-pass filter: depthwise against one channel over batch × channels images.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from stylegan2 import Conv2dWeightModulate, Smooth
from stylegan2.modulation import weights_are_smaller
from stylegan2.training.trainer import cpu_name

SHAPES = ((512, 4), (512, 8), (512, 16), (256, 32), (128, 64), (64, 64), (32, 128), (128, 8), (64, 16), (32, 32),
          (16, 32))


def milliseconds(forms: dict[str, Callable[[], torch.Tensor]], inputs: list[torch.Tensor],
                 rounds: int) -> dict[str, float]:
    """The median over the rounds; the forms take turns."""
    times: dict[str, list[float]] = {name: [] for name in forms}
    for round_ in range(rounds + 1):
        for name, form in forms.items():
            synchronize()
            start = time.perf_counter()
            torch.autograd.grad(form().sum(), inputs)
            synchronize()
            if round_:  # the first is a warm-up
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def one_channel(x: torch.Tensor) -> torch.Tensor:
    """The plain form of the filter: every feature map is an image of one channel."""
    smooth = Smooth(padding=1).to(x.device)
    out = F.conv2d(x.reshape(-1, 1, *x.shape[2:]), smooth.kernel, padding=1)
    return out.reshape(*x.shape[:2], *out.shape[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    machine = torch.cuda.get_device_name() if device == "cuda" else f"{cpu_name()}, {options.threads} threads"
    print(f"{machine}, torch {torch.__version__}, batch {options.batch}\n")
    print("| channels, side | scaled activations | scaled weights | taken | filter: depthwise | filter: one channel |")
    print("|---|---|---|---|---|---|")
    for channels, side in SHAPES:
        x = torch.randn(options.batch, channels, side, side, device=device, requires_grad=True)
        x = x.contiguous(memory_format=torch.channels_last)
        s = torch.randn(options.batch, channels, device=device, requires_grad=True)
        conv, smooth = Conv2dWeightModulate(channels, channels, 3).to(device), Smooth(padding=1).to(device)
        forms = {"activations": partial(conv.scale_activations, x, s), "weights": partial(conv.scale_weights, x, s)}
        ms = milliseconds(forms, [x, s, conv.weight], options.rounds)
        filters = {"depthwise": partial(smooth, x), "one channel": partial(one_channel, x)}
        ms |= milliseconds(filters, [x], options.rounds)
        taken = "weights" if weights_are_smaller(x, conv.weight) else "activations"
        print(f"| {channels}, {side}² | {ms['activations']:.1f} | {ms['weights']:.1f} | {taken} | "
              f"{ms['depthwise']:.2f} | {ms['one channel']:.2f} |", flush=True)


if __name__ == "__main__":
    main()
