"""Tables of a notebook, as HTML: the same on the page, in JupyterLab and on Colab.

Markdown will not do: the build reads what a cell displays as Markdown without tables,
so that the reader gets rows of pipes.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence

from IPython.display import HTML

LARGE = 1e7  # a float from here on has more digits than anyone reads
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def table(
    rows: Sequence[Mapping[str, object]],
    *,
    caption: str,
    decimals: Mapping[str, int] | None = None,
) -> HTML:
    """A table whose first column names its rows. End a cell with it, or display it.

    Numbers are set by `number` and stand on the right; None is a dash; what stands
    between backticks is code. Each row is one line, and a wide table scrolls: put long
    texts last.

    Args:
        rows: by column; all rows have the columns of the first.
        caption: what the table shows, written above it.
        decimals: digits after the point, for columns of numbers that have any.

    Raises:
        ValueError: there are no rows, or they have not the same columns.
    """
    if not rows:
        raise ValueError(f"the table {caption!r} has no rows")
    columns = list(rows[0])
    for row in rows:
        if list(row) != columns:
            raise ValueError(f"a row has the columns {list(row)}, not {columns}")
    places = decimals or {}
    right = {
        column
        for column in columns
        if any(isinstance(row[column], (int, float)) for row in rows)
    }

    def cell(tag: str, column: str, value: object, scope: str = "") -> str:
        # Front ends differ in what they do with a table: the cell says it all itself.
        side = "right" if column in right else "left"
        style = f"text-align:{side};white-space:nowrap;padding:.25em .6em"
        shown = _shown(value, places.get(column, 0))
        return f'<{tag}{scope} style="{style}">{shown}</{tag}>'

    head = "".join(cell("th", column, column, ' scope="col"') for column in columns)
    body = ""
    for row in rows:
        first = cell("th", columns[0], row[columns[0]], ' scope="row"')
        rest = "".join(cell("td", column, row[column]) for column in columns[1:])
        body += f"<tr>{first}{rest}</tr>"
    # The class is that of pandas' tables: front ends and the site's theme have a style
    # for it, in the dark too. The caption breaks on a phone, where the table scrolls.
    return HTML(
        '<table class="dataframe" style="margin-bottom:1.5em">'
        '<caption style="caption-side:top;text-align:left;color:inherit">'
        f'<span style="display:block;max-width:80vw">{_shown(caption)}</span></caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def number(value: float, decimals: int = 0) -> str:
    """A number to be read: thousands set apart, a large float as a power of ten."""
    if isinstance(value, float) and abs(value) >= LARGE:
        digits, _, power = f"{value:.2e}".partition("e")
        # Infinity has no power.
        return f"{digits} × 10{str(int(power)).translate(RAISED)}" if power else digits
    return f"{value:,.{decimals}f}"


def _shown(value: object, decimals: int = 0) -> str:
    if value is None:
        return "–"
    if isinstance(value, (int, float)):
        return number(value, decimals)
    return re.sub("`([^`]+)`", r"<code>\1</code>", html.escape(str(value)))
