"""Three generations of style-based generators: train one, look at it, measure it."""

import io
import logging
import sys
from typing import Any

try:
    import tyro
except ImportError:
    raise SystemExit("python -m stylegan2 needs the [train] extra: pip install 'annotated-stylegan2-gradnorm[train]' "
                     "(from a checkout: pip install '.[train]')") from None

import torch

from stylegan2.commands.train import Train, parse_train
from stylegan2.files import silence_stdout

PROG = "python -m stylegan2"


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and run it; what the user can mend is told in one line, with exit status 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # in a terminal that knows ASCII only, "²" becomes "?"
            stream.reconfigure(errors="replace")
    logging.basicConfig(format="%(message)s")
    logging.getLogger("stylegan2").setLevel(logging.INFO)
    try:
        command = parse(sys.argv[1:] if arguments is None else arguments)
        command.execute()
    except KeyboardInterrupt:  # before the first step, or a second Ctrl-C: there is nothing new to save
        raise SystemExit(130) from None
    except BrokenPipeError:  # `… | head`: nobody reads on
        silence_stdout()
        raise SystemExit(141) from None
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or "allocate memory" in str(error)):
            raise
        print("error: the memory is full: take a smaller --batch-size, or --accumulate; or fewer images at once "
              f"({str(error)[:200]})", file=sys.stderr)
        raise SystemExit(2) from None
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def parse(arguments: list[str]) -> Any:
    """The command that the arguments name."""
    if arguments[:1] == ["train"]:
        return parse_train(arguments[1:], f"{PROG} train")
    from stylegan2.commands.classifier import TrainClassifier  # what training does without is not waited for
    from stylegan2.commands.convert import Convert
    from stylegan2.commands.explore import Explore
    from stylegan2.commands.measure import Measure
    from stylegan2.commands.pack import Pack
    from stylegan2.commands.sample import Record, Sample

    commands: dict[str, Any] = {
        "train": Train, "sample": Sample, "explore": Explore, "measure": Measure, "convert": Convert, "record": Record,
        "pack": Pack,
        "train-classifier": TrainClassifier}
    return tyro.extras.subcommand_cli_from_dict(commands, args=arguments, prog=PROG, description=__doc__)
