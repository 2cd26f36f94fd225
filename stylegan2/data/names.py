"""Names of files: which are images, and how a name is compared and shown."""

import os
from pathlib import PurePosixPath

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


def is_image(name: str) -> bool:
    """By its ending; the side files that macOS leaves in archives have the ending and
    are none.
    """
    path = PurePosixPath(with_slashes(name))
    return path.suffix.lower() in SUFFIXES and not path.name.startswith("._")


def with_slashes(name: str) -> str:
    """A relative path as it is compared: with slashes, which some zips of Windows have
    the other way round, and without ./ before it.
    """
    return str(PurePosixPath(name.replace("\\", "/")))


def printable(name: str | os.PathLike) -> str:
    """A name for messages, logs and files of text. Python keeps the bytes of a name
    that are no UTF-8 as lone surrogates, which no such text can hold; here they are
    escaped.
    """
    return str(name).encode("utf-8", "backslashreplace").decode()
