"""Where things are: the repository's folders, its address, its pages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = ROOT / "chapters"
BUILD = ROOT / "_build"
SITE = BUILD / "html"
# What a page's numbers and pictures come from besides its own cells.
SOURCES = ("stylegan2", "gradnorm", "book", "results")


class Repository(NamedTuple):
    """The one address that every button, the setup cell and the checks derive from."""

    url: str
    branch: str


def config() -> dict[str, Any]:
    """`_config.yml`, parsed."""
    return yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))


def repository() -> Repository:
    """The repository's address and branch, as `_config.yml` gives them."""
    given = config()["repository"]
    return Repository(given["url"].rstrip("/"), given["branch"])


def pages() -> list[str]:
    """The pages of `_toc.yml` in reading order, as paths from the root without a suffix.

    Raises:
        ValueError: an entry that is neither a page nor a group of pages.
    """
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    return [toc["root"], *_files(toc)]


def _files(entry: dict[str, Any]) -> Iterator[str]:
    for group in ("parts", "chapters", "sections"):
        for child in entry.get(group, ()):
            if not isinstance(child, dict):
                raise ValueError(f"_toc.yml: {child!r} under {group}; expected `- file: path` or a part with a caption")
            if "file" in child:
                yield child["file"]
            yield from _files(child)


def source_of(page: str) -> Path | None:
    """The file a page is written in, or None where there is none."""
    return next((path for suffix in (".ipynb", ".md") if (path := ROOT / f"{page}{suffix}").is_file()), None)


def notebooks() -> list[Path]:
    """Every notebook under chapters/, in reading order of their names."""
    return sorted(path for path in CHAPTERS.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
