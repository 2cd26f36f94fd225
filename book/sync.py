"""Bring the notebooks in line with the packages and with each other: `python -m book sync`.

A definition cell (metadata `{"defines": "stylegan2.equalized.EqualizedLinear"}`, or `package.module.Class.method` for
one method, which the cell attaches to its class) gets the object's source, the setup cell (`{"setup": true}`, or
`"gpu"` where the chapter uses one) gets its text, and the file gets one form: format 4.5, an id for every cell, one
kernel, no outputs but those that a cell tagged `nbval-check-output` holds for comparison.
The pages of the back matter that follow from the chapters and the packages are written last. Doing it twice changes
nothing.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import nbformat

from book import backmatter, definitions
from book.project import ROOT, Repository, notebooks, repository

LONGEST_CELL = 40  # lines of code: what a reader sees without scrolling
KEPT_CELL_METADATA = ("defines", "exercise", "mystnb", "role", "setup", "tags", "wrong")
KEPT_METADATA = ("mystnb", "exports")
KERNEL = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
# On Colab torch and numpy are there already, and in use: the constraint makes pip add what is missing, and leave those.
SETUP = """\
import sys

if "google.colab" in sys.modules:  # on Colab: install the book's packages, and keep the torch that is there
    import subprocess
    from importlib.metadata import version
    from pathlib import Path

    keep = Path("/tmp/keep.txt")
    keep.write_text("".join(f"{{name}}=={{version(name)}}\\n" for name in ("torch", "numpy")))
    book = "annotated-stylegan2-gradnorm[train] @ git+{url}@{branch}"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--constraint", keep, book], check=True)"""
# Where a chapter uses a GPU, its setup cell has the metadata {"setup": "gpu"}: Colab then opens it with one, and who
# has none all the same is told before an hour on the CPU.
LOOK_FOR_GPU = """

    import torch

    if not torch.cuda.is_available():
        print("There is no GPU here: the cells below compute on the CPU, and less where that takes long. Runtime → "
              "Change runtime type → T4 GPU asks Colab for one, at no cost; this notebook then starts anew.")"""
ON_GPU = {"accelerator": "GPU", "colab": {"gpuType": "T4", "provenance": []}}


def sync(paths: Iterable[Path] = (), *, check: bool = False) -> int:
    """Write the notebooks (all, or `paths`); with `check` only say what would change. Returns the exit status."""
    failed = False
    paths = list(paths)
    for path in paths or notebooks():
        before = path.read_text(encoding="utf-8")
        try:
            after, changed = synced(before, repository())
            problems = list(faults(after))
        except (KeyError, ValueError, nbformat.ValidationError) as error:
            print(f"{_shown(path)}: {error.args[0] if error.args else error}")
            failed = True
            continue
        for problem in problems:
            print(f"{_shown(path)}: {problem}")
        failed |= bool(problems)
        if before == after:
            continue
        for note in changed:
            print(f"{_shown(path)}: {note}")
        if check:
            failed = True
            print(f"{_shown(path)}: differs; run `python -m book sync`")
        else:
            path.write_text(after, encoding="utf-8")
            print(f"{_shown(path)}: written")
    for path, text in ({} if paths else backmatter.outdated()).items():
        failed |= check
        if not check:
            path.write_text(text, encoding="utf-8")
        print(f"{_shown(path)}: {'differs; run `python -m book sync`' if check else 'written'}")
    return int(failed)


def synced(text: str, repository: Repository) -> tuple[str, list[str]]:
    """A notebook's text as it should be, and a note on each cell whose code changed.

    Raises:
        KeyError: a definition cell names something that the packages do not have.
        ValueError: the text is no notebook.
    """
    try:
        notebook = nbformat.reads(text, as_version=4)
    except (nbformat.reader.NotJSONError, KeyError) as error:
        raise ValueError(f"not a notebook: {error}") from error
    notes = []
    for index, cell in enumerate(notebook.cells):
        wanted = _wanted(cell, repository)
        if wanted is not None and cell.source != wanted:
            what = cell.metadata.get("defines", "setup")
            notes.append(f"cell {index} ({what}) differs\n{_difference(cell.source, wanted)}")
            cell.source = wanted
        _tidy(cell)
    _identify(notebook.cells)
    uses_gpu = any(cell.metadata.get("setup") == "gpu" for cell in notebook.cells)
    notebook.metadata = {**_only(notebook.metadata, KEPT_METADATA), **KERNEL, **(ON_GPU if uses_gpu else {})}
    notebook.nbformat_minor = 5
    nbformat.validate(notebook)
    return nbformat.writes(notebook) + "\n", notes


def faults(text: str) -> Iterator[str]:
    """What only a person can mend in a notebook: see the messages."""
    names = definitions.public_names()
    cells = nbformat.reads(text, as_version=4).cells
    first = next((cell for cell in cells if cell.cell_type == "code"), None)
    if first is not None and not first.metadata.get("setup"):
        yield 'the first code cell is not the setup cell: put an empty one before it, with the metadata {"setup": true}'
    for index, cell in enumerate(cells):
        if cell.cell_type != "code":
            continue
        lines = sum(1 for line in cell.source.splitlines() if line.strip() and not line.strip().startswith("#"))
        if lines > LONGEST_CELL:
            what = cell.metadata.get("defines", "the cell")
            yield f"cell {index} is {lines} lines of code, more than {LONGEST_CELL}; split {what}"
        if "nbval-check-output" in cell.metadata.get("tags", ()) and not cell.outputs:
            yield (
                f"cell {index} is tagged nbval-check-output and holds no output; store it with"
                " `jupyter execute --inplace`, then sync"
            )
        if "defines" in cell.metadata or cell.metadata.get("setup"):
            continue
        code = re.sub(r"^(\s*)[%!]", r"\1#", cell.source, flags=re.MULTILINE)  # what only IPython understands
        try:
            for name in definitions.defined_in(code):
                if name in names:
                    yield (
                        f"cell {index} defines {name} again, which is {names[name]}; import it, show it in a definition"
                        " cell, or take another name"
                    )
        except SyntaxError as error:
            yield f"cell {index} is not Python: {error}"


def _wanted(cell: Any, repository: Repository) -> str | None:
    """The code that belongs in the cell, or None where it is the author's own."""
    if cell.cell_type != "code":
        return None
    if cell.metadata.get("setup"):
        text = SETUP.format(url=repository.url, branch=repository.branch)
        return text + (LOOK_FOR_GPU if cell.metadata["setup"] == "gpu" else "")
    if "defines" in cell.metadata:
        code = definitions.source(cell.metadata["defines"])
        ast.parse(code)
        return code
    return None


def _tidy(cell: Any) -> None:
    cell.metadata = _only(cell.metadata, KEPT_CELL_METADATA)
    if cell.cell_type != "code":
        return
    if "nbval-check-output" not in cell.metadata.get("tags", ()):
        cell.outputs = []
    # nbval compares no output that claims never to have run, so one that is kept says it ran first, whenever that was.
    cell.execution_count = 1 if cell.outputs else None
    for output in cell.outputs:
        if "execution_count" in output:
            output.execution_count = 1


def _identify(cells: list[Any]) -> None:
    """Give each cell without an id one that follows from its text, so that two people get the same."""
    taken = {cell.id for cell in cells if "id" in cell and not cell.id.startswith("_")}
    for cell in cells:
        if "id" in cell:
            continue
        stem = hashlib.sha256(cell.source.encode()).hexdigest()[:8]
        number = 1
        while (name := stem if number == 1 else f"{stem}-{number}") in taken:
            number += 1
        taken.add(name)
        cell.id = name


def _only(metadata: dict[str, Any], kept: tuple[str, ...]) -> Any:
    return nbformat.from_dict({key: metadata[key] for key in kept if key in metadata})


def _difference(have: str, want: str) -> str:
    lines = list(difflib.unified_diff(have.splitlines(), want.splitlines(), lineterm="", n=1))
    return "\n".join(f"    {line}" for line in lines[2:])


def _shown(path: Path) -> str:
    path = path.resolve()
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
