"""Files from public addresses: fetched once, checked, kept in a cache; an interrupted download goes on where it was."""

import logging
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)
TIMEOUT, CHUNK = 30, 2**16  # seconds without a byte; bytes, of which a broken connection loses the last


@dataclass(frozen=True)
class RemoteFile:
    """A file somewhere public.

    Args:
        url: its address.
        checksum: "md5:…" or "sha256:…", as its makers or mirrors publish it.
        name: under which the cache keeps it.
    """

    url: str
    checksum: str
    name: str

    def fetch(self) -> Path:
        """Where the file is on this machine, after downloading it if need be.

        Raises:
            ConnectionError: it could not be fetched.
            ValueError: what came is not the file that it should be.
            """
        import pooch  # here: training on what is on the disk needs no network library
        import requests

        path = cache() / self.name
        try:
            keep_part = partial(download, part=path.with_name(self.name + ".part"))
            pooch.retrieve(self.url, self.checksum, self.name, path.parent, downloader=keep_part)
        except requests.RequestException as error:
            raise ConnectionError(
                f"{self.name} could not be fetched ({error}). Run again to go on, or fetch {self.url} elsewhere "
                f"({self.checksum}) and put it at {path}; --data toyfaces needs no download") from error
        except ValueError as error:
            raise ValueError(f"{self.url}: {error}. The file there has changed, or was spoilt on the way: try again; "
                             "if you trust it, fetch it yourself and give its path to --data") from error
        return path


def cache() -> Path:
    """The folder of downloaded files: $STYLEGAN2_DATA, or where this system keeps caches."""
    import pooch

    return Path(os.environ.get("STYLEGAN2_DATA") or pooch.os_cache("stylegan2"))


def download(url: str, to: str, _: Any, part: Path) -> None:
    """Download for pooch, which checks the sum. What arrives is kept in `part` until it is complete.

    Raises:
        requests.RequestException: the server refused, or a connection brought nothing.
    """
    import requests

    while True:
        before = size(part)
        try:
            append_rest(url, part)
            break
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            if size(part) <= before:
                raise
            log.warning("%s: %s; going on", url, error)
    os.replace(part, to)


def append_rest(url: str, part: Path) -> None:
    """Download what is still missing of a file, or all of it where the server does not send pieces.

    Raises:
        requests.RequestException: the server refused, or the connection broke; what came is kept.
    """
    import requests

    have = size(part)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:  # it was complete
            return
        response.raise_for_status()
        have = have if response.status_code == requests.codes.partial_content else 0
        total = have + int(response.headers.get("Content-Length", 0))
        log.info("fetching %s: %.0f of %.0f MB to go, to %s", url, (total - have) / 1e6, total / 1e6, part.parent)
        with open(part, "ab" if have else "wb") as file:
            for chunk in response.iter_content(CHUNK):
                file.write(chunk)
                have += len(chunk)
                if have * 10 // max(total, 1) > (have - len(chunk)) * 10 // max(total, 1):
                    log.info("%3.0f %%", 100 * have / total)


def size(path: Path) -> int:
    """In bytes; 0 for no file."""
    return path.stat().st_size if path.exists() else 0
