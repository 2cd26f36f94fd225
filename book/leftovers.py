"""What a reader should never meet on a built page.

Markup that stayed text, a number that nobody formatted, a warning, an empty table, a
picture without a description. It is read from the page's HTML, outside of code: what a
cell prints is looked at, what stands in the cell is not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from bs4 import BeautifulSoup, Tag

# Code, signatures, and what a script draws from a notation of its own.
NOT_TEXT = "script, style, svg, nav, .cell_input, .sig, .math, mjx-container, code"
# Stands where code stood: a role that stayed text is its name in braces, then code.
CODE = "`…`"
RULES = {
    "a table that stayed text":
        r"^\s*\|(?:[^|\n]*\|){2,}\s*$|\|\s*(?:—|:?-{2,}:?)\s*\|",
    "asterisks around words":
        r"(?<![\w*])\*\*(?![\s*])[^*\n]*[^\W\d][^*\n]*\*\*(?![\w*])",
    "a heading that stayed text": r"^\s*#{2,6} \S",
    "a fence that stayed text": r"^\s*(?:`{3,}|~{3,}|:{3,})[^`\s]*\s*$",
    "a role that stayed text": r"\{[a-z][a-z:]*\}`",
    "a label that stayed text": r"^\s*\([\w-]+\)=\s*$|\((?:ch|sec|eq|fig|ex)-[\w-]+\)",
    "a link that stayed text":
        r"\]\((?:https?:|\.{0,2}/|#|[\w./-]+\.(?:md|ipynb|html))",
    "mathematics that stayed text":
        r"\$\$|\\(?:begin|frac|mathbb|mathcal|nabla|partial|sqrt|sum|theta)\b",
    # Seven digits in a row, or more than eight after the point; no hash, no identifier.
    "a number that nobody formatted":
        r"(?<!\w-)(?<![\w.,/])\d{7,}(?!\w)|(?<![\w.])\d+\.\d{9,}",
    "a traceback": r"\bTraceback \(most recent call last\)",
    "a warning": r"\b[A-Z]\w*Warning:|\bWARNING\b",
    "the address of an object": r"<[^<>\n]+ at 0x[0-9a-f]+>|<[\w.]+ object>",
}  # fmt: skip


def leftovers(page: str) -> Iterator[str]:
    """What is left over on a page of HTML: what it is, and the words around it."""
    article = BeautifulSoup(page, "html.parser").find("article")
    if not isinstance(article, Tag):
        yield "no article"
        return
    for picture in article.select("img"):
        if not str(picture.get("alt", "")).strip():
            yield f"a picture without alt text: {str(picture.get('src'))[:60]}"
    for table in article.select("table"):
        cells = table.select("td")
        if not any(cell.get_text(strip=True) or cell.find("img") for cell in cells):
            yield f"an empty table: {_short(table.get_text(' '))}"
    text = _text(article)
    for name, rule in RULES.items():
        for found in re.finditer(rule, text, re.MULTILINE):
            around = text[max(0, found.start() - 30) : found.end() + 30]
            yield f"{name}: {_short(around)}"


def _text(article: Tag) -> str:
    """The article's text without code; the article loses what is left out."""
    for element in article.select(NOT_TEXT):
        if element.decomposed:  # with one that it was in
            continue
        if element.name == "code":
            element.replace_with(CODE)
        else:
            element.decompose()
    for block in article.select("div.highlight"):
        if not block.decomposed and not block.find_parent(class_="cell_output"):
            block.decompose()
    for cell in article.select("caption, td, th"):
        cell.append("\n")  # or the numbers of a row would be one
    return article.get_text()


def _short(text: str) -> str:
    return f"…{' '.join(text.split())[:120]}…"
