"""Files that keep a rate or a quality: searches over the alpha code, 1/32 octave of bin width apart."""

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
"""The alpha code of bins as wide as the latent's own deviation."""
GROWTH = 0.013
"""How much the logarithm of a file's size grows with the alpha code, about (measured on photos)."""
GUESSES = 5
"""Trials before the bracket is halved."""
LOOKED_AT = range(FINEST, MIDDLE, -16)
"""Codes at which the best quality is sought, half octaves apart: bins narrower than the latent's own deviation."""


@dataclass(frozen=True)
class QualityConstraint:
    """What a reconstruction must reach: a least PSNR in dB, a greatest LPIPS (AlexNet), or both."""

    min_psnr_db: float | None = None
    max_lpips: float | None = None

    def __post_init__(self) -> None:
        bounds = [bound for bound in (self.min_psnr_db, self.max_lpips) if bound is not None]
        if not bounds or not all(0 < bound < math.inf for bound in bounds):
            raise SettingsError(f"a quality constraint is one or two positive numbers: PSNR in dB, LPIPS; not {bounds}")


@dataclass(frozen=True)
class Reached:
    """The quality of one reconstruction. LPIPS is measured only where it is asked for and is 0 otherwise."""

    psnr_db: float
    lpips: float

    def meets(self, constraint: QualityConstraint) -> bool:
        """Neither bound is missed."""
        faithful = constraint.min_psnr_db is None or self.psnr_db >= constraint.min_psnr_db
        return faithful and (constraint.max_lpips is None or self.lpips <= constraint.max_lpips)


def largest_within(encode: Callable[[int], Finished], size: float) -> Finished:
    """The file of at most `size` bytes, at an alpha code whose successor gives a larger one.

    Where even the coarsest bins need more, their file, the smallest of all. Every trial is a real file: the first few
    at the codes where the size would be met if it grew by one factor a code, as it nearly does, then by bisection.
    """
    low, high, found = -1, FINEST + 1, None
    code, growth, logs = MIDDLE, GROWTH, dict[int, float]()
    while high - low > 1:
        tried = encode(code)
        logs[code] = math.log(len(tried.data) / max(size, 1))
        if len(tried.data) <= size:
            low, found = code, tried
        else:
            high = code
        if low in logs and high in logs:
            growth = (logs[high] - logs[low]) / (high - low)
        code = math.floor(code - logs[code] / growth) if len(logs) <= GUESSES else (low + high) // 2
        code = min(max(code, low + 1), high - 1)
    return found or encode(0)


def coarsest_reaching(
    constraint: QualityConstraint, original: Pixels, reconstruct: Callable[[int], Pixels], missed: int = -1
) -> int:
    """An alpha code above `missed` that meets the constraint while its predecessor misses it; found by bisection.

    Quality grows with the code, but just below the autoencoder's own limit it may also fall a little, so where the
    finest bins miss the constraint, coarser ones are looked at. Raises QualityError with the best that was seen
    where none of them meets it, or where LPIPS is not defined for a picture of this size.
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
    """The metrics of a constraint for one reconstruction; raises QualityError where its size has no LPIPS."""
    from codec.metrics.quality import Metrics, psnr  # here, since they take a second to load and most files need none

    if constraint.max_lpips is None:
        return Reached(psnr(original, decoded), 0)
    quality = Metrics("lpips").measure(original, decoded)
    if quality.lpips is None:
        raise QualityError(f"no bound on LPIPS is possible for this picture: {quality.reasons['lpips']}")
    return Reached(psnr(original, decoded), quality.lpips)


def _refusal(constraint: QualityConstraint, seen: list[Reached]) -> str:
    asked, best = [], []
    if constraint.min_psnr_db is not None:
        asked.append(f"a PSNR of {constraint.min_psnr_db:g} dB")
        best.append(f"{max(quality.psnr_db for quality in seen):.2f} dB")
    if constraint.max_lpips is not None:
        asked.append(f"an LPIPS of {constraint.max_lpips:g}")
        best.append(f"an LPIPS of {min(quality.lpips for quality in seen):.4f}")
    return f"no file of this picture reaches {' and '.join(asked)}; the best is {' and '.join(best)}"
