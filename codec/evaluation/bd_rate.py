"""Arithmetic of rate-distortion curves: values at a rate, bits at equal quality, intervals of paired differences."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Numbers = Sequence[float] | NDArray[np.float64]


def at_rate(rates: Numbers, values: Numbers, rate: float) -> float | None:
    """Interpolates a value at a rate, linearly in log rate > 0, in any order; None outside their range."""
    if not len(rates) or not min(rates) <= rate <= max(rates):
        return None
    order = np.argsort(rates)
    log_rates = np.log(np.asarray(rates)[order])
    return float(np.interp(np.log(rate), log_rates, np.asarray(values)[order]))


def log_rate_difference(rates: Numbers, qualities: Numbers, other_rates: Numbers, other: Numbers) -> float | None:
    """The mean of ln(rate / other rate) at equal quality, over the qualities of both curves; larger is better.

    Bjontegaard's measure with log rates interpolated in quality by PCHIP, as papers and standards compute it. Points
    that cost more bits for no more quality are left out. None if the curves share no quality or one has a single point.
    """
    from scipy.interpolate import PchipInterpolator  # only evaluations pay for its import

    x, y = _front(rates, qualities)
    u, v = _front(other_rates, other)
    # Only over the qualities that both curves reach: nothing is extrapolated.
    low = max(x[0], u[0])
    high = min(x[-1], u[-1])
    if not low < high:
        return None
    area = PchipInterpolator(x, y).integrate(low, high) - PchipInterpolator(u, v).integrate(low, high)
    return float(area / (high - low))


def bd_rate(rates: Numbers, qualities: Numbers, other_rates: Numbers, other: Numbers) -> float | None:
    """How many per cent more bits the first curve needs at equal quality: log_rate_difference in other words."""
    difference = log_rate_difference(rates, qualities, other_rates, other)
    if difference is None:
        return None
    return 100 * float(np.expm1(difference))


def bootstrap_interval(
    differences: Numbers, *, draws: int = 10_000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """The percentile interval of the mean of paired differences, from means of samples drawn with replacement."""
    values = np.asarray(differences, np.float64)
    picks = np.random.default_rng(seed).integers(0, len(values), (draws, len(values)))
    tail = (1 - level) / 2
    low, high = np.quantile(values[picks].mean(1), [tail, 1 - tail])
    return float(low), float(high)


def _front(rates: Numbers, qualities: Numbers) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rising qualities, and the logarithms of the rates at which each is first reached."""
    reached: list[float] = []
    log_rates: list[float] = []
    # Of points at one rate, the best first: the others then add nothing.
    for rate, quality in sorted(zip(rates, qualities, strict=True), key=lambda point: (point[0], -point[1])):
        if not reached or quality > reached[-1]:
            reached.append(quality)
            log_rates.append(float(np.log(rate)))
    return np.array(reached), np.array(log_rates)
