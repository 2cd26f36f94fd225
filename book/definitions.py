"""The packages' source, read without importing it: what definition cells show.

Everything here works on text and `ast` positions, so that it runs in a second, without torch.
"""

from __future__ import annotations

import ast
from functools import lru_cache
from pathlib import Path

from book.project import ROOT

PACKAGES = ("stylegan2", "gradnorm")
SHOWN = (*PACKAGES, "book")  # by definition cells: the workshop's own tools too, where a chapter explains one
Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def source(name: str) -> str:
    """The source of a class or function of the packages or of `book`, by its dotted name, without its docstrings.

    The rest is kept to the byte: formatting, comments, decorators.

    Raises:
        KeyError: no such module, or nothing of that name at its top level.
    """
    module, _, wanted = name.rpartition(".")
    path = _module_file(module)
    if path is None:
        raise KeyError(f"{name}: there is no module {module!r} in {', '.join(SHOWN)}; write package.module.Name")
    text = path.read_text(encoding="utf-8")
    found = [node for node in _definitions(text) if node.name == wanted]
    if not found:
        known = ", ".join(sorted(node.name for node in _definitions(text))) or "nothing"
        raise KeyError(f"{name}: {path.relative_to(ROOT)} defines no class or function {wanted!r}; it defines {known}")
    return _without_docstrings(text, found[-1])


@lru_cache
def public_names() -> dict[str, str]:
    """Each public class and function of the packages, with the full name of where it lives."""
    names: dict[str, str] = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            module = ".".join(part for part in parts if part != "__init__")
            for node in _definitions(path.read_text(encoding="utf-8")):
                if not node.name.startswith("_"):
                    names.setdefault(node.name, f"{module}.{node.name}")
    return names


def defined_in(code: str) -> list[str]:
    """The names of the classes and functions that a cell defines at its top level."""
    return [node.name for node in _definitions(code)]


def _definitions(text: str) -> list[Definition]:
    return [node for node in ast.parse(text).body if isinstance(node, Definition)]


def _module_file(module: str) -> Path | None:
    parts = module.split(".")
    if parts[0] not in SHOWN:
        return None
    base = ROOT.joinpath(*parts)
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def _without_docstrings(text: str, definition: Definition) -> str:
    lines = text.splitlines()
    dropped: set[int] = set()
    for node in ast.walk(definition):
        if not isinstance(node, Definition) or ast.get_docstring(node, clean=False) is None:
            continue
        docstring = node.body[0]
        last = docstring.end_lineno or docstring.lineno
        dropped.update(range(docstring.lineno, last + 1))
        if len(node.body) == 1:  # nothing is left: an ellipsis stands for the body
            lines[docstring.lineno - 1] = " " * docstring.col_offset + "..."
            dropped.discard(docstring.lineno)
        elif not lines[last].strip():  # the blank line that set the docstring off
            dropped.add(last + 1)
    first = min([definition.lineno, *(decorator.lineno for decorator in definition.decorator_list)])
    last_line = definition.end_lineno or definition.lineno
    return "\n".join(lines[number - 1] for number in range(first, last_line + 1) if number not in dropped)
