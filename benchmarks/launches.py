"""How many operations a training step starts: on a GPU each is a launch, and at small resolutions they, not the
arithmetic, are what a step takes.

    python benchmarks/launches.py

Counted is every dispatched operation whose result is no view of what it was given, without detach, plain allocations
and the marks of the profiler. The numbers do not depend on the machine. The first table has whole steps, penalties and
average included, the mean over 16; the second a plain step, as the public packages can do it.
"""

import argparse
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from _programs import PROGRAMS, Case
from torch.utils._python_dispatch import TorchDispatchMode

from stylegan2.data import ToyFaces
from stylegan2.images import to_float
from stylegan2.training.config import Settings
from stylegan2.training.players import Players
from stylegan2.training.step import Step

FREE = ("aten.empty", "aten.new_empty", "aten.detach", "profiler.")
STEPS = 16  # a penalty of the discriminator comes once among them


class Launches(TorchDispatchMode):
    """Counts, while it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        view = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
        self.count += not (view or str(func).startswith(FREE))
        return func(*args, **(kwargs or {}))


def launches(run: Callable[[], object], times: int = 1) -> float:
    """Of one call, the mean over so many."""
    with Launches() as counted:
        for _ in range(times):
            run()
    return counted.count / times


def whole_steps(settings: Settings) -> Callable[[], None]:
    """So many of the trainer's own steps, penalties and average included, to be run as often as one likes."""
    torch.manual_seed(settings.seed)
    step = Step(Players(settings))
    if step.players.augment is not None:
        step.players.augment.p.fill_(0.5)
    real = to_float(ToyFaces(settings.resolution).images(torch.arange(settings.batch_size)))
    step(1, real)  # once before: Adam makes its moments

    def run() -> None:
        for number in range(STEPS):
            step(number, real)

    return run


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    cases: list[tuple[str, dict[str, Any]]] = [
        ("32², fp32", {}), ("32², bf16", {"precision": "bf16"}), ("32², fp32, augmented, p = 0.5", {"augment": True}),
        ("32², bf16, augmented, p = 0.5", {"precision": "bf16", "augment": True}), ("64², fp32", {"resolution": 64})]
    print("whole steps, batch 8")
    for name, changes in cases:
        print(f"  {name:32} {launches(whole_steps(Settings(batch_size=8, **changes))) / STEPS:7,.0f}")
    print("a plain step, 32², batch 8, noise for all")
    for name, make in PROGRAMS.items():
        # Adam as torch runs it on a GPU when nothing is said: all parameters at once.
        with mock.patch("torch.optim.adam._default_to_fused_or_foreach", return_value=(False, True)):
            try:
                run = make(Case(batch=8))
            except ImportError as error:
                print(f"  {name:32} not installed ({error})")
                continue
            run()
            print(f"  {name:32} {launches(run):7,.0f}")


if __name__ == "__main__":
    main()
