"""Builds a dataclass from parsed JSON or TOML and checks the type of every field.

pydantic is not used: importing it takes 0.2 s in every command, and fdcodec-decoder does without it.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal


def build(kind: Any, data: Any, where: str) -> Any:
    """Converts parsed data to the annotated type. Raises ValueError that names the path of a bad value."""
    origin = typing.get_origin(kind)
    arguments = typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        if not isinstance(data, Mapping):
            raise ValueError(f"{where}: expected a table, found {data!r}")
        kinds = typing.get_type_hints(kind)
        unknown = sorted(set(data) - set(kinds))
        if unknown:
            raise ValueError(f"{where}: no setting is called {unknown[0]!r}; known are {', '.join(kinds)}")
        values = {name: build(kinds[name], value, f"{where}: {name}") for name, value in data.items()}
        try:
            return typing.cast(Any, kind)(**values)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: {error}") from None
    if origin is Literal and data not in arguments:
        raise ValueError(f"{where}: {data!r} is not one of {', '.join(map(str, arguments))}")
    if origin in (Mapping, dict):
        if not isinstance(data, Mapping):
            raise ValueError(f"{where}: expected a table, found {data!r}")
        key_kind, value_kind = arguments
        return {build(key_kind, key, where): build(value_kind, value, f"{where}: {key}") for key, value in data.items()}
    if origin is tuple:
        if not isinstance(data, list | tuple):
            raise ValueError(f"{where}: expected a list, found {data!r}")
        if arguments[-1] is not Ellipsis and len(data) != len(arguments):
            raise ValueError(f"{where}: expected {len(arguments)} values, found {len(data)}")
        return tuple(build(arguments[0], value, where) for value in data)
    if isinstance(kind, types.UnionType):
        return data if data is None else build(arguments[0], data, where)
    is_bool = isinstance(data, bool)  # a bool is an int for isinstance, but true is no number in a settings file
    if kind is float and isinstance(data, int) and not is_bool:
        return float(data)
    if isinstance(kind, type):
        fits = isinstance(data, kind) and is_bool == (kind is bool)
        if not fits:
            raise ValueError(f"{where}: expected {kind.__name__}, found {data!r}")
    return data
