"""`python -m gradnorm toy`: record the paper's toy problem."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gradnorm.toy import record


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and run it; what the user can mend is told in one line, with exit status 2."""
    parser = argparse.ArgumentParser(prog="python -m gradnorm", description="GradNorm's command.")
    commands = parser.add_subparsers(required=True, metavar="command")
    toy = commands.add_parser("toy", help="train the paper's toy problem four ways, and record it (minutes)")
    toy.add_argument("--seeds", type=int, default=3, help="how many runs of each; default: 3")
    toy.add_argument("--out", type=Path, default=Path("results/gradnorm-toy"), help="default: results/gradnorm-toy")
    options = parser.parse_args(arguments)
    if options.seeds < 1:
        parser.error(f"--seeds must be 1 or more, got {options.seeds}")
    try:
        record(options.out, options.seeds)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
