"""Searches for a file of a given rate or quality over the alpha code, in steps of 1/32 octave of bin width."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from codec.errors import QualityError, SettingsError

Pixels = NDArray[np.uint8]


class FinishedFile(Protocol):
    """A finished file."""

    @property
    def data(self) -> bytes: ...


Finished = TypeVar("Finished", bound=FinishedFile)

FINEST = 255
"""The largest alpha code: the narrowest bins."""
MIDDLE = 128
"""The alpha code of bins as wide as the latent's standard deviation."""
GROWTH = 0.013
"""Approximate growth of the logarithm of a file's size per alpha code (measured on photos)."""
GUESSES = 5
"""Trials before bisection starts."""
REFINED = 3
"""Largest number of files that a search for a rate refines."""
COARSER, FINER = 3, 2
"""Alpha codes between the two files that a search for a quality refines: refining is worth some 4 codes of PSNR."""
LOOKED_AT = range(FINEST, MIDDLE, -16)
"""Codes tried for the best quality, half octaves apart: bins narrower than the latent's standard deviation."""


@dataclass(frozen=True)
class QualityConstraint:
    """A quality constraint on the reconstruction: minimum PSNR in dB, maximum LPIPS (AlexNet), or both."""

    min_psnr_db: float | None = None
    max_lpips: float | None = None

    def __post_init__(self) -> None:
        bounds = [bound for bound in (self.min_psnr_db, self.max_lpips) if bound is not None]
        if not bounds or not all(0 < bound < math.inf for bound in bounds):
            raise SettingsError(f"a quality constraint is one or two positive numbers: PSNR in dB, LPIPS; not {bounds}")


@dataclass(frozen=True)
class Reached:
    """The quality of one reconstruction. LPIPS is measured only if constrained and is 0 otherwise."""

    psnr_db: float
    lpips: float

    def meets(self, constraint: QualityConstraint) -> bool:
        """Whether both bounds are met."""
        is_faithful = constraint.min_psnr_db is None or self.psnr_db >= constraint.min_psnr_db
        is_similar = constraint.max_lpips is None or self.lpips <= constraint.max_lpips
        return is_faithful and is_similar


def largest_within(encode: Callable[[int], Finished], size: float) -> tuple[int, Finished]:
    """The largest file of at most `size` bytes, and its alpha code: the next code gives a larger one.

    If even the coarsest bins need more, returns their file, the smallest of all. Every trial is a real file: the first
    ones extrapolate a constant growth per code, the rest bisect.
    """
    found = None
    low = -1  # fits, or lies before the first code
    high = FINEST + 1  # too large, or lies after the last code
    code = MIDDLE
    growth = GROWTH
    logs: dict[int, float] = {}  # log(bytes / size) of each code tried
    while high - low > 1:
        tried = encode(code)
        logs[code] = math.log(len(tried.data) / max(size, 1))
        if len(tried.data) <= size:
            low = code
            found = tried
        else:
            high = code
        if low in logs and high in logs:
            growth = (logs[high] - logs[low]) / (high - low)
        # bisection after some guesses bounds the number of trials where growth is irregular
        code = math.floor(code - logs[code] / growth) if len(logs) <= GUESSES else (low + high) // 2
        code = min(max(code, low + 1), high - 1)
    return (low, found) if found else (0, encode(0))


def refined_within(refine: Callable[[int], Finished], size: float, code: int, plain: Finished) -> Finished:
    """The largest of at most REFINED refined files that has at most `size` bytes, else the plain one.

    `code` is that of the plain file, which largest_within has found. Refining changes a file's size a little: the next
    trials are at the codes where that of the one before leads to by a constant growth. If even the plain file is too
    large, returns the smallest of all.
    """
    tried: dict[int, Finished] = {}
    while len(tried) < REFINED and code not in tried and 0 <= code <= FINEST:
        tried[code] = refine(code)
        code += math.floor(math.log(max(size, 1) / len(tried[code].data)) / GROWTH)
    fitting = [made for made in tried.values() if len(made.data) <= size]
    if fitting:
        return max(fitting, key=_length)
    return min([plain, *tried.values()], key=_length)


def refined_reaching(
    refine: Callable[[int], Finished], meets: Callable[[Finished], bool], code: int, plain: Finished
) -> Finished:
    """The smallest file that meets a constraint: the plain one at `code`, its refined one, or that of a code beside.

    Where the refined file meets the constraint, a coarser one may too; where it does not, a finer one may.
    """
    first = refine(code)
    found = [plain]
    beside = code + FINER
    if meets(first):
        found.append(first)
        beside = code - COARSER
    if 0 <= beside <= FINEST:
        second = refine(beside)
        if meets(second):
            found.append(second)
    return min(found, key=_length)


def _length(made: FinishedFile) -> int:
    return len(made.data)


def coarsest_reaching(
    constraint: QualityConstraint, original: Pixels, reconstruct: Callable[[int], Pixels], missed: int = -1
) -> int:
    """Bisects for an alpha code above `missed` that meets the constraint while its predecessor does not.

    Quality grows with the code, but near the autoencoder's limit it may fall slightly, so if the finest bins miss the
    constraint, coarser ones are tried. Raises QualityError with the best quality seen if none meets it, or if LPIPS is
    undefined for a picture of this size.
    """

    @cache
    def reached(code: int) -> Reached:
        return measure(constraint, original, reconstruct(code))

    looked_at = [code for code in LOOKED_AT if code > missed] or [FINEST]
    high = next((code for code in looked_at if reached(code).meets(constraint)), None)
    if high is None:
        raise QualityError(_refusal(constraint, [reached(code) for code in looked_at]))
    low = missed
    while high - low > 1:
        middle = (low + high) // 2
        if reached(middle).meets(constraint):
            high = middle
        else:
            low = middle
    return high


def measure(constraint: QualityConstraint, original: Pixels, decoded: Pixels) -> Reached:
    """Measures what a constraint needs. Raises QualityError if LPIPS is undefined for this size."""
    from codec.metrics.quality import (  # imported here: loading takes a second and most files need no metric
        Metrics,
        psnr,
    )

    if constraint.max_lpips is None:
        return Reached(psnr(original, decoded), 0)
    quality = Metrics("lpips").measure(original, decoded)
    if quality.lpips is None:
        raise QualityError(f"LPIPS cannot be bounded for this picture: {quality.reasons['lpips']}")
    return Reached(psnr(original, decoded), quality.lpips)


def _refusal(constraint: QualityConstraint, seen: list[Reached]) -> str:
    asked = []
    best = []
    if constraint.min_psnr_db is not None:
        asked.append(f"a PSNR of {constraint.min_psnr_db:g} dB")
        best.append(f"{max(quality.psnr_db for quality in seen):.2f} dB")
    if constraint.max_lpips is not None:
        asked.append(f"an LPIPS of {constraint.max_lpips:g}")
        best.append(f"an LPIPS of {min(quality.lpips for quality in seen):.4f}")
    return f"no file of this picture reaches {' and '.join(asked)}; the best is {' and '.join(best)}"
