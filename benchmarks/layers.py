"""Milliseconds, forward and backward, of the layers that have two forms: which is faster, and by how much.

    python benchmarks/layers.py [--batch 16 --threads 2 --rounds 5]

Modulated convolution: scaled activations against one weight per sample (a grouped convolution), and the form that
`Conv2dWeightModulate.forward` takes. The low-pass filter at full resolution, doubling and halving: depthwise as in
`stylegan2.resample`, against one channel over batch × channels images, and for doubling and halving against the two
steps that their definitions name (zeros in between, then the filter; the filter, then every second pixel). Minibatch
standard deviation: ours against `Tensor.std` in one group after the other.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from _programs import DEVICE, machine, synchronize

from stylegan2 import Conv2dWeightModulate, DownSample, MiniBatchStdDev, Smooth, UpSample
from stylegan2.modulation import weights_are_smaller

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


def one_channel(x: torch.Tensor, smooth: Smooth) -> torch.Tensor:
    """The plain form of the filter: every feature map is an image of one channel."""
    images = x.reshape(-1, 1, *x.shape[2:])
    if isinstance(smooth, UpSample):
        out = F.conv_transpose2d(images, smooth.kernel, stride=2, padding=1)
    else:
        out = F.conv2d(images, smooth.kernel, padding=1, stride=2 if isinstance(smooth, DownSample) else 1)
    return out.reshape(*x.shape[:2], *out.shape[2:])


def in_two_steps(x: torch.Tensor, smooth: Smooth) -> torch.Tensor:
    """Doubling and halving as they are defined."""
    kernel = smooth.depthwise(x)
    if isinstance(smooth, DownSample):
        return F.conv2d(x, kernel, padding=1, groups=x.shape[1])[:, :, ::2, ::2]
    zeros = F.pad(x[:, :, :, None, :, None], (0, 1, 0, 0, 0, 1)).flatten(4).flatten(2, 3)  # [batch, channels, 2h, 2w]
    return F.conv2d(F.pad(zeros, (2, 1, 2, 1)), kernel, groups=x.shape[1])


def plain_std_dev(x: torch.Tensor) -> torch.Tensor:
    """Minibatch standard deviation in groups of 4, group by group."""
    groups = len(x) // 4
    std = [(x[i::groups].var(dim=0, unbiased=False) + 1e-8).sqrt().mean() for i in range(groups)]
    channel = torch.stack(std).repeat(4)[:, None, None, None].expand(-1, 1, *x.shape[2:])
    return torch.cat([x, channel], dim=1)


def convolutions(batch: int, rounds: int) -> None:
    print("| channels, side | scaled activations | scaled weights | taken |")
    print("|---|---|---|---|")
    for channels, side in SHAPES:
        x = features(batch, channels, side)
        s = torch.randn(batch, channels, device=DEVICE, requires_grad=True)
        conv = Conv2dWeightModulate(channels, channels, 3).to(DEVICE)
        forms = {"activations": partial(conv.scale_activations, x, s), "weights": partial(conv.scale_weights, x, s)}
        ms = milliseconds(forms, [x, s, conv.weight], rounds)
        taken = "weights" if weights_are_smaller(x, conv.weight) else "activations"
        print(f"| {channels}, {side}² | {ms['activations']:.1f} | {ms['weights']:.1f} | {taken} |", flush=True)


def filters(batch: int, rounds: int) -> None:
    print("\n| channels, side | filter: depthwise | one channel | up: transposed | zeros, filter | one channel | "
          "down: strided | filter, drop | one channel |")
    print("|---|---|---|---|---|---|---|---|---|")
    for channels, side in SHAPES:
        x, cells = features(batch, channels, side), []
        for smooth in (Smooth(padding=1).to(DEVICE), UpSample().to(DEVICE), DownSample().to(DEVICE)):
            forms = {"depthwise": partial(smooth, x), "one channel": partial(one_channel, x, smooth)}
            if type(smooth) is not Smooth:
                two = partial(in_two_steps, x, smooth)
                torch.testing.assert_close(two(), smooth(x))
                forms = {"depthwise": forms["depthwise"], "two steps": two, "one channel": forms["one channel"]}
            torch.testing.assert_close(forms["one channel"](), smooth(x))
            cells += [f"{value:.2f}" for value in milliseconds(forms, [x], rounds).values()]
        print(f"| {channels}, {side}² | {' | '.join(cells)} |", flush=True)


def std_devs(batch: int, rounds: int) -> None:
    print("\n| features at 4² | minibatch standard deviation | group by group |")
    print("|---|---|---|")
    for channels in (128, 256, 512):
        x = features(batch, channels, 4)
        forms = {"ours": partial(MiniBatchStdDev(4), x), "plain": partial(plain_std_dev, x)}
        torch.testing.assert_close(forms["ours"](), forms["plain"]())
        ms = milliseconds(forms, [x], rounds)
        print(f"| {channels} | {ms['ours']:.2f} | {ms['plain']:.2f} |", flush=True)


def features(batch: int, channels: int, side: int) -> torch.Tensor:
    x = torch.randn(batch, channels, side, side, device=DEVICE).contiguous(memory_format=torch.channels_last)
    return x.requires_grad_()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{machine(options.threads)}, batch {options.batch}\n")
    convolutions(options.batch, options.rounds)
    filters(options.batch, options.rounds)
    std_devs(options.batch, options.rounds)


if __name__ == "__main__":
    main()
