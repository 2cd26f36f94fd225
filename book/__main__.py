"""The book's commands: see `python -m book --help`."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ABOUT = """\
Build, serve and test the book. `make book` and `make test` call these with an environment made for them.

The packages stylegan2/ and gradnorm/ are the source; the notebooks in chapters/ show their code in definition cells,
which `sync` writes. BOOK_BUDGET=smoke|cpu|cuda|full sets how long the notebooks train; else the device decides."""


def _sync(options: argparse.Namespace) -> int:
    from book.sync import sync

    return sync(options.notebooks, check=options.check)


def _build(_: argparse.Namespace) -> int:
    from book.build import build

    return build()


def _check(_: argparse.Namespace) -> int:
    from book.check import check

    return check()


def _serve(options: argparse.Namespace) -> int:
    from book.serve import serve

    return serve(options.port)


def _test(options: argparse.Namespace) -> int:
    from book.suite import test

    return test(options.parts)


def _bench(options: argparse.Namespace) -> int:
    from book.project import ROOT

    chosen = options.names or sorted(path.stem for path in (ROOT / "benchmarks").glob("[!_]*.py"))
    return max(
        (subprocess.run([sys.executable, f"benchmarks/{name}.py"], cwd=ROOT).returncode for name in chosen), default=0
    )


def _edition(options: argparse.Namespace) -> int:
    from book.edition import student

    try:
        return student(options.to)
    except (FileExistsError, subprocess.CalledProcessError) as error:
        print(error, file=sys.stderr)
        return 2


def _record(options: argparse.Namespace) -> int:
    from book.experiments import record_series

    return record_series(options.series, options.runs)


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, run the command, return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m book", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    command = commands.add_parser("sync", help="write the packages' source into the notebooks, and tidy them")
    command.add_argument("notebooks", nargs="*", type=Path, help="default: every notebook under chapters/")
    command.add_argument("--check", action="store_true", help="change nothing; exit 1 where a notebook differs")
    command.set_defaults(run=_sync)

    command = commands.add_parser("build", help="execute the notebooks where needed, build the site, check it")
    command.set_defaults(run=_build)

    command = commands.add_parser("check", help="look the built site over: pages, links, nothing from another host")
    command.set_defaults(run=_check)

    command = commands.add_parser("serve", help="serve the built site on this machine, and print its address")
    command.add_argument("--port", type=int, default=8000, help="default: 8000, or a free one where that is taken")
    command.set_defaults(run=_serve)

    command = commands.add_parser("test", help="run everything that must hold, and sum it up")
    command.add_argument("parts", nargs="*", help="some of: lint types cells tests chapters book site")
    command.set_defaults(run=_test)

    command = commands.add_parser("bench", help="run the benchmarks")
    command.add_argument("names", nargs="*", help="files of benchmarks/, without .py; default: all")
    command.set_defaults(run=_bench)

    command = commands.add_parser("edition", help="write a copy of the tree to hand out")
    command.add_argument("--student", action="store_true", required=True, help="without the solutions")
    command.add_argument("--to", type=Path, default=Path("_build/student"), help="new folder; default: _build/student")
    command.set_defaults(run=_edition)

    command = commands.add_parser("record", help="make a series of runs that pages compare; takes hours on a CPU")
    command.add_argument("series", help="one of: ablation architectures failures")
    command.add_argument("runs", nargs="*", help="some of its runs; default: all whose record is not there yet")
    command.set_defaults(run=_record)

    options = parser.parse_args(arguments)
    return options.run(options)


if __name__ == "__main__":
    sys.exit(main())
