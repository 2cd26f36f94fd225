"""Everything that must hold, in parts that do not hide one another: `python -m book test`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from book.build import threads
from book.project import ROOT


class Counts(NamedTuple):
    """How many checks of a part passed, failed, and were skipped, and why they were."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    reasons: tuple[str, ...] = ()


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
    skipped = int(suite.get("skipped", 0))
    passed = int(suite.get("tests", 0)) - failed - skipped
    reasons = {element.get("message", "") for element in suite.iter("skipped")}
    # pytest also fails where it collects nothing, or is interrupted: no test says so.
    return Counts(passed, failed or int(status != 0), skipped, tuple(sorted(reasons)))


def _environment(**settings: str) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(threads()), **os.environ, **settings}


# Each notebook in a fresh kernel of this environment; outputs are compared in the cells tagged nbval-check-output.
NBVAL = ("chapters", "--nbval-lax", "--nbval-current-env")
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
    """Run the parts (all, or those chosen), each whatever the others did, and sum up. Returns the exit status."""
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
            counts = Counts(skipped=1, reasons=("the site was not built",))
        else:
            counts = run()
        results[name] = (counts, time.monotonic() - start)

    print()
    for name, (counts, seconds) in results.items():
        print(f"{_verdict(counts):8} {name:10} {seconds:7.1f} s   {_told(counts)}")
        for reason in counts.reasons:
            print(f"{'':30}skipped: {reason}")
    everything = [counts for counts, _ in results.values()]
    total = Counts(
        passed=sum(counts.passed for counts in everything),
        failed=sum(counts.failed for counts in everything),
        skipped=sum(counts.skipped for counts in everything),
    )
    line = f" {_told(total)} in {time.monotonic() - began:.2f}s "
    print(line.center(100, "="), flush=True)
    return int(total.failed > 0)


def _verdict(counts: Counts) -> str:
    if counts.failed:
        return "FAILED"
    return "passed" if counts.passed else "SKIPPED"


def _told(counts: Counts) -> str:
    named = (("failed", counts.failed), ("passed", counts.passed), ("skipped", counts.skipped))
    return ", ".join(f"{number} {name}" for name, number in named if number)
