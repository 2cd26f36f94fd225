import math

import pytest
from bs4 import BeautifulSoup

from book.tables import number, table


def parsed(*args, **options):
    return BeautifulSoup(table(*args, **options).data, "html.parser")


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [
        (40000, 0, "40,000"),
        (123456789, 0, "123,456,789"),  # a count is exact
        (4.456, 1, "4.5"),
        (1207.61, 0, "1,208"),
        (30684435414.04262, 1, "3.07 × 10¹⁰"),
        (-1e7, 1, "-1.00 × 10⁷"),
        (9999999.0, 0, "9,999,999"),
        (math.inf, 1, "inf"),
        (math.nan, 1, "nan"),
    ],
)
def test_numbers_are_set_to_be_read(value, decimals, text):
    assert number(value, decimals) == text


def test_a_table_has_what_a_screen_reader_needs():
    rows = [
        {"run": "a", "images": 40000, "minutes": 4.25},
        {"run": "b", "images": None, "minutes": 12.0},
    ]
    page = parsed(rows, caption="Two runs", decimals={"minutes": 1})
    assert page.caption.get_text() == "Two runs"
    assert [cell.get_text() for cell in page.select("thead th[scope=col]")] == [
        "run",
        "images",
        "minutes",
    ]
    assert [cell.get_text() for cell in page.select("tbody th[scope=row]")] == [
        "a",
        "b",
    ]
    assert [cell.get_text() for cell in page.select("td")] == [
        "40,000",
        "4.2",
        "–",
        "12.0",
    ]


def test_numbers_stand_on_the_right_under_their_heads_and_text_on_the_left():
    page = parsed(
        [{"run": "a", "images": None}, {"run": "b", "images": 2}], caption="x"
    )
    sides = [
        cell["style"].split(";")[0].removeprefix("text-align:")
        for cell in page.select("th, td")
    ]
    assert sides == ["left", "right"] * 3


def test_code_is_code_and_nothing_else_is_markup():
    page = parsed(
        [{"run": "<b>|**a**", "command": "`x < 1` & more"}],
        caption="made by `python -m x`",
    )
    assert [code.get_text() for code in page.select("code")] == ["python -m x", "x < 1"]
    assert page.select_one("tbody th").get_text() == "<b>|**a**"
    assert page.select("b") == []


def test_rows_that_make_no_table_are_refused():
    with pytest.raises(ValueError, match="the table 'Runs' has no rows"):
        table([], caption="Runs")
    with pytest.raises(ValueError, match=r"columns \['b'\], not \['a'\]"):
        table([{"a": 1}, {"b": 1}], caption="Runs")
