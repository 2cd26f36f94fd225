"""Build the site: `python -m book build`.

Jupyter Book executes the notebooks and keeps their outputs in a cache, which looks at the cells alone. A page also
depends on the packages it imports, on the recorded runs it shows, and on the budget; `_key` is a hash of those, and
where it has changed the cache and the site are made anew.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from book import budget
from book.check import check
from book.project import BUILD, ROOT, SITE, SOURCES, pages


def build() -> int:
    """Execute the notebooks, build the site with warnings as errors, check it. Returns the exit status."""
    _forget_what_changed(_key())
    jupyter_book = str(Path(sys.executable).with_name("jupyter-book"))
    command = [jupyter_book, "build", str(ROOT), "--warningiserror", "--nitpick", "--keep-going"]
    built = subprocess.run(command, cwd=ROOT, env=environment())
    if built.returncode:
        # Sphinx keeps the pages it read, warnings or not, and would not warn again.
        shutil.rmtree(BUILD / ".doctrees", ignore_errors=True)
        print("The book was not built: the reason is printed above.", file=sys.stderr)
        return built.returncode
    return check()


def environment() -> dict[str, str]:
    """What notebooks run under in a build: one budget for all, sliders as static twins, no more threads than cores."""
    return {
        "OMP_NUM_THREADS": str(threads()),
        **os.environ,
        "BOOK_BUDGET": budget.name(),
        "BOOK_STATIC": "1",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # the debugger's remarks on frozen modules
    }


def threads() -> int:
    """Threads for torch: the cores that this process may use, and 8 at most, for the book's networks are small.

    torch counts the machine's cores; in a container that is allowed two of 64 the other 62 threads only get in the way.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        cores = min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or a quota of "max"
        pass
    return min(cores, 8)


def _key() -> str:
    """A hash of everything that a page's outputs depend on, besides its own cells."""
    digest = hashlib.sha256(budget.name().encode())
    files = [ROOT / "requirements.txt"]
    for source in SOURCES:
        files += sorted(
            path for path in (ROOT / source).rglob("*") if path.is_file() and "__pycache__" not in path.parts
        )
    for path in files:
        digest.update(f"\0{path.relative_to(ROOT).as_posix()}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _forget_what_changed(key: str) -> None:
    stamp = BUILD / "key"
    if not stamp.is_file() or stamp.read_text(encoding="ascii") != key:
        for made in (".jupyter_cache", ".doctrees", "jupyter_execute", "html"):
            shutil.rmtree(BUILD / made, ignore_errors=True)
        BUILD.mkdir(exist_ok=True)
        stamp.write_text(key, encoding="ascii")
    listed = {SITE / f"{page}.html" for page in pages()}
    for page in SITE.glob("chapters/**/*.html"):
        if page not in listed:  # taken out of _toc.yml since
            page.unlink()
