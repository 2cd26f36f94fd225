"""Small things that the loop watches: what the steps measure, and whether somebody asks it to stop."""

import signal
import time
from collections import Counter
from types import FrameType

from torch import Tensor


class Means:
    """Running means of what the steps measure; summed on the device, so that a step need not wait for it."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: Counter[str] = Counter()
        self.steps, self.since, self.worked = 0, time.perf_counter(), time.process_time()

    def add(self, metrics: dict[str, Tensor]) -> None:
        for name, value in metrics.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.counts.update(metrics.keys())
        self.steps += 1

    def take(self) -> tuple[dict[str, Tensor], int, float, float]:
        """The means, the number of steps, the seconds since the last call and those of processor time (of all its
        threads, which other programs do not stretch); starts again.
        """
        values = {name: total / self.counts[name] for name, total in self.sums.items()}
        steps, seconds = self.steps, time.perf_counter() - self.since
        processor_seconds = time.process_time() - self.worked
        self.start()
        return values, steps, seconds, processor_seconds


# Ctrl-C, kill, a closed terminal, Ctrl-\, a limit on processor time, and what schedulers send before they kill.
STOPPING = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGXCPU", "SIGUSR1", "SIGUSR2")


class StopSignal:
    """Turns a signal that would end the process into a wish to stop after the step; a second SIGINT interrupts at
    once. What was ignored before stays so: `nohup` works.
    """

    def __enter__(self) -> "StopSignal":
        self.asked = False
        known = [getattr(signal, name) for name in STOPPING if hasattr(signal, name)]  # Windows has fewer
        heard = [s for s in known if signal.getsignal(s) is not signal.SIG_IGN]
        self.previous = {s: signal.signal(s, self.ask) for s in heard}
        return self

    def ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
