"""The generated pages: every solution, every public object; and the edition without solutions."""

import ast
import inspect
import json
import pkgutil
import re
import subprocess
from importlib import import_module

import nbformat
import pytest

from book import backmatter, edition
from book.project import ROOT, notebooks, pages


def exercises():
    cells = [cell for path in notebooks() for cell in nbformat.read(path, as_version=4).cells]
    return [(cell.metadata.exercise, cell.source) for cell in cells if cell.metadata.get("role") == "solution"]


def test_every_solution_is_on_the_page_with_its_reason():
    page = backmatter.solutions()
    assert len(exercises()) > 30
    for label, code in exercises():
        assert f"```python\n{code}\n```" in page
        reason = page.split(f"{{ref}}`{label}`.**")[1].split("```python")[0]
        assert len(reason.split()) >= 10, f"{label}: a solution says why"


def test_pages_that_are_written_are_up_to_date():
    assert set(backmatter.PAGES) <= set(pages())
    assert backmatter.outdated() == {}


@pytest.mark.parametrize("package", backmatter.API)
def test_every_public_room_is_in_the_reference(package):
    """All modules but those that only the package's own modules and commands use; nothing that does not exist."""
    rooms = {module.name for module in pkgutil.iter_modules([str(ROOT / package)]) if not module.name.startswith("_")}
    inner = {"stylegan2": {"cli", "commands", "fields", "warp"}, "gradnorm": set()}[package]
    assert set(backmatter.API[package]) == rooms - inner


def public_objects():
    """What the pages show: `__all__` of a package, the public definitions of a module."""
    for package, rooms in backmatter.API.items():
        for room in rooms:
            module = import_module(f"{package}.{room}")
            names = getattr(module, "__all__", None)
            for name in names or [name for name in vars(module) if not name.startswith("_")]:
                thing = getattr(module, name)
                if (inspect.isclass(thing) or inspect.isfunction(thing)) and (
                        names or thing.__module__ == module.__name__):
                    yield pytest.param(thing, id=f"{module.__name__}.{name}")


@pytest.mark.parametrize("thing", list(public_objects()))
def test_every_public_object_has_a_docstring(thing):
    text = inspect.getdoc(thing) or ""
    if text.startswith(("Raises:", "Args:")):
        return  # a check whose name says what it checks
    assert text, "no docstring"
    assert not text.startswith(f"{thing.__name__}("), "the docstring that Python makes for a tuple or dataclass"


def test_the_students_edition(tmp_path):
    """No solution is left, no typical wrong answer; everything else is as it was."""
    edition.student(tmp_path / "out")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    for name in listed:
        copied = tmp_path / "out" / name
        assert copied.exists() == (not name.startswith(edition.LEFT_OUT) and (ROOT / name).exists()), name
        if name.endswith(".ipynb"):
            before, after = (nbformat.read(path, as_version=4) for path in (ROOT / name, copied))
            nbformat.validate(after)
            roles = [cell.metadata.get("role") for cell in after.cells]
            assert "solution" not in roles
            assert roles.count("stub") == [cell.metadata.get("role") for cell in before.cells].count("stub")
            assert not any("wrong" in cell.metadata or "{solution" in cell.source for cell in after.cells)
            other = [cell.source for cell in before.cells if cell.metadata.get("role") in (None, "stub", "check")
                     and "{solution" not in cell.source]
            assert set(other) >= {cell.source for cell in after.cells}
    assert "solutions" not in (tmp_path / "out" / "_toc.yml").read_text()
    texts = [path.read_text(encoding="utf-8") for path in (tmp_path / "out").rglob("*")
             if path.suffix in {".ipynb", ".md", ".py"}]
    for _, code in exercises():
        assert not any(code in text or json.dumps(code, ensure_ascii=False)[1:-1] in text for text in texts)


def test_an_edition_overwrites_nothing(tmp_path):
    with pytest.raises(FileExistsError, match="name another folder with --to"):
        edition.student(tmp_path)


def test_a_solution_in_several_cells():
    """Text before the code and text after it."""
    def markdown(text):
        return nbformat.v4.new_markdown_cell(text)

    code = nbformat.v4.new_code_cell("x = 1", metadata={"exercise": "ex-a", "role": "solution"})
    start = "```{solution-start} ex-a\n:class: dropdown\n```\nWhy."
    cells = [markdown("# T\n"), markdown(start), markdown("More."), code,
             markdown("```{solution-end}\n```"), markdown("after")]
    assert list(backmatter.solved(cells)) == [("ex-a", "Why.\n\nMore.", "x = 1")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    left = nbformat.reads(edition.without_solutions(nbformat.writes(notebook)), as_version=4).cells
    assert [cell.source for cell in left] == ["# T\n", "after"]


def test_code_on_the_page_is_python():
    blocks = re.findall(r"```python\n(.*?)\n```\n", backmatter.solutions(), re.DOTALL)
    assert len(blocks) >= len(exercises())
    for block in blocks:
        ast.parse(block)
