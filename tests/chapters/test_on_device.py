"""Every chapter that uses the reader's GPU, on one that is pretended: nothing mixes devices, and what is to be computed
there is computed there.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHAPTERS = Path(__file__).parents[2] / "chapters"
ON_DEVICE = [path for path in sorted(CHAPTERS.glob("*.ipynb")) if "choose_device()" in path.read_text(encoding="utf-8")]


def test_there_are_some():
    assert len(ON_DEVICE) >= 10


@pytest.mark.parametrize("path", ON_DEVICE, ids=lambda path: path.stem)
def test_a_chapter_on_a_pretended_gpu(path):
    """The smoke budget; tests/pretend/notebook.py says what fails."""
    command = [sys.executable, "-m", "tests.pretend.notebook", str(path)]
    done = subprocess.run(command, cwd=CHAPTERS.parent, env=os.environ | {"BOOK_BUDGET": "smoke"}, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "on-device" in path.read_text(encoding="utf-8"), "no cell is tagged as one that computes there"
