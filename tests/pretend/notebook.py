"""A notebook on the pretended accelerator.

    python -m tests.pretend.notebook chapters/12_training.ipynb

Runs all its cells, as a reader with a GPU would, in the `smoke` budget or in the one that
`BOOK_BUDGET` names. It fails where a cell fails (operands on two devices, a generator of
the CPU for a draw on the device), and where a cell tagged `on-device` leaves work to the
CPU. A long cell that is tagged `on-cpu` runs without being watched, as fast as usual.
Prints how much each cell did where.
"""

import contextlib
import os
import sys
import time
from collections import Counter
from pathlib import Path

os.environ["BOOK_DEVICE"] = "pretend"
os.environ.setdefault("BOOK_BUDGET", "smoke")
os.environ["MPLBACKEND"] = "Agg"

import nbformat
from IPython.core.interactiveshell import InteractiveShell
from torch.utils._python_dispatch import _disable_current_modes as unwatched

from tests.pretend import Counts, pretended

SHARE_OF_CPU = 0.2  # of the operations of a cell that is to run on the device
"""Faces are drawn on the CPU, latents too, and what is plotted comes back."""


def main(path: Path) -> int:
    notebook, failures = nbformat.read(path, as_version=4), []
    shell = InteractiveShell.instance()
    os.chdir(path.parent)
    print(f"{'':32}{'device':>9}{'waits':>9}{'uploads':>9}{'CPU':>9}{'s':>8}")
    with pretended() as (_, counts):
        for cell in notebook.cells:
            if cell.cell_type != "code":
                continue
            tags = cell.metadata.get("tags", ())
            counts.clear()
            start = time.perf_counter()
            with unwatched() if "on-cpu" in tags else contextlib.nullcontext():
                result = shell.run_cell(cell.source, store_history=True, silent=False)
            tell(cell.id, counts, time.perf_counter() - start)
            if not result.success and "raises-exception" not in tags:
                failures.append(f"{path.name}: cell {cell.id} fails: {result.error_in_exec!r}")
                break  # the cells below need it
            if "on-device" in tags:
                failures += left_to_the_cpu(f"{path.name}: cell {cell.id}", counts)
    print(*failures, sep="\n")
    return bool(failures)


def left_to_the_cpu(name: str, counts: Counts) -> list[str]:
    """What is wrong with a cell that is to compute on the device."""
    there, here = counts.launches.total(), counts.on_cpu.total()
    if there and here <= SHARE_OF_CPU * (there + here):
        return []
    return [f"{name} is to compute on the device and started {here} operations on the CPU, {there} there; most often "
            + ", ".join(name for name, _ in counts.on_cpu.most_common(5))]


def tell(name: str, counts: Counts, seconds: float) -> None:
    each: list[Counter[str]] = [counts.launches, counts.waits, counts.uploads, counts.on_cpu]
    if any(each):
        print(f"{name:32}" + "".join(f"{counter.total():9,}" for counter in each) + f"{seconds:8.1f}", flush=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
