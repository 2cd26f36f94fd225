"""Every chapter that uses the reader's GPU, on one that is pretended: nothing mixes devices, and what is to be computed
there is computed there.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

CHAPTERS = Path(__file__).parents[2] / "chapters"
ON_DEVICE = [path for path in sorted(CHAPTERS.glob("*.ipynb")) if "choose_device()" in path.read_text(encoding="utf-8")]
Run = subprocess.CompletedProcess[str]


def run(path: Path) -> Run:
    """In the smoke budget, on one thread; tests/pretend/notebook.py says what fails."""
    return subprocess.run(
        [sys.executable, "-m", "tests.pretend.notebook", str(path)], cwd=CHAPTERS.parent, text=True,
        env=os.environ | {"BOOK_BUDGET": "smoke", "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT)


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest) -> Iterator[dict[Path, Future[Run]]]:
    """Of all chapters that are asked for, two at a time."""
    asked = [item.callspec.params["path"] for item in request.session.items
             if getattr(item, "callspec", None) and item.path == Path(__file__)]
    with ThreadPoolExecutor(2) as pool:
        yield {path: pool.submit(run, path) for path in asked}


def test_there_are_some():
    assert len(ON_DEVICE) >= 10


@pytest.mark.parametrize("path", ON_DEVICE, ids=lambda path: path.stem)
def test_a_chapter_on_a_pretended_gpu(path, runs):
    done = runs[path].result()
    assert done.returncode == 0, done.stdout[-3000:]
    assert "on-device" in path.read_text(encoding="utf-8"), "no cell is tagged as one that computes there"
