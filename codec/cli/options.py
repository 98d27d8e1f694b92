"""Options that several commands share."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing outputs.")]
OutputFolder = Annotated[
    Path | None,
    typer.Option("--output-folder", metavar="DIR", help="Folder for the outputs, in which folders keep their tree."),
]
Jobs = Annotated[
    int, typer.Option("--jobs", "-j", min=0, help="Processes of one thread each; 0: as many as processors.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Device = Annotated[str, typer.Option(help="PyTorch device for the networks: cpu, cuda, ...")]
BundleFolder = Annotated[
    str | None, typer.Option("--bundle", help="Folder of a trained codec. [default: the embedded one]")
]
BackbonePlace = Annotated[
    str | None,
    typer.Option("--backbone", help="Folder, file or hub id of a backbone that is not embedded in the bundle."),
]
QUALITY_HELP = "Rate-distortion weight lambda: larger means more bits and less distortion."


def positive(value: float | Sequence[float] | None) -> Any:
    """Checks that a number, or each of several, is positive. Raises typer.BadParameter."""
    numbers = [value] if isinstance(value, float) else value or []
    for number in numbers:
        if not 0 < number < math.inf:
            raise typer.BadParameter(f"{number} is not a positive number")
    return value
