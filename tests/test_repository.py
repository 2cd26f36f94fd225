"""One address for the repository, in `_config.yml`; everything that names it agrees."""

import re
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from book.project import ROOT, repository

NAME = repository().url.rsplit("/", 1)[-1]


def tracked():
    """The text files of the repository."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.suffix in {".md", ".py", ".ipynb", ".toml", ".yml", ".txt", ".json", ""} and path.is_file():
            yield path, path.read_text(encoding="utf-8")


def test_every_mention_is_of_the_address_in_the_configuration():
    mentions = re.compile(rf"https?://[\w.]+/[\w.-]+/{re.escape(NAME)}\b")
    found = {(path.name, url) for path, text in tracked() for url in mentions.findall(text)}
    assert ("_config.yml", repository().url) in found
    assert {url for _, url in found} == {repository().url}


def test_links_of_the_readme_lead_somewhere():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert links
    for link in links:
        if not urlsplit(link).scheme:
            assert Path(ROOT, link.split("#")[0]).exists(), f"README.md links to {link}"
