"""The min-norm point for T = 2 … 10 losses: ours against TorchJD's MGDA, time and excess over the optimum.

    python benchmarks/recipes_pareto.py [--problems 100 --threads 1]

Both get the same Gram matrices, in float64: gradients in 1,000 dimensions that share a part and whose lengths differ by
up to a factor of 4. The optimum is by brute force over the faces of the simplex, in numpy.
"""

import argparse
import statistics
import time
from itertools import combinations

import numpy as np
import torch
from torchjd.aggregation import MGDAWeighting

from gradnorm.pareto import min_norm_point


def problem(tasks: int, generator: np.random.Generator) -> np.ndarray:
    lengths = 10 ** generator.uniform(-0.3, 0.3, (tasks, 1))
    rows = lengths * (generator.normal(size=(tasks, 1000)) + generator.normal(size=1000))
    return rows @ rows.T


def optimum(gram: np.ndarray) -> float:
    best = np.inf
    for size in range(1, len(gram) + 1):
        for face in combinations(range(len(gram)), size):
            alpha = np.linalg.solve(gram[np.ix_(face, face)], np.ones(size))
            if (alpha >= 0).all():
                best = min(best, 1 / alpha.sum())
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    generator = np.random.default_rng(0)
    solvers = {"ours": lambda gram: min_norm_point(gram).weights, "TorchJD": MGDAWeighting()}
    print("| T | ours, ms | TorchJD, ms | ours, largest excess | TorchJD, median and largest excess |")
    print("|---|---|---|---|---|")
    for tasks in range(2, 11):
        times: dict[str, list[float]] = {name: [] for name in solvers}
        excess: dict[str, list[float]] = {name: [] for name in solvers}
        for number in range(options.problems):
            array = problem(tasks, generator)
            gram, best = torch.from_numpy(array), optimum(array)
            for name, solve in solvers.items():
                start = time.perf_counter()
                weights = solve(gram)
                if number:  # the first is a warm-up
                    times[name].append(1e3 * (time.perf_counter() - start))
                excess[name].append(float(weights @ gram @ weights) / best - 1)
        ours, theirs = (statistics.median(times[name]) for name in solvers)
        print(f"| {tasks} | {ours:.2f} | {theirs:.2f} | {max(excess['ours']):.0e} | "
              f"{statistics.median(excess['TorchJD']):.1%}, {max(excess['TorchJD']):.1%} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
