"""Three generations of style-based generators: train one, look at it, measure it."""

import logging
import sys
from typing import Any

try:
    import tyro
except ImportError:
    raise SystemExit("python -m stylegan2 needs the [train] extra: pip install 'annotated-stylegan2-gradnorm[train]' "
                     "(from a checkout: pip install '.[train]')") from None

from stylegan2.commands.train import Train, parse_train

PROG = "python -m stylegan2"


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and run it; what the user can mend is told in one line, with exit status 2."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    try:
        command = parse(sys.argv[1:] if arguments is None else arguments)
        command.execute()
    except KeyboardInterrupt:  # before the first step, or a second Ctrl-C: there is nothing new to save
        raise SystemExit(130) from None
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
    from stylegan2.commands.sample import Record, Sample

    commands: dict[str, Any] = {
        "train": Train, "sample": Sample, "explore": Explore, "measure": Measure, "convert": Convert, "record": Record,
        "train-classifier": TrainClassifier}
    return tyro.extras.subcommand_cli_from_dict(commands, args=arguments, prog=PROG, description=__doc__)
