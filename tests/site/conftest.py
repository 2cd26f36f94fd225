import shutil
import threading

import pytest
from playwright.sync_api import sync_playwright

from book import serve
from book.project import BUILD, SITE, pages

FLAGS = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
PHONE, DESKTOP = 390, 1280


@pytest.fixture(scope="session")
def browser():
    """The system's Chromium or Chrome, driven by Playwright."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium or Chrome on this machine")
    with sync_playwright() as playwright:
        # Its sandbox needs rights that containers do not give; the only pages it opens are our own.
        running = playwright.chromium.launch(executable_path=found, chromium_sandbox=False, args=FLAGS)
        yield running
        running.close()


@pytest.fixture(scope="session")
def site():
    """The address of the built site, served on a free port."""
    if not (SITE / "index.html").is_file():
        pytest.skip("the site is not built; run `make book`")
    running = serve.server(0)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()


class Visit:
    """A page opened at one width, with what it asked for and complained about on the way."""

    def __init__(self, browser, site, name, width, colours):
        self.name, self.width = name, width
        self.complaints, self.requests = [], []
        self.page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=colours)
        self.page.on("console", lambda told: told.type == "error" and self.complaints.append(told.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("response", lambda got: got.status >= 400 and self.complaints.append(f"{got.status} {got.url}"))
        self.page.goto(f"{site}/{name}.html")
        self.page.wait_for_load_state("networkidle")
        self.page.evaluate("() => window.MathJax?.startup?.promise")


@pytest.fixture(
    scope="module",
    params=[(page, width) for page in pages() for width in (PHONE, DESKTOP)],
    ids=lambda at: f"{at[0].removeprefix('chapters/')}-{at[1]}",
)
def visit(request, browser, site):
    """Every page at both widths, in both colour schemes: the phone's is dark."""
    name, width = request.param
    visited = Visit(browser, site, name, width, "dark" if width == PHONE else "light")
    yield visited
    visited.page.close()


@pytest.fixture(scope="session")
def screenshots():
    """The folder for pictures of the pages, for people to look at."""
    folder = BUILD / "screenshots"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
