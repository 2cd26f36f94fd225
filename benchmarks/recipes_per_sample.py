"""Per-sample gradients: our engines against Opacus, BackPACK, vmap and ExpandedWeights, times a plain backward.

    python benchmarks/recipes_per_sample.py [--batch 64 --rounds 7 --threads 2]

On a small CNN (32² images, 3 convolutions, group norms) and a small transformer (2 blocks, 128 features, 32 words).
All take turns in one process; the figure is the fastest round over the plain backward's fastest round, which other work
on the machine disturbs least. The peak is of what the call allocates, by torch's profiler on a CPU.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.utils._per_sample_grad import call_for_per_sample_grads

from gradnorm.per_sample import per_sample_gradients, per_sample_norms

Run = Callable[[], object]


def small_cnn() -> tuple[nn.Module, Tensor]:
    layers = []
    for width, out in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(width, out, 3, stride=2, padding=1), nn.GroupNorm(4, out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 16, 10)), torch.randn(64, 3, 32, 32)


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.norm1, self.norm2 = heads, nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(self.norm1(x)).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.blocks = nn.Embedding(1000, 128), nn.Sequential(Block(128, 4), Block(128, 4))
        self.norm, self.head = nn.LayerNorm(128), nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.words(x))).mean(dim=1))


def small_transformer() -> tuple[nn.Module, Tensor]:
    return Transformer(), torch.randint(0, 1000, (64, 32))


def plain(module: nn.Module, x: Tensor, y: Tensor) -> None:
    module.zero_grad()
    F.cross_entropy(module(x), y, reduction="sum").backward()


def sum_loss(output: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(output, y, reduction="sum")


def with_expanded_weights(module: nn.Module, x: Tensor, y: Tensor) -> None:
    for p in module.parameters():
        p.grad_sample = None
    sum_loss(call_for_per_sample_grads(module)(x), y).backward()


def with_vmap(module: nn.Module, x: Tensor, y: Tensor) -> object:
    def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return sum_loss(functional_call(module, parameters, (x[None],)), y[None])

    return vmap(grad(loss), in_dims=(None, 0, 0))({n: p.detach() for n, p in module.named_parameters()}, x, y)


def with_opacus(module: nn.Module, x: Tensor, y: Tensor) -> Run:
    from opacus import GradSampleModule

    wrapped = GradSampleModule(module, loss_reduction="sum")

    def run() -> None:
        for p in module.parameters():
            p.grad = p.grad_sample = None
        sum_loss(wrapped(x), y).backward()

    return run


def with_backpack(module: nn.Module, x: Tensor, y: Tensor) -> Run:
    from backpack import backpack, extend
    from backpack.extensions import BatchGrad

    extended, loss = extend(module), extend(nn.CrossEntropyLoss(reduction="sum"))

    def run() -> None:
        extended.zero_grad()
        with backpack(BatchGrad()):
            loss(extended(x), y).backward()

    return run


def contenders(make: Callable[[], tuple[nn.Module, Tensor]], batch: int) -> dict[str, Run]:
    """Each with a network of its own, since some leave hooks in it."""

    def fresh() -> tuple[nn.Module, Tensor, Tensor]:
        torch.manual_seed(0)
        module, x = make()
        return module, x[:batch], torch.randint(0, 10, (batch,))

    runs: dict[str, Run] = {"plain": partial(plain, *fresh())}
    for engine in ("hooks", "vmap", "expanded_weights"):
        module, x, y = fresh()
        runs[f"ours: {engine}"] = partial(per_sample_gradients, module, x, sum_loss, targets=y, engine=engine)
    module, x, y = fresh()
    runs["ours: norms alone"] = partial(per_sample_norms, module, x, sum_loss, targets=y)
    runs["ExpandedWeights"] = partial(with_expanded_weights, *fresh())
    runs["vmap(grad)"] = partial(with_vmap, *fresh())
    for name, start in (("Opacus", with_opacus), ("BackPACK", with_backpack)):
        try:
            run = start(*fresh())
            run()
            runs[name] = run
        except Exception as error:  # what a package cannot do is a result
            print(f"{name}: {type(error).__name__}: {str(error).splitlines()[0][:150]}")
    return runs


def peak(run: Run) -> float:
    """MiB: the largest sum of allocations less releases during the call, which begins by releasing an earlier one's."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    held = highest = 0
    for event in sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held = max(held + event.nbytes(), 0)
            highest = max(highest, held)
    return highest / 2**20


def fastest(runs: dict[str, Run], rounds: int) -> dict[str, float]:
    """Seconds of each one's fastest call; they take turns, after a round that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if number:  # the first is a warm-up
                times[name].append(time.perf_counter() - start)
    return {name: min(seconds) for name, seconds in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    for make in (small_cnn, small_transformer):
        runs = contenders(make, options.batch)
        times = fastest(runs, options.rounds)
        print(f"\n{make.__name__}: plain {1e3 * times['plain']:.1f} ms")
        print("\n| | × plain | peak, MiB |\n|---|---|---|")
        for name, run in runs.items():
            print(f"| {name} | {times[name] / times['plain']:.2f} | {peak(run):.0f} |", flush=True)


if __name__ == "__main__":
    main()
