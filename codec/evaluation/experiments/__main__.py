"""python -m codec.evaluation.experiments NAME PICTURES OUTPUT: repeat one experiment of the method's supplement."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from codec.errors import FdcError
from codec.evaluation.experiments import EXPERIMENTS, run
from codec.evaluation.spec import EvaluationConfig


def main(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(EXPERIMENTS)}.")],
    pictures: Annotated[Path, typer.Argument(help="Folder of pictures.")],
    output: Annotated[Path, typer.Argument(help="Folder of an evaluation; sheets need its rows, the others do not.")],
    bundle: Annotated[str, typer.Option(help="Folder of a trained codec; the embedded one if empty.")] = "",
    backbone: Annotated[str, typer.Option(help="Where its backbone is, if it is not embedded.")] = "",
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
) -> None:
    """Repeat one experiment: figures and a page of text in OUTPUT/experiments/BUNDLE."""
    try:
        said = run(name, EvaluationConfig(str(pictures), str(output), bundle=bundle, backbone=backbone, device=device))
    except FdcError as error:
        sys.exit(f"error: {error}")
    print(said.read_text())
    print(f"figures: {said.parent}")


if __name__ == "__main__":
    typer.run(main)
