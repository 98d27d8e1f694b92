"""Options that several commands share."""

import math
from collections.abc import Sequence
from typing import Annotated, Any

import typer

Force = Annotated[bool, typer.Option("--force", help="Overwrite an existing output.")]
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
