"""Serve the built site on this machine: `python -m book serve`."""

from __future__ import annotations

import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from book.project import SITE


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """No line for each request."""


def server(port: int, site: Path = SITE) -> ThreadingHTTPServer:
    """A server of the site's files on this machine only; port 0 takes a free one."""
    return ThreadingHTTPServer(("127.0.0.1", port), partial(_Quiet, directory=str(site)))


def serve(port: int) -> int:
    """Serve until Ctrl-C, on `port` or, where it is taken, on a free one. Returns the exit status."""
    if not (SITE / "index.html").is_file():
        print(f"There is no site in {SITE}; run `make book`.", file=sys.stderr)
        return 1
    try:
        running = server(port)
    except OSError:
        running = server(0)
    print(f"The book is at http://127.0.0.1:{running.server_port}/ (Ctrl-C stops it)", flush=True)
    try:
        running.serve_forever()
    except KeyboardInterrupt:
        print()
    finally:
        running.server_close()
    return 0
