import pytest

from book import check, project
from book.check import html_problems, page_problems, style_problems

PAGE = "<html><body><article><h1 id='top'>Title</h1>{}</article></body></html>"


@pytest.fixture
def page(tmp_path):
    """Write a page of a small site, and hand back its problems."""
    (tmp_path / "other.html").write_text(PAGE.format("<p id='here'>x</p>"))
    (tmp_path / "a file.txt").write_text("x")

    def problems(inside):
        built = tmp_path / "page.html"
        built.write_text(PAGE.format(inside))
        check._parsed.cache_clear()
        check._anchors.cache_clear()
        return list(html_problems(built, tmp_path))

    return problems


@pytest.mark.parametrize(
    "inside",
    [
        "<a href='other.html'>x</a><a href='other.html#here'>x</a><a href='#top'>x</a><a href='#'>x</a>",
        "<a href='a%20file.txt'>x</a>",
        "<a href='https://example.org/anything'>a link may lead elsewhere: it loads nothing</a>",
        "<img src='data:image/png;base64,AA'><img src='other.png'><script src='a.js'></script>",
        "<style>p{background:url(local.png)}</style>",
    ],
)
def test_what_is_right_passes(page, inside):
    assert page(inside) == []


@pytest.mark.parametrize(
    ("inside", "told"),
    [
        ("<a href='gone.html'>x</a>", "gone.html leads to no file"),
        ("<a href='other.html#there'>x</a>", "other.html#there leads to no place"),
        ("<a href='#bottom'>x</a>", "#bottom leads to no place"),
        ("<script src='https://cdn.example.org/a.js'></script>", "<script> loads https://cdn.example.org/a.js"),
        ("<img src='//cdn.example.org/a.png'>", "<img> loads //cdn.example.org/a.png"),
        (
            "<link rel='stylesheet' href='http://fonts.example.org/a.css'>",
            "<link> loads http://fonts.example.org/a.css",
        ),
        ("<style>@import 'https://fonts.example.org/a.css';</style>", "a style loads https://fonts.example.org/a.css"),
    ],
)
def test_what_is_wrong_is_told(page, inside, told):
    [problem] = page(inside)
    assert told in problem


def test_a_page_without_text_is_told(page, tmp_path):
    (tmp_path / "page.html").write_text("<html><body><article> </article></body></html>")
    assert list(html_problems(tmp_path / "page.html", tmp_path)) == ["page.html: no text"]


def test_style_sheets_are_read(tmp_path):
    (tmp_path / "a.css").write_text("p{background:url('https://cdn.example.org/a.png')} q{src:url(font.woff2)}")
    assert list(style_problems(tmp_path)) == ["a.css: loads https://cdn.example.org/a.png from another host"]


def test_pages_that_are_missing_or_empty_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(project, "ROOT", tmp_path)
    monkeypatch.setattr(check, "ROOT", tmp_path)
    assert list(page_problems("gone", tmp_path)) == ["gone: _toc.yml lists it, and there is no gone.ipynb or gone.md"]
    (tmp_path / "empty.md").write_text(" \n")
    assert list(page_problems("empty", tmp_path)) == ["empty.md: empty", "empty: not built; run `make book`"]


def test_toc_gives_its_pages_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(project, "ROOT", tmp_path)
    (tmp_path / "_toc.yml").write_text(
        "root: a\nparts:\n- chapters:\n  - file: b\n    sections:\n    - file: c\n- chapters:\n  - file: d\n"
    )
    assert project.pages() == ["a", "b", "c", "d"]
    (tmp_path / "_toc.yml").write_text("root: a\nchapters:\n- b\n")
    with pytest.raises(ValueError, match="'b' under chapters"):
        project.pages()
