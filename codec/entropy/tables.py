"""Integer CDF tables: one for each (position of the mean between two integers, scale level); computed once, at export.

Table (fraction f, level s) is the Gaussian of mean f / 32 and the level's deviation, integrated over unit bins around
the integers -R..R with R = ceil(6 sigma) + 2, in counts that sum to 2**24. A last entry is the escape for all others.
"""

import math
from functools import lru_cache

import constriction
import numpy as np
from numpy.typing import NDArray

from codec.entropy.distribution import FRACTIONS, LEVEL_STEP, LEVELS, SMALLEST_SIGMA
from codec.errors import BundleError

TOTAL = 2**24
"""Sum of a table's counts."""


def radius(level: int) -> int:
    """R: the largest magnitude coded without escape at a level."""
    return math.ceil(6 * SMALLEST_SIGMA * math.exp(level * LEVEL_STEP)) + 2


@lru_cache(maxsize=1)
def layout() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Radii of the levels (128,), and where each table starts in the flat counts (128 * 32 + 1,), level-major."""
    radii = np.array([radius(level) for level in range(LEVELS)])
    lengths = np.repeat(2 * radii + 2, FRACTIONS)  # residuals -R..R and the escape
    return radii, np.concatenate([[0], np.cumsum(lengths)])


def build_counts() -> NDArray[np.int32]:
    """All tables, flat. Every count is at least 1; the largest absorbs the rounding error."""
    radii, starts = layout()
    counts = np.empty(starts[-1], np.int32)
    for level in range(LEVELS):
        sigma = SMALLEST_SIGMA * math.exp(level * LEVEL_STEP)
        for fraction in range(FRACTIONS):
            edges = np.arange(-radii[level], radii[level] + 2) - 0.5 - fraction / FRACTIONS
            below = np.array([0.5 * math.erfc(-edge / sigma / math.sqrt(2)) for edge in edges])
            above = np.array([0.5 * math.erfc(edge / sigma / math.sqrt(2)) for edge in edges])
            # on each side of the mean the smaller tail is exact; differences of values near 1 would cancel
            mass = np.where(edges[:-1] < 0, np.diff(below), -np.diff(above))
            table = np.maximum(1, np.round(np.append(mass, 0.0) * TOTAL)).astype(np.int64)
            table[np.argmax(table)] += TOTAL - table.sum()
            start = starts[level * FRACTIONS + fraction]
            counts[start : start + len(table)] = table
    return counts


class Tables:
    """The coder's models, made when first used. Raises BundleError if the counts do not have this layout."""

    def __init__(self, counts: NDArray[np.int32]) -> None:
        self.radii, self.starts = layout()
        if counts.shape != (self.starts[-1],) or counts.dtype != np.int32:
            raise BundleError("the bundle's CDF tables do not have the layout of this format version")
        sums = np.add.reduceat(counts.astype(np.int64), self.starts[:-1])
        if counts.min() < 1 or (sums != TOTAL).any():
            raise BundleError("the bundle's CDF tables do not sum to 2**24")
        self.counts = counts
        self._models: dict[int, object] = {}

    def model(self, index: int) -> object:
        """The constriction model of table level * 32 + fraction."""
        made = self._models.get(index)
        if made is None:
            counts = self.counts[self.starts[index] : self.starts[index + 1]]
            # the library adds one to every count
            made = constriction.stream.model.Categorical(counts.astype(np.float64) - 1, perfect=False)
            self._models[index] = made
        return made
