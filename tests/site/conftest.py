import os
import shutil
import threading

import pytest
from playwright.sync_api import sync_playwright

from book import serve
from book.project import BUILD, SITE, pages

FLAGS = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
PHONE, DESKTOP = 390, 1280


def missing(what):
    """Skip what needs it; in CI fail, where nobody would notice that it was skipped."""
    if os.environ.get("CI"):
        pytest.fail(f"{what}; in CI nothing is skipped for that", pytrace=False)
    pytest.skip(what)


@pytest.fixture(scope="session")
def browser():
    """The system's Chromium or Chrome, driven by Playwright."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        missing("no Chromium or Chrome on this machine: install one")
    with sync_playwright() as playwright:
        # Its sandbox needs rights that containers do not give; the only pages it opens are our own.
        running = playwright.chromium.launch(executable_path=found, chromium_sandbox=False, args=FLAGS)
        yield running
        running.close()


@pytest.fixture(scope="session")
def built():
    """The folder of the built site."""
    if not (SITE / "index.html").is_file():
        missing("the site is not built: run `make book`")
    return SITE


@pytest.fixture(scope="session")
def site(built):
    """The address of the built site, served on a free port."""
    running = serve.server(0)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()


class Visit:
    """A page opened at one width, with what it asked for and complained about on the way.

    That is a record of the opening: a check may ask for more (axe reads style sheets), and
    must not change what another one finds.
    """

    def __init__(self, browser, site, name, width, colours, picture):
        self.name, self.width = name, width
        complaints, requests = [], []

        def console(message):
            if message.type == "error":
                complaints.append(message.text)

        def response(got):
            if got.status >= 400:
                complaints.append(f"{got.status} {got.url}")

        self.page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=colours)
        self.page.on("console", console)
        self.page.on("pageerror", lambda error: complaints.append(str(error)))
        self.page.on("request", lambda request: requests.append(request.url))
        self.page.on("response", response)
        self.page.goto(f"{site}/{name}.html")
        self.page.wait_for_load_state("networkidle")
        self.page.evaluate("() => window.MathJax?.startup?.promise")
        self.page.screenshot(path=picture, full_page=True)
        self.complaints, self.requests = tuple(complaints), tuple(requests)


@pytest.fixture(
    scope="module",
    params=[(page, width) for page in pages() for width in (PHONE, DESKTOP)],
    ids=lambda at: f"{at[0].removeprefix('chapters/')}-{at[1]}",
)
def visit(request, browser, site, screenshots):
    """Every page at both widths, in both colour schemes: the phone's is dark."""
    name, width = request.param
    picture = screenshots / f"{name.split('/')[-1]}-{width}.png"
    colours = "dark" if width == PHONE else "light"
    visited = Visit(browser, site, name, width, colours, picture)
    yield visited
    visited.page.close()


@pytest.fixture(scope="session")
def screenshots():
    """The folder for pictures of the visited pages, for people to look at."""
    folder = BUILD / "screenshots"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
