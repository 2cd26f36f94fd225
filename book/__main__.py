"""The book's commands: see `python -m book --help`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def _sync(options: argparse.Namespace) -> int:
    from book.sync import sync

    return sync(options.notebooks, check=options.check)


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, run the command, return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m book", description="Build, serve and test the book.")
    commands = parser.add_subparsers(required=True, metavar="command")

    command = commands.add_parser("sync", help="write the packages' source into the notebooks' definition cells")
    command.add_argument("notebooks", nargs="*", type=Path, help="default: every notebook under chapters/")
    command.add_argument("--check", action="store_true", help="change nothing; exit 1 where a notebook differs")
    command.set_defaults(run=_sync)

    options = parser.parse_args(arguments)
    return options.run(options)


if __name__ == "__main__":
    sys.exit(main())
