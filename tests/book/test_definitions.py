import ast

import pytest

from book import definitions
from book.project import ROOT


def test_class_without_docstrings_is_otherwise_kept_to_the_byte(packages):
    assert (
        definitions.source("stylegan2.shapes.Area")
        == """\
class Area(Shape):
    sides = 4  # a comment that stays

    def of(self, a, b):
        return a*b   # formatting that stays

    @property
    def empty(self):
        ..."""
    )


def test_function_keeps_its_decorators_and_loses_inner_docstrings(packages):
    assert (
        definitions.source("stylegan2.shapes.half")
        == """\
@decorated(
    with_lines=True,
)
def half(x):
    def inner():
        return "no docstring"

    return x / 2"""
    )


def test_package_modules_are_found(packages):
    assert definitions.source("stylegan2.data.toy") == "def toy():\n    return 1"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("stylegan2.shapes.Circle", "no class or function 'Circle'; it defines Area, _private, half"),
        ("stylegan2.nowhere.Area", "no module 'stylegan2.nowhere'"),
        ("numpy.linalg.norm", "no module 'numpy.linalg' in stylegan2, gradnorm, book"),
        ("Area", "write package.module.Name"),
    ],
)
def test_unknown_names_are_told(packages, name, told):
    with pytest.raises(KeyError, match=told):
        definitions.source(name)


def test_public_names_leave_out_private_ones(packages):
    assert definitions.public_names() == {
        "Area": "stylegan2.shapes.Area",
        "half": "stylegan2.shapes.half",
        "toy": "stylegan2.data.toy",
    }


def test_every_definition_of_the_packages_survives_as_the_same_code():
    compared = 0
    for package in definitions.PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            module = ".".join(part for part in path.relative_to(ROOT).with_suffix("").parts if part != "__init__")
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                    [shown] = ast.parse(definitions.source(f"{module}.{node.name}")).body
                    assert ast.dump(shown) == ast.dump(bare(node)), f"{module}.{node.name}"
                    compared += 1
    assert compared > 20


def bare(definition):
    """The same definition without a docstring, in it or under it."""
    for node in ast.walk(definition):
        match node:
            case (
                ast.ClassDef(body=[ast.Expr(ast.Constant(str())), *rest])
                | ast.FunctionDef(body=[ast.Expr(ast.Constant(str())), *rest])
            ):
                node.body = rest or [ast.Expr(ast.Constant(...))]
    return definition
