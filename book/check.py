"""Look the built site over, without a browser: `python -m book check`.

Every page of `_toc.yml` is there and not empty, in its source and as built; every link inside the site leads somewhere;
nothing is loaded from another host. (What only a browser can tell is in `tests/site`.)
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
from bs4 import BeautifulSoup

from book.project import ROOT, SITE, pages, source_of

# Tags that make a browser load what their attribute names.
LOADS = {
    "audio": "src", "embed": "src", "iframe": "src", "img": "src", "link": "href", "object": "data", "script": "src",
    "source": "src", "track": "src", "video": "src",
}  # fmt: skip
STYLE_ADDRESS = re.compile(r"""(?:url\(|@import)\s*["']?((?:https?:)?//[^"')\s]+)""")


def check() -> int:
    """Print what is wrong with the site, if anything. Returns the exit status."""
    found = [problem for page in pages() for problem in page_problems(page)]
    found += style_problems(SITE)
    for problem in found:
        print(f"check: {problem}", file=sys.stderr)
    if not found:
        print(f"check: {len(pages())} pages, all there, all links lead somewhere, nothing comes from another host")
    return int(bool(found))


def page_problems(page: str, site: Path = SITE) -> Iterator[str]:
    """What is wrong with one page of `_toc.yml`."""
    source = source_of(page)
    if source is None:
        yield f"{page}: _toc.yml lists it, and there is no {page}.ipynb or {page}.md"
        return
    if not _written(source):
        yield f"{source.relative_to(ROOT)}: empty"
    built = site / f"{page}.html"
    if not built.is_file():
        yield f"{page}: not built; run `make book`"
        return
    yield from html_problems(built, site)


def html_problems(built: Path, site: Path = SITE) -> Iterator[str]:
    """What is wrong with one built page: no text, a resource from another host, a link that leads nowhere."""
    html = _parsed(built)
    name = built.relative_to(site)
    article = html.find("article")
    if article is None or not article.get_text(strip=True):
        yield f"{name}: no text"
    for tag, attribute in LOADS.items():
        for element in html.select(f"{tag}[{attribute}]"):
            if urlsplit(address := str(element[attribute])).netloc:
                yield f"{name}: <{tag}> loads {address} from another host"
    for element in html.select("style"):
        for address in STYLE_ADDRESS.findall(element.get_text()):
            yield f"{name}: a style loads {address} from another host"
    for link in html.select("a[href]"):
        yield from _link_problems(str(link["href"]), built, site)


def style_problems(site: Path) -> Iterator[str]:
    """Style sheets that load something from another host."""
    for sheet in sorted(site.rglob("*.css")):
        for address in STYLE_ADDRESS.findall(sheet.read_text(encoding="utf-8")):
            yield f"{sheet.relative_to(site)}: loads {address} from another host"


def _link_problems(href: str, built: Path, site: Path) -> Iterator[str]:
    scheme, host, path, _, fragment = urlsplit(href)
    if scheme or host or href == "#":
        return
    target = (built.parent / unquote(path)).resolve() if path else built
    name = built.relative_to(site)
    if not target.is_file():
        yield f"{name}: the link {href} leads to no file"
    elif fragment and target.suffix == ".html" and unquote(fragment) not in _anchors(target):
        yield f"{name}: the link {href} leads to no place on its page"


def _written(source: Path) -> bool:
    text = source.read_text(encoding="utf-8")
    if source.suffix == ".ipynb":
        text = "".join(cell.source for cell in nbformat.reads(text, as_version=4).cells)
    return bool(text.strip())


@lru_cache
def _parsed(built: Path) -> BeautifulSoup:
    return BeautifulSoup(built.read_text(encoding="utf-8"), "html.parser")


@lru_cache
def _anchors(built: Path) -> frozenset[str]:
    return frozenset(str(element[key]) for key in ("id", "name") for element in _parsed(built).select(f"[{key}]"))
