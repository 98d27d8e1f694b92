"""The interface of codecs in a comparison: encode, decode, and settings that control the size of files."""

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
"""Trials of a search before bisection."""


@dataclass(frozen=True)
class Baseline:
    """A codec to compare with: encode(pixels (H, W, 3), setting) -> file, decode(file) -> pixels (H, W, 3)."""

    name: str
    version: str
    """The encoder, its library, and everything else that determines the bytes."""
    settings: tuple[float, ...]
    """Ordered from the smallest files to the largest."""
    encode: Callable[[Pixels, float], bytes]
    decode: Callable[[bytes], Pixels]
    points: tuple[float, ...] = ()
    """Settings to measure at; without any, files of given rates are searched."""
    lossless_latent: bool = False
    """Whether it is a codec without quantization, whose output is not a file and has no meaningful size."""


class UnavailableError(Exception):
    """The reason why a codec cannot run."""


def module(name: str, install: str) -> Any:
    """Imports a module. Raises UnavailableError that names the package to install."""
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
    """Finds the setting with the largest file of at most `size` bytes; the next setting's file is larger.

    Returns the first setting if even its file is larger. `length(setting)` makes a file and returns its size in bytes.
    Sizes grow by nearly equal factors, so the first guesses interpolate their logarithms. `known` has the sizes of
    earlier files by setting. A file of `enough` times the size ends the search.
    """
    sizes: dict[int, int] = {}
    for index, setting in enumerate(settings):
        if known and setting in known:
            sizes[index] = known[setting]
    # The answer is at `low` or above, and below `high`.
    low = 0
    for index, made in sizes.items():
        if made <= size:
            low = index
    high = len(settings)
    for index in sizes:
        if index > low:
            high = index
            break

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
        # Sizes that do not follow the rule would make guesses creep: after GUESSES of them bisection is surer.
        if high in sizes and trial <= GUESSES and sizes[high] > sizes[low] > 0:
            index = low + math.floor((high - low) * math.log(size / sizes[low]) / math.log(sizes[high] / sizes[low]))
            index = min(max(index, low + 1), high - 1)
        if fits(index):
            low = index
        else:
            high = index
    return settings[low]
