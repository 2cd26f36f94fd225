"""How big a run this machine gets: the same notebook on four machines.

| budget  | meant for             | a whole notebook takes |
|---------|-----------------------|------------------------|
| `smoke` | the tests             | under a minute         |
| `cpu`   | a laptop              | minutes                |
| `cuda`  | a Colab T4            | 20 minutes, estimated  |
| `full`  | a big GPU             | hours                  |

The device decides between `cpu` and `cuda`; the environment variable `BOOK_BUDGET` overrides it. `choose_device` says
which device that is; the environment variable `BOOK_DEVICE` overrides it.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

NAMES = ("smoke", "cpu", "cuda", "full")
Value = TypeVar("Value")


def name() -> str:
    """This machine's budget: `BOOK_BUDGET` where it is set, else `cuda` on a GPU (`choose_device`), else `cpu`.

    Raises:
        ValueError: `BOOK_BUDGET` is none of the four names.
    """
    chosen = os.environ.get("BOOK_BUDGET", "")
    if not chosen:
        return "cpu" if choose_device().type == "cpu" else "cuda"
    if chosen not in NAMES:
        raise ValueError(f"BOOK_BUDGET is {chosen!r}; set it to one of {', '.join(NAMES)}, or unset it")
    return chosen


def choose_device() -> torch.device:
    """Where a notebook's networks live: `BOOK_DEVICE` where it is set, else a GPU of CUDA, else the CPU.

    A Mac's GPU (`BOOK_DEVICE=mps`) is taken only when asked for: it has no float64, in which many checks are computed.

    Raises:
        ValueError: `BOOK_DEVICE` names no device, or one that is not there.
    """
    import torch

    chosen = os.environ.get("BOOK_DEVICE", "")
    if not chosen:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(chosen)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"BOOK_DEVICE is {chosen!r}, which this machine does not have: set it to cpu, cuda, cuda:1 or "
                         f"mps, or unset it ({str(error).splitlines()[0]})") from error
    return device


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has computed what it was given: what a clock that is read before tells is how long it took to
    ask. On the CPU there is nothing to wait for.
    """
    import torch

    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).synchronize()


def now(device: torch.device) -> float:
    """Seconds, of which differences mean something: of processor time, which other programs do not stretch; on a GPU of
    the clock, once it has computed what it was given.
    """
    synchronize(device)
    return time.process_time() if device.type == "cpu" else time.perf_counter()


def pick(*, smoke: Value, cpu: Value, cuda: Value | None = None, full: Value | None = None) -> Value:
    """The value for this machine's budget. `cuda` is `cpu`'s where it is left out, `full` is `cuda`'s.

    >>> steps = pick(smoke=20, cpu=2_000, cuda=20_000)  # doctest: +SKIP
    """
    on_cuda = cpu if cuda is None else cuda
    return {"smoke": smoke, "cpu": cpu, "cuda": on_cuda, "full": on_cuda if full is None else full}[name()]
