"""A copy of the book to hand out: `python -m book edition --student`."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import nbformat

from book.project import ROOT

SOLUTIONS_PAGE = "chapters/solutions"
# What would tell the answers, or cannot hold without them.
LEFT_OUT = (f"{SOLUTIONS_PAGE}.md", "tests/chapters/", "tests/book/test_backmatter.py")


def student(to: Path) -> int:
    """Write the tree without solutions to a new folder. Returns the exit status.

    Raises:
        FileExistsError: there is something of that name.
        subprocess.CalledProcessError: this is no git checkout, so that it is not known which files belong to the book.
    """
    if to.exists():
        raise FileExistsError(f"{to} exists: nothing is overwritten; name another folder with --to")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        source, target = ROOT / name, to / name
        if name.startswith(LEFT_OUT) or not source.is_file():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == ".ipynb":
            target.write_text(without_solutions(source.read_text(encoding="utf-8")), encoding="utf-8")
        elif name == "_toc.yml":
            lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
            target.write_text("".join(line for line in lines if SOLUTIONS_PAGE not in line), encoding="utf-8")
        else:
            shutil.copy2(source, target)
    print(f"wrote {to}: exercises and their checks, no solutions; see chapters/teaching.md")
    return 0


def without_solutions(text: str) -> str:
    """A notebook's text without the cells of its solutions, and without the wrong answers that its checks were tried
    on.
    """
    notebook = nbformat.reads(text, as_version=4)
    kept: list[Any] = []
    inside = False
    for cell in notebook.cells:
        starts = cell.cell_type == "markdown" and "```{solution-start}" in cell.source
        inside = inside or starts
        if starts and (before := cell.source.partition("```{solution-start}")[0].strip()):
            kept.append(nbformat.from_dict({**cell, "source": before}))
        if not inside:
            cell.metadata.pop("wrong", None)
            kept.append(cell)
        if inside and cell.cell_type == "markdown" and "```{solution-end}" in cell.source:
            inside = False
    notebook.cells = kept
    return nbformat.writes(notebook) + "\n"
