"""How long a run would take on a GPU that is not at hand: an estimate, from what does not depend on the machine.

    python benchmarks/card_minutes.py

A step takes about the longer of two times: that in which the program starts its operations (each a launch, counted as
in launches.py), and that in which the card multiplies (floating-point operations of convolutions and matrix products,
counted as in flops.py). What is assumed of the card stands in `CARDS`; both figures are rough, and so are the minutes.
"""

import argparse
from typing import NamedTuple

from flops import operations
from launches import STEPS, launches, whole_steps

from stylegan2.training.config import Settings


class Card(NamedTuple):
    """What is assumed of a machine with a GPU."""

    launches: float
    """Operations that Python and torch start in a second: the processor's speed, not the card's."""
    flops: float
    """Floating-point operations in a second in float32, of which convolutions of this size reach about a third."""


CARDS = {"T4 (Colab)": Card(70e3, 8.1e12 / 3), "A100": Card(120e3, 19.5e12 / 3)}
RUNS = {
    "32², batch 32": Settings(), "32², batch 8": Settings(batch_size=8),
    "64², batch 32 (chapter 12)": Settings(resolution=64),
    "64², batch 32, augmented": Settings(resolution=64, augment=True),
    "128², 16/128, batch 32, float32": Settings(resolution=128, precision="fp32"),
}


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    titles = "".join(f"{name + ', images/s':>24}{'100,000':>10}" for name in CARDS)
    print(f"{'':34}{'launches':>9}{'GFLOP':>8}{titles}")
    for name, settings in RUNS.items():
        batch, steps = settings.batch_size, whole_steps(settings)
        started, flops = launches(steps) / STEPS, operations(steps) / STEPS
        told = f"{name:34}{started:9,.0f}{flops / 1e9:8.1f}"
        for card in CARDS.values():
            seconds = max(started / card.launches, flops / card.flops)
            told += f"{batch / seconds:24,.0f}{100_000 / batch * seconds / 60:6.1f} min"
        print(told, flush=True)


if __name__ == "__main__":
    main()
