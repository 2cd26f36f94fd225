"""Every page of the built site as text: nothing on it was left raw."""

import pytest

from book.leftovers import leftovers
from book.project import pages


@pytest.mark.parametrize(
    "name", pages(), ids=lambda name: name.removeprefix("chapters/")
)
def test_nothing_is_left_over(name, built):
    assert list(leftovers((built / f"{name}.html").read_text(encoding="utf-8"))) == []
