"""Every exercise of every chapter, proved: the stub is "not yet", each wrong answer is refused, the solution is right.

An exercise is three code cells that carry its id in their metadata, with the roles `stub`, `check` and `solution`; the
check cell also carries typical wrong answers, name → source. Each of them replaces the stub. They may use what the
chapter imports and defines, and nothing that it computed, so that a reader need not run the page again.
"""

import ast
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import nbformat
import pytest

from book.project import notebooks

mpl.use("Agg")

DEFINING = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


class Exercise(NamedTuple):
    """One exercise: where it is, and its three cells."""

    notebook: Path
    name: str
    cells: list[Any]

    def source(self, role: str) -> str:
        """The code of the cell of this role."""
        return next(cell.source for cell in self.cells if cell.metadata.role == role)

    @property
    def wrong(self) -> dict[str, str]:
        """Typical wrong answers."""
        return next((dict(cell.metadata.wrong) for cell in self.cells if "wrong" in cell.metadata), {})


@lru_cache
def read(path: Path) -> Any:
    """The notebook."""
    return nbformat.read(path, as_version=4)


def exercises_of(path: Path) -> list[Exercise]:
    """The exercises of a chapter, in its order."""
    found: dict[str, list[Any]] = {}
    for cell in read(path).cells:
        if "exercise" in cell.metadata:
            found.setdefault(cell.metadata.exercise, []).append(cell)
    return [Exercise(path, name, cells) for name, cells in found.items()]


def definitions_before(exercise: Exercise) -> str:
    """The imports, functions and classes of the cells before the exercise, setup and other exercises left out."""
    kept = []
    for cell in read(exercise.notebook).cells:
        if cell.metadata.get("exercise") == exercise.name:
            break
        if cell.cell_type == "code" and "exercise" not in cell.metadata and not cell.metadata.get("setup"):
            code = re.sub(r"^(\s*)[%!]", r"\1#", cell.source, flags=re.MULTILINE)  # what only IPython understands
            kept += [ast.unparse(node) for node in ast.parse(code).body if isinstance(node, DEFINING)]
    return "\n".join(kept)


def verdict(exercise: Exercise, answer: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What the check prints about an answer; what either of them raises comes through."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(definitions_before(exercise), namespace)
    exec(answer, namespace)
    capsys.readouterr()
    exec(exercise.source("check"), namespace)
    return capsys.readouterr().out.strip()


CHAPTERS = [path for path in notebooks() if re.match(r"\d\d_", path.name)]
EXERCISES = [exercise for path in notebooks() for exercise in exercises_of(path)]


def wrong_answers() -> Iterator[Any]:
    """Each wrong answer of each exercise."""
    for exercise in EXERCISES:
        for name, source in exercise.wrong.items():
            yield pytest.param(exercise, source, id=f"{exercise.name}: {name}")


each = pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.name)


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_has_three_to_six_exercises_and_one_breaks_something(path: Path) -> None:
    names = [exercise.name for exercise in exercises_of(path)]
    assert 3 <= len(names) <= 6, f"{path.name} has {len(names)} exercises"
    assert sum(name.endswith("-break") for name in names) == 1, f"one id should end in -break: {names}"


def test_names_are_unique() -> None:
    names = [exercise.name for exercise in EXERCISES]
    assert len(names) == len(set(names)), "an exercise's name is its label in the whole book"


@each
def test_its_cells_are_complete_and_in_order(exercise: Exercise) -> None:
    assert [cell.metadata.role for cell in exercise.cells] == ["stub", "check", "solution"]
    assert exercise.wrong, "give the check cell one typical wrong answer, or more"
    text = "\n".join(cell.source for cell in read(exercise.notebook).cells if cell.cell_type == "markdown")
    assert f":label: {exercise.name}\n" in text
    assert f"{{solution-start}} {exercise.name}\n:class: dropdown" in text


@each
def test_the_stub_is_not_yet_an_answer(exercise: Exercise, capsys: pytest.CaptureFixture[str]) -> None:
    assert verdict(exercise, exercise.source("stub"), capsys).startswith("not yet")


@each
def test_the_solution_is_right(exercise: Exercise, capsys: pytest.CaptureFixture[str]) -> None:
    assert verdict(exercise, exercise.source("solution"), capsys).startswith("right")


@pytest.mark.parametrize(("exercise", "answer"), list(wrong_answers()))
def test_a_wrong_answer_is_refused(exercise: Exercise, answer: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Exception, match=r"\S"):  # AssertionError from the check, or what the answer itself runs into
        print(verdict(exercise, answer, capsys))
