"""The arithmetic of rate-distortion curves gives the answers of hand calculations."""

import math

import numpy as np
import pytest

from codec.evaluation.bd_rate import at_rate, bd_rate, bootstrap_interval, log_rate_difference


def test_values_are_linear_in_log_rate_and_known_at_the_points() -> None:
    rates, values = [0.4, 0.1, 0.2], [3.0, 1.0, 2.0]
    assert [at_rate(rates, values, rate) for rate in (0.1, 0.2, 0.4)] == pytest.approx([1, 2, 3])
    assert at_rate(rates, values, 0.1 * math.sqrt(2)) == pytest.approx(1.5)


def test_nothing_is_extrapolated() -> None:
    assert at_rate([0.1, 0.4], [1, 3], 0.0999) is None
    assert at_rate([0.1, 0.4], [1, 3], 0.4001) is None
    assert at_rate([], [], 0.1) is None
    assert at_rate([0.2], [7], 0.2) == 7


def test_bd_rate_of_a_codec_that_needs_twice_the_bits_is_100_per_cent() -> None:
    rates, quality = [0.1, 0.2, 0.4], [30.0, 33.0, 35.0]
    assert bd_rate([2 * rate for rate in rates], quality, rates, quality) == pytest.approx(100)
    assert bd_rate(rates, quality, [2 * rate for rate in rates], quality) == pytest.approx(-50)


def test_bd_rate_counts_the_common_qualities_alone() -> None:
    # log2 rates of the first: 0 at 0, 4 at 4; of the other 1 at 2, 3 at 6: over 2..4 the differences are 1 and 2
    first, other = ([1.0, 16.0], [0.0, 4.0]), ([2.0, 8.0], [2.0, 6.0])
    assert log_rate_difference(*first, *other) == pytest.approx(1.5 * math.log(2))
    assert log_rate_difference([1, 2], [0, 1], [1, 2], [1, 2]) is None
    assert bd_rate([1, 2], [0, 1], [1, 2], [5, 6]) is None
    assert bd_rate([1], [1], [1, 2], [0, 2]) is None


def test_bd_rate_interpolates_log_rates_by_pchip() -> None:
    # slopes 1/2, 4/3 and 5/2 (Fritsch, Butland): areas 31/72 and 137/72 under the first curve, 3 under the line
    bent, straight = (np.exp([0.0, 1.0, 3.0]), [0.0, 1.0, 2.0]), (np.exp([0.0, 3.0]), [0.0, 2.0])
    assert log_rate_difference(*bent, *straight) == pytest.approx((31 / 72 + 137 / 72 - 3) / 2)


def test_bits_that_buy_nothing_are_left_out_of_bd_rate() -> None:
    rates, quality = [0.1, 0.2, 0.3, 0.4], [30.0, 33.0, 32.0, 35.0]
    assert bd_rate(rates, quality, [0.1, 0.2, 0.4], [30.0, 33.0, 35.0]) == pytest.approx(0)


def test_intervals_cover_the_mean_as_the_normal_law_says() -> None:
    differences = np.random.default_rng(1).normal(0.5, 2, 400)
    low, high = bootstrap_interval(differences)
    half = 1.96 * differences.std() / 20
    assert (low, high) == pytest.approx((differences.mean() - half, differences.mean() + half), abs=0.02)
    assert bootstrap_interval([3.0, 3.0, 3.0]) == (3, 3)
    assert bootstrap_interval(differences) == (low, high)
