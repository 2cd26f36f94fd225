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


def test_a_method_is_dedented_and_attached_to_its_class(packages):
    assert (
        definitions.source("stylegan2.shapes.Circle.grown")
        == """\
def grown(self, by):
    # a comment that stays
    return Circle(self.radius*by)   # formatting that stays


Circle.grown = grown"""
    )


def test_a_property_is_shown_with_its_setter(packages):
    assert (
        definitions.source("stylegan2.shapes.Circle.width")
        == """\
@property
def width(self):
    return 2 * self.radius


@width.setter
def width(self, width):
    self.radius = width / 2


Circle.width = width"""
    )


def decorated(times):
    return lambda method: lambda self: times * method(self)


@pytest.fixture
def circle(packages):
    """The class as a notebook imports it, and the notebook's names."""
    module = {"Shape": object, "decorated": lambda **_: lambda f: f}
    exec((packages / "stylegan2" / "shapes.py").read_text(), module)
    return {"Circle": module["Circle"], "decorated": decorated}


@pytest.mark.parametrize(
    ("name", "edit", "call", "before", "after"),
    [
        ("grown", ("*by", "*by + 1"), lambda c: c.grown(2).radius, 6, 7),
        ("corners", ("return 0", "return 4"), lambda c: (c.corners(), type(c).corners()), (0, 0), (4, 4)),
        ("unit", ("cls(1)", "cls(5)"), lambda c: c.unit().radius, 1, 5),
        ("width", ("2 * self", "20 * self"), lambda c: c.width, 6, 60),
        ("width", ("width / 2", "width / 4"), lambda c: setattr(c, "width", 8) or c.radius, 4, 2),
        ("area", ("3 *", "4 *"), lambda c: c.area(), 54, 72),
    ],
)
def test_whoever_edits_a_method_changes_the_class(circle, name, edit, call, before, after):
    """Also for objects that were made before; and the cell as it is changes nothing."""
    made = circle["Circle"](3)
    cell = definitions.source(f"stylegan2.shapes.Circle.{name}")
    exec(cell, circle)
    assert call(made) == before
    made.radius = 3
    exec(cell.replace(*edit), circle)
    assert call(made) == after


def test_a_method_that_needs_its_class_around_it_is_refused(packages):
    with pytest.raises(ValueError, match=r"Circle.__init__ calls super\(\), which needs the class around it"):
        definitions.source("stylegan2.shapes.Circle.__init__")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("stylegan2.shapes.Round", "no class or function 'Round'; it defines Area, Circle, _private, half"),
        ("stylegan2.nowhere.Area", "no module 'stylegan2.nowhere'"),
        ("numpy.linalg.norm", "no module 'numpy.linalg' in stylegan2, gradnorm, book"),
        ("Area", "write package.module.Name"),
        ("stylegan2.shapes.Round.area", "no class or function 'Round'; it defines Area, Circle"),
        ("stylegan2.nowhere.Circle.area", "no module 'stylegan2.nowhere.Circle'"),
        (
            "stylegan2.shapes.Circle.perimeter",
            "Circle in stylegan2/shapes.py has no method 'perimeter'; it has __init__, area, corners, grown, unit",
        ),
    ],
)
def test_unknown_names_are_told(packages, name, told):
    with pytest.raises(KeyError, match=told):
        definitions.source(name)


def test_public_names_leave_out_private_ones(packages):
    assert definitions.public_names() == {
        "Area": "stylegan2.shapes.Area",
        "Circle": "stylegan2.shapes.Circle",
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


def test_every_method_of_the_packages_survives_as_the_same_code():
    compared = 0
    for package in definitions.PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            module = ".".join(part for part in path.relative_to(ROOT).with_suffix("").parts if part != "__init__")
            classes = [node for node in ast.parse(path.read_text(encoding="utf-8")).body
                       if isinstance(node, ast.ClassDef) and node.name[0].isupper()]  # fmt: skip
            for owner in classes:
                for method in (node for node in owner.body if isinstance(node, ast.FunctionDef)):
                    name = f"{module}.{owner.name}.{method.name}"
                    try:
                        *shown, attached = ast.parse(definitions.source(name)).body
                    except ValueError:
                        assert "super()" in ast.unparse(owner)
                        continue
                    assert ast.unparse(attached) == f"{owner.name}.{method.name} = {method.name}"
                    if "overload" not in ast.unparse(method):
                        assert ast.dump(bare(method)) in map(ast.dump, shown), name
                        compared += 1
    assert compared > 100


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
