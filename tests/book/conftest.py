import pytest

from book import definitions

SHAPES = '''\
"""A module."""

import math


class Area(Shape):
    """Doc of the class."""

    sides = 4  # a comment that stays

    def of(self, a, b):
        """Doc of the method,

        over some lines."""
        return a*b   # formatting that stays

    @property
    def empty(self):
        """Nothing but a docstring."""


@decorated(
    with_lines=True,
)
def half(x):
    """Doc."""

    def inner():
        "Doc of the inner one."
        return "no docstring"

    return x / 2


def _private(): ...


class Circle:
    """Doc of the class."""

    def __init__(self, radius):
        super().__init__()
        self.radius = radius

    def grown(self, by):
        """Doc of the method."""
        # a comment that stays
        return Circle(self.radius*by)   # formatting that stays

    @staticmethod
    def corners():
        return 0

    @classmethod
    def unit(cls):
        return cls(1)

    @property
    def width(self):
        """Doc of the property."""
        return 2 * self.radius

    @width.setter
    def width(self, width):
        self.radius = width / 2

    @decorated(
        times=2,
    )
    def area(self):
        return 3 * self.radius**2
'''


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """A package stylegan2 of two modules, in place of the real one."""
    folder = tmp_path / "stylegan2" / "data"
    folder.mkdir(parents=True)
    (tmp_path / "stylegan2" / "shapes.py").write_text(SHAPES)
    (folder / "__init__.py").write_text("def toy():\n    return 1\n")
    monkeypatch.setattr(definitions, "ROOT", tmp_path)
    definitions.public_names.cache_clear()
    yield tmp_path
    definitions.public_names.cache_clear()
