"""`python -m gradnorm toy`: record the paper's toy problem."""

from __future__ import annotations

import argparse
import io
import os
import sys
from pathlib import Path

from gradnorm.toy import record

INTERRUPTED = 130  # what a shell gives a program that Ctrl-C ended
CLOSED_PIPE = 141  # … and one that wrote to a pipe that nobody reads


def whole_number(text: str) -> int:
    """An option's number, 1 or more; argparse tells which option it was."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(
            f"must be a whole number, 1 or more; got {text!r}"
        )
    return number


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and run it.

    Returns:
        The exit status: 0; 2 for what the user can mend, told in one line; 130 after
        Ctrl-C; 141 where nobody reads the output any more (`| head -1`).
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # a terminal that knows ASCII alone gets "?" for the rest
            stream.reconfigure(errors="replace")
    parser = argparse.ArgumentParser(prog="python -m gradnorm", description="GradNorm's command.")
    commands = parser.add_subparsers(required=True, metavar="command")
    toy = commands.add_parser(
        "toy",
        help="train the paper's toy problem four ways, and record it (minutes)",
        epilog="A look in half a minute: --seeds 1 --steps 200",
    )
    toy.add_argument(
        "--seeds", type=whole_number, default=3, help="runs of each; default: 3"
    )
    toy.add_argument(
        "--steps",
        type=whole_number,
        help="end each training after so many steps; default: 4000 or 8000, by problem",
    )
    toy.add_argument(
        "--out",
        type=Path,
        default=Path("runs/gradnorm-toy"),
        help="a folder that holds nothing yet; default: runs/gradnorm-toy",
    )
    options = parser.parse_args(arguments)
    try:
        record(options.out, options.seeds, options.steps)
        print(end="", flush=True)  # what a pipe refuses, it refuses here
    except BrokenPipeError:
        # Python flushes once more when it ends: into nothing, or it would complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing is recorded", file=sys.stderr)
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
