"""How big a run this machine gets: the same notebook on four machines.

| budget  | meant for             | a whole notebook takes |
|---------|-----------------------|------------------------|
| `smoke` | the tests             | under a minute         |
| `cpu`   | a laptop              | minutes                |
| `cuda`  | a Colab T4            | up to an hour          |
| `full`  | a big GPU             | hours                  |

The device decides between `cpu` and `cuda`; the environment variable `BOOK_BUDGET` overrides it.
"""

from __future__ import annotations

import os
from typing import TypeVar

NAMES = ("smoke", "cpu", "cuda", "full")
Value = TypeVar("Value")


def name() -> str:
    """This machine's budget: `BOOK_BUDGET` where it is set, else `cuda` where torch sees a GPU, else `cpu`.

    Raises:
        ValueError: `BOOK_BUDGET` is none of the four names.
    """
    chosen = os.environ.get("BOOK_BUDGET", "")
    if not chosen:
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"
    if chosen not in NAMES:
        raise ValueError(f"BOOK_BUDGET is {chosen!r}; set it to one of {', '.join(NAMES)}, or unset it")
    return chosen


def pick(*, smoke: Value, cpu: Value, cuda: Value | None = None, full: Value | None = None) -> Value:
    """The value for this machine's budget. `cuda` is `cpu`'s where it is left out, `full` is `cuda`'s.

    >>> steps = pick(smoke=20, cpu=2_000, cuda=20_000)  # doctest: +SKIP
    """
    on_cuda = cpu if cuda is None else cuda
    return {"smoke": smoke, "cpu": cpu, "cuda": on_cuda, "full": on_cuda if full is None else full}[name()]
