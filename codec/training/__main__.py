"""accelerate launch -m codec.training SETTINGS --data TARS --output FOLDER [--stage NAME ...] [--set name=value ...]"""

import argparse
import logging
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from codec.errors import FdcError, SettingsError
from codec.training.run import Run
from codec.training.settings import read_settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line and runs. Returns 0, or 1 with one line on stderr for a usage error."""
    parser = argparse.ArgumentParser(prog="python -m codec.training", description=__doc__)
    parser.add_argument("settings", type=Path)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="WebDataset tars, or folders of them")
    parser.add_argument("--held-out", type=Path, nargs="+", default=[], help="tars of photos to measure on")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--stage", nargs="+", default=None, help="only these stages, in this order")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="override settings")
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop after so long; another call goes on")
    parser.add_argument("--dry", action="store_true", help="only one step of every stage, to see what memory it needs")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        overrides = dict(_pair(text) for text in given.set)
        settings = read_settings(given.settings, overrides)
        names = given.stage or list(settings.stages)
        unknown = [name for name in names if name not in settings.stages]
        if unknown:
            raise SettingsError(f"stage {unknown[0]} has no settings in {given.settings}")
        run = Run(settings, given.data, given.held_out, given.output, given.seconds)
        run.dry(names)
        if not given.dry and run.train(names) and run.accelerator.is_main_process:
            run.export()
        run.accelerator.end_training()
    except (FdcError, FloatingPointError) as error:
        print(f"codec.training: {error}", file=sys.stderr)
        return 1
    return 0


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise SettingsError(f"--set takes NAME=VALUE, not {text!r}")
    return name, value


if __name__ == "__main__":
    sys.exit(main())
