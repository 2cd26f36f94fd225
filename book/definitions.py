"""The packages' source, read without importing it: what definition cells show.

Everything here works on text and `ast` positions, so that it runs in a second, without torch.
"""

from __future__ import annotations

import ast
import textwrap
from functools import lru_cache
from pathlib import Path

from book.project import ROOT

PACKAGES = ("stylegan2", "gradnorm")
SHOWN = (*PACKAGES, "book")  # by definition cells: the workshop's own tools too, where a chapter explains one
Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def source(name: str) -> str:
    """What a definition cell of this name holds: the source of a class, a function or a method, without docstrings.

    The rest is kept to the byte: formatting, comments, decorators. A method (`package.module.Class.method`) is
    dedented, and a last line attaches it to its class, so that whoever edits the cell changes the class.

    Args:
        name: in the packages or in `book`, dotted.

    Raises:
        KeyError: no such module, nothing of that name at its top level, or no such method.
        ValueError: a method that calls `super()`, which only works inside of a class.
    """
    outer, _, wanted = name.rpartition(".")
    path = _module_file(outer)
    if path is not None:
        text = path.read_text(encoding="utf-8")
        return _without_docstrings(text, _found(name, path, _definitions(text), wanted)[-1])
    module, _, owner = outer.rpartition(".")
    path = _module_file(module) if owner[:1].isupper() else None
    if path is None:
        raise KeyError(
            f"{name}: there is no module {outer!r} in {', '.join(SHOWN)}; write package.module.Name, or "
            "package.module.Class.method"
        )
    text = path.read_text(encoding="utf-8")
    holder = _found(name, path, _definitions(text), owner)[-1]
    methods = [node for node in holder.body if isinstance(node, Definition)]
    return _method(name, text, owner, _found(name, path, methods, wanted, owner))


def _found(name: str, path: Path, nodes: list[Definition], wanted: str, owner: str = "") -> list[Definition]:
    found = [node for node in nodes if node.name == wanted]
    if not found:
        known = ", ".join(sorted({node.name for node in nodes})) or "nothing"
        file = path.relative_to(ROOT)
        lacks = f"{owner} in {file} has no method" if owner else f"{file} defines no class or function"
        raise KeyError(f"{name}: {lacks} {wanted!r}; it {'has' if owner else 'defines'} {known}")
    return found


def _method(name: str, text: str, owner: str, found: list[Definition]) -> str:
    """The method; of a property all that is defined under its name, of overloads the last."""
    shown = [node for node in found if not any(ast.unparse(d) == "overload" for d in node.decorator_list)]
    for node in shown:
        if any(isinstance(part, ast.Name) and part.id in ("super", "__class__") for part in ast.walk(node)):
            raise ValueError(f"{name} calls super(), which needs the class around it: show the class")
    parts = [textwrap.dedent(_without_docstrings(text, node)) for node in shown]
    return "\n\n\n".join([*parts, f"{owner}.{found[0].name} = {found[0].name}"])


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
