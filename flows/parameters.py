"""Kinds of parameters with ranges and choices, which a server's form shows and every run checks.

Prefect titles each by its name; a title here is that of the value of one which may be left out.
"""

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import Field

from codec.containers.judgement import DISCARDS
from codec.format.preview import SIDES
from codec.metrics import names


def _among(choices: Iterable[str]) -> Any:
    """A field whose form offers choices. What the run is given is checked by its settings, which say more."""
    return Field(json_schema_extra={"enum": list(choices)})


Lambda = Annotated[float, Field(gt=0, le=65536, title="lambda", examples=[8.0])]
Fraction = Annotated[float, Field(ge=0, le=1)]
AtLeastOne = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Effort = Annotated[int, Field(ge=0, le=2)]
BitsPerPixel = Annotated[float, Field(gt=0, title="bits per pixel", examples=[0.125])]
Decibels = Annotated[float, Field(gt=0, title="minimum PSNR in dB", examples=[30.0])]
Lpips = Annotated[float, Field(gt=0, title="maximum LPIPS", examples=[0.2])]
ImageTimeout = Annotated[float, Field(gt=0)]
ImageMemory = Annotated[int, Field(gt=0)]
ShardImages = Annotated[int, Field(ge=1)]
ShardBytes = Annotated[int, Field(ge=1)]
PreviewSide = Annotated[int, Field(ge=0, le=SIDES[-1])]
Device = Annotated[str, Field(examples=["cpu", "cuda", "cuda:0"])]
Metrics = list[Annotated[str, _among([*names.FIELDS, names.ALL, names.NONE])]]
Discards = list[Annotated[str, _among(DISCARDS)]]
