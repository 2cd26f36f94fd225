"""What a weighter adds to a training step: milliseconds over those of a plain weighted backward, in turns.

    python benchmarks/gradnorm_step.py [--rounds 40 --threads 1 --peer FOLDER]

Ours in five ways: at W, the last shared layer's weight (`grad_norm_parameters`), with the lengths by
`gradnorm.linear.linear_lengths`, and plainly by `gradient_lengths`; at activations passed with the losses; at the views
that `view_for_each_loss` returns; and with `update_every=10` at W. gradnorm-pytorch 0.2.3 at W, if it is installed (or
lies in the folder given). A step is forward, backward and update of the weights, without the network's optimizer.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from unittest import mock

import torch
from torch import Tensor, nn

from gradnorm import GradNormLossWeighter, MockNetworkWithMultipleLosses
from gradnorm.measure import gradient_lengths


class SmallConvNet(nn.Module):
    """Four convolutions, a shared linear layer of 128, and a classifier over ten classes for each task."""

    def __init__(self, tasks: int) -> None:
        super().__init__()
        convolutions = [layer for a, b in ((3, 32), (32, 64), (64, 64), (64, 64))
                        for layer in (nn.Conv2d(a, b, 3, stride=1 if a == 3 else 2, padding=1), nn.ReLU())]
        self.backbone = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(64 * 16, 128))
        self.heads = nn.ModuleList(nn.Sequential(nn.ReLU(), nn.Linear(128, 10)) for _ in range(tasks))


def case(name: str, batch: int, tasks: int) -> tuple[nn.Module, Tensor, Callable[[Tensor], Tensor]]:
    """A network with `backbone` and `heads`, an input, and what makes a loss of a head's output."""
    torch.manual_seed(0)
    if name == "mock":
        return MockNetworkWithMultipleLosses(512, tasks), torch.randn(batch, 512), lambda out: out.square().mean()
    target = torch.randint(0, 10, (batch,))
    return SmallConvNet(tasks), torch.randn(batch, 3, 32, 32), lambda out: nn.functional.cross_entropy(out, target)


def steps(name: str, batch: int, tasks: int, peer: type | None) -> dict[str, Callable[[], None]]:
    """A training step without and with each weighter."""
    network, x, loss = case(name, batch, tasks)
    weight = network.backbone[-1].weight
    settings = {"num_losses": tasks, "learning_rate": 1e-4, "restoring_force_alpha": 0.12}
    ones = torch.ones(tasks)

    def losses(views: tuple[Tensor, ...]) -> list[Tensor]:
        return [loss(head(z)) for head, z in zip(network.heads, views, strict=True)]

    def plain() -> None:
        (ones * torch.stack(losses((network.backbone(x),) * tasks))).sum().backward()

    def at_w(weighter: nn.Module) -> Callable[[], None]:
        return lambda: weighter(losses((network.backbone(x),) * tasks)) and None

    feature, viewed = GradNormLossWeighter(**settings), GradNormLossWeighter(**settings)

    def activations() -> None:
        z = network.backbone(x)
        feature(losses((z,) * tasks), z)

    def views() -> None:
        viewed(losses(viewed.view_for_each_loss(network.backbone(x))))

    def plainly(step: Callable[[], None]) -> Callable[[], None]:
        return mock.patch("gradnorm.gather.parameter_lengths", gradient_lengths)(step)

    ways = {
        "plain": plain,
        "W": at_w(GradNormLossWeighter(grad_norm_parameters=weight, **settings)),
        "W, plainly": plainly(at_w(GradNormLossWeighter(grad_norm_parameters=weight, **settings))),
        "activations": activations,
        "views": views,
        "W, every 10": at_w(GradNormLossWeighter(grad_norm_parameters=weight, update_every=10, **settings)),
    }
    if peer is not None:
        ways["gradnorm-pytorch"] = at_w(peer(grad_norm_parameters=weight, **settings))

    def cleared(step: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            network.zero_grad()
            step()
        return run

    return {way: cleared(step) for way, step in ways.items()}


def milliseconds(ways: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """The median over the rounds; the ways take turns, ten steps each, and the first round warms up."""
    times: dict[str, list[float]] = {way: [] for way in ways}
    for round_ in range(rounds + 1):
        for way, step in ways.items():
            start = time.perf_counter()
            for _ in range(10):
                step()
            if round_:
                times[way].append(100 * (time.perf_counter() - start))
    return {way: statistics.median(values) for way, values in times.items()}


def peak(arguments: list[str]) -> float:
    """The peak memory, in MiB, of a process of its own that makes ten steps in one way."""
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=True)
    return float(done.stdout)


def peak_of_this_process() -> float:
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def find_peer(folder: str | None) -> type | None:
    """gradnorm-pytorch's weighter, where it is installed."""
    sys.path += [folder] if folder else []
    try:
        from gradnorm_pytorch import GradNormLossWeighter as Peer
    except ImportError:
        return None
    return Peer


CASES = [("mock", batch, 4) for batch in (2, 64, 512)] + [("cnn", 64, tasks) for tasks in (2, 10)]


def rows(options: argparse.Namespace, peer: type | None) -> Iterator[list[str]]:
    for name, batch, tasks in CASES:
        ways = steps(name, batch, tasks, peer)
        ms = milliseconds(ways, options.rounds if batch < 512 else options.rounds // 4)
        passed = ["--peer", options.peer] if options.peer else []
        memory = {way: peak(["--one", name, str(batch), str(tasks), way, *passed]) for way in ways}
        over = {way: ms[way] / ms["plain"] for way in ways}
        cells = [f"{over[way]:.2f}× ({memory[way] - memory['plain']:+.0f})" for way in ways if way != "plain"]
        less = [f"{(ms['gradnorm-pytorch'] - ms['plain']) / (ms[way] - ms['plain']):.1f}" for way in ("W", "views")
                if peer is not None]
        yield [f"{name}, {batch}, {tasks}", f"{ms['plain']:.2f} ms ({memory['plain']:.0f})", *cells, " / ".join(less)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peer", help="a folder that gradnorm-pytorch lies in")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    peer = find_peer(options.peer)
    if options.one:
        name, batch, tasks, way = options.one
        step = steps(name, int(batch), int(tasks), peer)[way]
        for _ in range(10):
            step()
        print(peak_of_this_process())
        return
    print(f"torch {torch.__version__}, {options.threads} of {os.cpu_count()} threads; in brackets peak MiB, and more\n")
    head = ["network, batch, T", "plain", "W", "W, plainly", "activations", "views", "W, every 10"]
    head += ["gradnorm-pytorch", "its overhead / ours: W / views"] if peer else [""]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows(options, peer):
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
