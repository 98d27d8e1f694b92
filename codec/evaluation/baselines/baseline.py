"""What every codec in a comparison is: two calls, and the settings that make its files larger or smaller."""

import importlib
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

GUESSES = 4
"""Trials of a search before it halves the bracket."""


@dataclass(frozen=True)
class Baseline:
    """A codec to compare with: encode(pixels (H, W, 3), setting) -> file, decode(file) -> pixels (H, W, 3)."""

    name: str
    version: str
    """The encoder, its library, and whatever else decides the bytes."""
    settings: tuple[float, ...]
    """From the smallest files to the largest."""
    encode: Callable[[Pixels, float], bytes]
    decode: Callable[[bytes], Pixels]
    points: tuple[float, ...] = ()
    """Settings to measure at; of a codec without any, files of given rates are searched for."""
    lossless_latent: bool = False
    """It stands for a codec without quantization: what it makes is no file, and its size means nothing."""


class UnavailableError(Exception):
    """Why a codec cannot run here."""


def module(name: str, install: str) -> Any:
    """An imported module. Raises UnavailableError, saying what to install, where it is not here."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UnavailableError(f"{error}; pip install {install}") from None


def largest_within(
    settings: Sequence[float],
    size: float,
    length: Callable[[float], int],
    known: Mapping[float, int] | None = None,
    enough: float = 1.0,
) -> float:
    """The setting with the largest file of at most `size` bytes, whose successor's is larger.

    The first setting where even that is larger. `length(setting)` makes a file and says how many bytes it has; as
    sizes grow with the settings by nearly equal factors, the first few guesses follow their logarithms. `known` has the
    bytes of files made before, by setting: the search goes on between them. A file of `enough` times the size ends it.
    """
    sizes = {index: known[setting] for index, setting in enumerate(settings) if known and setting in known}
    low = max((index for index, made in sizes.items() if made <= size), default=0)
    high = min((index for index in sizes if index > low), default=len(settings))

    def fits(index: int) -> bool:
        if index not in sizes:
            sizes[index] = length(settings[index])
        return sizes[index] <= size

    if not fits(low):
        return settings[low]
    for trial in itertools.count(1):
        if high - low <= 1 or sizes[low] >= enough * size:
            break
        index = (low + high) // 2
        if high in sizes and trial <= GUESSES and sizes[high] > sizes[low] > 0:
            index = low + math.floor((high - low) * math.log(size / sizes[low]) / math.log(sizes[high] / sizes[low]))
            index = min(max(index, low + 1), high - 1)
        if fits(index):
            low = index
        else:
            high = index
    return settings[low]
