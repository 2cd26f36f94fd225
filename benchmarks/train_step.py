"""Images per second and peak memory of a G + D training step: ours against a public package, in one run.

    python benchmarks/train_step.py [--resolution 32 | 64 | 256] [--against labml-nn | stylegan2-pytorch]
        [--n-features 32 --max-features 256 --batch 32 --precision bf16 --compile --no-noise --threads 2 --seconds 15
        --rounds 3]

Both train networks of the same widths with their own losses and optimizers, without penalties and without reading data.
The two take turns, so that a machine that changes its speed changes it for both; the ratio is taken round by round.
Memory is what a process of each takes beyond its imports, at its highest. The last line is a row for
benchmarks/README.md.
"""

import argparse
import itertools
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from _programs import DEVICE, PROGRAMS, Case, machine, synchronize

DEFAULTS = {32: (32, 256, 32), 64: (16, 256, 16), 256: (64, 512, 16)}  # n_features, max_features, batch


def images_per_second(run: Callable[[], None], batch: int, seconds: float) -> float:
    """Steps for at least so long, after one that is not counted."""
    run()
    synchronize()
    start = time.perf_counter()
    for steps in itertools.count(1):
        run()
        synchronize()
        passed = time.perf_counter() - start
        if passed > seconds:
            return steps * batch / passed
    raise AssertionError("unreachable")


def peak_bytes() -> int:
    """The most memory that this process has held: on the GPU, or in all."""
    if DEVICE.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def report_memory(program: str, case: Case) -> None:
    """Print the bytes that networks, optimizers and three steps take at their highest."""
    PROGRAMS[program](Case(resolution=8, n_features=4, max_features=4, batch=4))()  # imports, and the kernels' own
    before = peak_bytes()
    run = PROGRAMS[program](case)
    for _ in range(3):
        run()
    print(peak_bytes() - before)


def memory(program: str, arguments: list[str]) -> float:
    """MiB, measured in a process of its own.

    Raises:
        SystemExit: that process failed.
    """
    command = [sys.executable, __file__, *arguments, "--memory-of", program]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(result.stderr)
    return int(result.stdout.split()[-1]) / 2**20


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolution", type=int, choices=list(DEFAULTS), default=32)
    parser.add_argument("--against", choices=list(PROGRAMS)[1:], default="labml-nn")
    parser.add_argument("--n-features", type=int, help="channels at full resolution; a usual width when not given")
    parser.add_argument("--max-features", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="of ours; theirs is fp32")
    parser.add_argument("--compile", action="store_true", help="ours")
    parser.add_argument("--no-noise", action="store_true", help="for ours, as it trains by default; theirs has noise")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory-of", choices=list(PROGRAMS), help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    n_features, max_features, batch = DEFAULTS[options.resolution]
    case = Case(options.resolution, options.n_features or n_features, options.max_features or max_features,
                options.batch or batch, options.precision, options.compile, not options.no_noise)
    if options.memory_of:
        report_memory(options.memory_of, case)
        return
    names = ["ours", options.against]
    mib = {name: memory(name, sys.argv[1:]) for name in names}  # first: a child's peak starts at its parent's
    runs = {name: PROGRAMS[name](case) for name in names}
    speeds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for name, run in runs.items():
            speeds[name].append(images_per_second(run, case.batch, options.seconds))
    ratios = [a / b for a, b in zip(*speeds.values(), strict=True)]
    for name, values in speeds.items():
        print(f"{name:18} {statistics.median(values):7.1f} images/s   ({min(values):.1f} to {max(values):.1f})   "
              f"{mib[name]:.0f} MiB")
    print(f"{'ratio':18} {statistics.median(ratios):7.2f}            ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"| {case.resolution}², {case.n_features}/{case.max_features}, batch {case.batch}, {case.precision}"
          f"{', compiled' * case.compile}{', no noise' * (not case.noise)} | {options.against} | "
          f"{statistics.median(speeds['ours']):.1f} | "
          f"{statistics.median(speeds[options.against]):.1f} | {statistics.median(ratios):.2f} ({min(ratios):.2f} to "
          f"{max(ratios):.2f}) | {mib['ours']:.0f} | {mib[options.against]:.0f} | {machine(options.threads)} |")


if __name__ == "__main__":
    main()
