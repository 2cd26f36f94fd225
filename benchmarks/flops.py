"""How far a training step is from what the machine can do: floating-point operations per second of every phase, over
those of a large matrix product in the same run.

    python benchmarks/flops.py [--resolution 32 --n-features 32 --max-features 256 --batch 32 --threads 2 --rounds 5]

Operations are those of convolutions and matrix products, counted by torch as they are carried out, in the second
derivatives of R1 and path length too. A multiplication with an addition counts as two. It prints a row for every phase
and precision.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from _programs import DEVICE, Case, machine, our_step, synchronize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from stylegan2.training.step import frozen


def seconds(run: Callable[[], None], rounds: int) -> float:
    """The median over the rounds, after one that is not counted."""
    times = []
    for _ in range(rounds + 1):
        synchronize()
        start = time.perf_counter()
        run()
        synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


class Count(TorchDispatchMode):
    """Adds up the operations of everything that is carried out; torch's own FlopCounterMode cannot look into a backward
    pass that is asked for by autograd.grad.
    """

    total = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        count = flop_registry.get(function._overloadpacket)
        if count is not None:
            self.total += count(*arguments, **(options or {}), out_val=result)
        return result


def operations(run: Callable[[], None]) -> int:
    """Of one run."""
    with Count() as counter:
        run()
    return counter.total


def of_a_product(precision: torch.dtype, size: int, rounds: int) -> float:
    """Operations per second of a product of square matrices: what the phases are measured against."""
    a, b = torch.randn(2, size, size, device=DEVICE, dtype=precision)
    return 2 * size**3 / seconds(lambda: torch.mm(a, b), rounds)


def phases(case: Case) -> dict[str, Callable[[], None]]:
    """The four phases, each with its backward pass and its step of Adam."""
    step, real = our_step(case), case.real_images()
    p, batch = step.phases, case.batch
    discriminator, generator = step.update_discriminator.descend, step.update_generator.descend

    def loss_of_generator() -> None:
        with frozen(step.players.discriminator):
            generator(map(p.generator_loss, step.draw(batch)))
        p.take_w()

    return {
        "D": lambda: discriminator(
            half(part) for part in step.parts(real, None) for half in (p.real_loss, p.fake_loss)),
        "R1": lambda: discriminator((), map(p.discriminator_penalty, step.parts(real, None))),
        "G": loss_of_generator,
        "path length": lambda: generator((), map(p.generator_penalty, step.draw(batch // 2))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--n-features", type=int, default=32)
    parser.add_argument("--max-features", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--matrix", type=int, default=8192 if DEVICE.type == "cuda" else 2048)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(f"{machine(options.threads)}: {options.resolution}², {options.n_features}/{options.max_features}, batch "
          f"{options.batch}\n")
    print("| phase | precision | GFLOP | ms | GFLOP/s | of a matrix product's |")
    print("|---|---|---|---|---|---|")
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        case = Case(options.resolution, options.n_features, options.max_features, options.batch, precision)
        limits = [of_a_product(dtype, options.matrix, options.rounds)]
        rows = []
        for name, run in phases(case).items():
            if precision == "bf16" and name in ("R1", "path length"):
                continue  # the penalties are always computed in fp32
            rows.append((name, operations(run), seconds(run, options.rounds)))
        limits.append(of_a_product(dtype, options.matrix, options.rounds))  # again: machines change their speed
        limit = statistics.mean(limits)
        for name, count, duration in rows:
            print(f"| {name} | {precision} | {count / 1e9:.1f} | {1e3 * duration:.1f} | {count / duration / 1e9:.0f} | "
                  f"{100 * count / duration / limit:.0f} % of {limit / 1e9:.0f} |")


if __name__ == "__main__":
    main()
