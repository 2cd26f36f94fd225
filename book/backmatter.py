"""The pages of the back matter that follow from the rest: solutions from the chapters, the API from the packages.

`python -m book sync` writes those that `_toc.yml` lists.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat

from book.project import ROOT, notebooks, pages

NOTE = "% Written by `python -m book sync`: change the {} instead.\n"
# The rooms in the order in which the book enters them; a package stands for what it exports.
API = {
    "stylegan2": (
        "equalized", "resample", "modulation", "mapping", "generator", "stylegan1", "progressive", "discriminator",
        "losses", "penalties", "augment", "ema", "training", "data", "explore", "metrics", "convert", "weights", "hub",
        "images", "files", "precision"),
    "gradnorm": (
        "weighter", "algorithm", "measure", "linear", "gather", "losses", "distributed", "pareto", "per_sample",
        "checkpoint", "graph", "meta", "toy", "mocks"),
}  # fmt: skip


def solutions() -> str:
    """Every exercise's solution, chapter by chapter, with a link to the exercise."""
    parts = [
        NOTE.format("chapters"),
        "# Solutions\n",
        "Each stands folded under its exercise too, where its check can be run. The text says why. Other answers may "
        "pass the same check.\n",
    ]
    for path in notebooks():
        notebook = nbformat.read(path, as_version=4)
        found = list(solved(notebook.cells))
        if found:
            parts.append(f"## {title_of(notebook.cells)}\n")
        for label, why, answer in found:
            parts.append(f"**{{ref}}`{label}`.** {why}\n\n```python\n{answer}\n```\n")
    return "\n".join(parts)


def exercises() -> str:
    """Every exercise by chapter: a list for whoever plans a course."""
    parts = [
        NOTE.format("chapters"),
        "# Exercises\n",
        "Every chapter's, in its order. Each has a cell to fill in and a cell that checks it. The checks themselves "
        "were tried: on the untouched cell, on typical wrong answers, and on the solution.\n",
    ]
    for path in notebooks():
        cells = nbformat.read(path, as_version=4).cells
        checks = [cell.metadata for cell in cells if cell.metadata.get("role") == "check"]
        if checks:
            parts.append(f"## {title_of(cells)}\n")
            parts += [f"- {{ref}}`{check.exercise}`" for check in checks]
            parts.append("")
    return "\n".join(parts)


def solved(cells: list[Any]) -> Iterator[tuple[str, str, str]]:
    """Of a chapter's exercises: label, the text of the solution, its code."""
    text: dict[str, str] = {}
    label = ""
    for cell in cells:
        if cell.cell_type == "markdown":
            begun = re.match(r"```\{solution-start\} (\S+)\n(?::.*\n)*```\n?", cell.source)
            if begun:
                label = begun[1]
                text[label] = cell.source[begun.end() :].strip()
            elif cell.source.startswith("```{solution-end}"):
                label = ""
            elif label:
                text[label] += "\n\n" + cell.source.strip()
        elif cell.metadata.get("role") == "solution":
            yield cell.metadata.exercise, text.get(cell.metadata.exercise, ""), cell.source


def title_of(cells: list[Any]) -> str:
    """The first heading."""
    return next(line[2:] for cell in cells for line in cell.source.splitlines() if line.startswith("# "))


def api(package: str) -> str:
    """The docstrings of a package's rooms."""
    parts = [NOTE.format("docstrings"), f"(api-{package})=\n# The package `{package}`\n"]
    for room in API[package]:
        name = f"{package}.{room}"
        parts.append(f"## `{name}`\n\n```{{eval-rst}}\n.. automodule:: {name}\n   :members:\n   :undoc-members:\n```\n")
    return "\n".join(parts)


PAGES: dict[str, Callable[[], str]] = {
    "chapters/exercises": exercises,
    "chapters/solutions": solutions,
    "chapters/api_stylegan2": lambda: api("stylegan2"),
    "chapters/api_gradnorm": lambda: api("gradnorm"),
}


def outdated() -> dict[Path, str]:
    """The generated pages whose file is not what it should be, with the text that it should have."""
    listed = pages()
    wanted = {ROOT / f"{page}.md": make() for page, make in PAGES.items() if page in listed}
    return {
        path: text for path, text in wanted.items() if not path.is_file() or path.read_text(encoding="utf-8") != text
    }
