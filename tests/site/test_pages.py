"""Every page of the built site as a reader meets it, on a phone and on a desktop."""

import re

import nbformat
from axe_playwright_python.sync_playwright import Axe

from book.project import repository, source_of

# What the tools under the book write and a page cannot mend: (rule of axe, what its element has).
NOT_OURS = {
    # docutils makes the bibliography a list whose entries have the role doc-biblioentry, not listitem.
    ("aria-required-children", 'class="citation-list"'),
}


# How a source displays mathematics.
DISPLAYED = re.compile(r"^\s*\$\$|\\begin\{(?:align|equation)|```\{math\}", re.M)


def prose(source):
    """The Markdown that a page is written in."""
    if source.suffix == ".md":
        return source.read_text(encoding="utf-8")
    cells = nbformat.read(source, as_version=4).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def pictures(source):
    """How many pictures a page must have: the cells that have a text for one."""
    if source.suffix == ".md":
        return 0
    cells = nbformat.read(source, as_version=4).cells
    return sum("image" in cell.metadata.get("mystnb", {}) for cell in cells)


def test_no_complaint(visit):
    assert visit.complaints == ()


def test_no_request_leaves_the_host(visit, site):
    assert visit.requests
    assert [url for url in visit.requests if not url.startswith((site, "data:", "blob:"))] == []


def test_all_mathematics_is_set(visit):
    written = visit.page.locator("article .math").count()
    assert visit.page.locator("article .math mjx-container").count() >= written
    assert visit.page.locator("mjx-merror, [data-mjx-error]").count() == 0
    assert "Math Processing Error" not in visit.page.inner_text("article")


def test_mathematics_in_the_source_reaches_the_page(visit):
    written = DISPLAYED.search(prose(source_of(visit.name))) is not None
    drawn = visit.page.locator("article mjx-container[display=true]").count()
    assert (drawn > 0) == written


def test_the_page_is_no_wider_than_the_screen(visit):
    widths = visit.page.evaluate("() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert widths[0] <= widths[1]


def test_images_are_there_and_described(visit):
    images = visit.page.locator("article img").all()
    assert len(images) >= pictures(source_of(visit.name))
    for image in images:
        source = (image.get_attribute("src") or "")[:80]
        assert (image.get_attribute("alt") or "").strip(), f"no alt text: {source}"
        assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0, f"not drawn: {source}"


def test_accessible(visit):
    # One block of code is coloured like another: after the first ten, axe only takes longer.
    visit.page.evaluate("document.querySelectorAll('.highlight').forEach((code, i) => (code.dataset.more = i >= 10))")
    found = (
        Axe().run(visit.page, {"exclude": ["[data-more=true]"]}, {"resultTypes": ["violations"]}).response["violations"]
    )
    serious = [
        (violation["id"], node["html"][:200])
        for violation in found
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
        if not any(violation["id"] == rule and has in node["html"] for rule, has in NOT_OURS)
    ]
    assert serious == []


def test_buttons_lead_to_the_repository(visit):
    source = source_of(visit.name)
    at, links = repository(), visit.page.locator("a[href]").evaluate_all("links => links.map(link => link.href)")
    assert at.url in links
    if source.suffix == ".ipynb":
        path = f"{at.url.removeprefix('https://github.com/')}/blob/{at.branch}/{visit.name}.ipynb"
        assert f"https://colab.research.google.com/github/{path}" in links
        download = visit.page.locator("a.btn-download-source-button")
        assert download.get_attribute("href").endswith(f"{source.name}")
