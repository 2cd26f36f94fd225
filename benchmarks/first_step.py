"""Seconds from `python -m stylegan2 train`, with its defaults, to the end of the first training step.

    python benchmarks/first_step.py [--rounds 5]

A fresh process every time, from its start to the line that it logs after its first step: imports, networks, the sample
grid of the untrained generator, data, the step with both penalties. It is then stopped.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from _programs import machine


def seconds_to_first_step(folder: Path) -> float:
    """Start, wait for the first line of history.jsonl, stop.

    Raises:
        SystemExit: the process ended before.
    """
    start = time.perf_counter()
    command = [sys.executable, "-m", "stylegan2", "train", "--run", str(folder), "--log-every", "1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        history = folder / "history.jsonl"
        try:
            while not (history.exists() and history.stat().st_size):
                if process.poll() is not None:
                    raise SystemExit(process.communicate()[1].decode())
                time.sleep(0.02)
            return time.perf_counter() - start
        finally:
            process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    times = []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            times.append(seconds_to_first_step(Path(folder) / "run"))
    print(f"| first step | {statistics.median(times):.1f} s ({min(times):.1f} to {max(times):.1f}) | "
          f"{machine(torch.get_num_threads())} |")


if __name__ == "__main__":
    main()
