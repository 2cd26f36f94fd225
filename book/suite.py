"""Everything that must hold, in parts that do not hide one another: `python -m book test`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from book.build import threads
from book.project import ROOT

# The one reason to skip a check that is no fault: most machines have none, and nobody
# can install one.
EXCUSED = "needs a GPU"


class Counts(NamedTuple):
    """How many checks of a part passed, failed, and were skipped for which reason."""

    passed: int = 0
    failed: int = 0
    skipped: Mapping[str, int] = {}

    @property
    def unchecked(self) -> dict[str, int]:
        """Those skipped that every machine should run, by the reason for skipping."""
        return {why: count for why, count in self.skipped.items() if why != EXCUSED}


def _command(*arguments: str, **settings: str) -> Counts:
    """One command that passes or fails as a whole."""
    done = subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, env=_environment(**settings))
    return Counts(passed=1) if done.returncode == 0 else Counts(failed=1)


def _pytest(*arguments: str, **settings: str) -> Counts:
    """A run of pytest, counted test by test."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", *arguments]
        status = subprocess.run(command, cwd=ROOT, env=_environment(**settings)).returncode
        if not report.is_file():
            return Counts(failed=1)
        suite = next(ElementTree.parse(report).iter("testsuite"))
    failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
    skipped = Counter(element.get("message", "") for element in suite.iter("skipped"))
    passed = int(suite.get("tests", 0)) - failed - skipped.total()
    # pytest also fails where it collects nothing, or is interrupted: no test says so.
    return Counts(passed, failed or int(status != 0), dict(sorted(skipped.items())))


def _environment(**settings: str) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(threads()), **os.environ, **settings}


# Each notebook in a fresh kernel of this environment; outputs are compared in the cells tagged nbval-check-output.
# A plugin that shuffles tests, where there is one, would shuffle a notebook's cells.
NBVAL = ("chapters", "--nbval-lax", "--nbval-current-env", "-p", "no:randomly")
PARTS: dict[str, tuple[str, Callable[[], Counts]]] = {
    "lint": ("ruff, over the code and the notebooks", lambda: _command("ruff", "check", ".")),
    "types": ("mypy", lambda: _command("mypy")),
    "cells": ("definition cells against the packages", lambda: _command("book", "sync", "--check")),
    "tests": (
        "pytest with jaxtyping's hook",
        lambda: _pytest("tests", "--ignore=tests/site"),
    ),
    "chapters": ("nbval over every chapter, smoke budget", lambda: _pytest(*NBVAL, BOOK_BUDGET="smoke")),
    "book": ("the site, as `make book` builds it", lambda: _command("book", "build")),
    "site": ("the site in a real browser", lambda: _pytest("tests/site")),
}


def test(chosen: Sequence[str]) -> int:
    """Run the parts (all, or those chosen), each whatever the others did, and sum up.

    Returns the exit status. Where the environment says CI, a skipped check fails too,
    unless it needs a GPU: nobody reads what a green run prints.
    """
    if unknown := set(chosen) - set(PARTS):
        sys.exit(f"no part {sorted(unknown)[0]!r}; there are {', '.join(PARTS)}")
    began = time.monotonic()
    results: dict[str, tuple[Counts, float]] = {}
    for name, (what, run) in PARTS.items():
        if chosen and name not in chosen:
            continue
        print(f"\n——— {name}: {what} ———", flush=True)
        start = time.monotonic()
        if name == "site" and "book" in results and results["book"][0].failed:
            counts = Counts(skipped={"the site was not built": 1})
        else:
            counts = run()
        results[name] = (counts, time.monotonic() - start)

    print()
    for name, (counts, seconds) in results.items():
        print(f"{_verdict(counts):8} {name:10} {seconds:7.1f} s   {_told(counts)}")
        for reason, count in counts.skipped.items():
            print(f"{'':30}{count} skipped: {reason}")
    everything = [counts for counts, _ in results.values()]
    total = Counts(
        passed=sum(counts.passed for counts in everything),
        failed=sum(counts.failed for counts in everything),
        skipped=sum((Counter(counts.skipped) for counts in everything), Counter()),
    )
    for name, (counts, _) in results.items():
        of = counts.passed + counts.failed + sum(counts.skipped.values())
        for reason, count in counts.unchecked.items():
            print(f"NOT CHECKED: {name}, {count} of {of} checks ({reason})")
    line = f" {_told(total)} in {time.monotonic() - began:.2f}s "
    print(line.center(100, "="), flush=True)
    return int(any(_verdict(counts) == "FAILED" for counts in everything))


def _verdict(counts: Counts) -> str:
    if counts.failed or (counts.unchecked and os.environ.get("CI")):
        return "FAILED"
    if counts.unchecked:
        return "PARTLY" if counts.passed else "SKIPPED"
    return "passed"


def _told(counts: Counts) -> str:
    skipped = sum(counts.skipped.values())
    named = (("failed", counts.failed), ("passed", counts.passed), ("skipped", skipped))
    return ", ".join(f"{number} {name}" for name, number in named if number)
