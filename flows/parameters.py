"""Kinds of parameters with their ranges, which a server's form shows and every run checks."""

from typing import Annotated

from pydantic import Field

Lambda = Annotated[float, Field(gt=0, le=65536, title="lambda", examples=[8.0])]
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
AtLeastOne = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Effort = Annotated[int, Field(ge=0, le=2)]
