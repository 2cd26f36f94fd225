"""MAML on sinusoids: mean squared error on 600 new tasks after 0, 1, 5 and 10 inner steps, against plain training.

    python benchmarks/recipes_meta.py [--iterations 2000 --seeds 1 --threads 1]
"""

import argparse
import time

import torch

from gradnorm.meta import adaptation_curve, train_sinusoids

METHODS = {"MAML": {}, "first-order MAML": {"first_order": True}, "trained plainly": {"inner_steps": 0}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("| | seed | 0 steps | 1 | 5 | 10 | training, s |\n|---|---|---|---|---|---|---|")
    for name, settings in METHODS.items():
        for seed in range(options.seeds):
            start = time.perf_counter()
            network = train_sinusoids(options.iterations, seed=seed, **settings)
            seconds = time.perf_counter() - start
            curve = adaptation_curve(network).tolist()
            cells = " | ".join(f"{curve[steps]:.2f}" for steps in (0, 1, 5, 10))
            print(f"| {name} | {seed} | {cells} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
