"""The measure of a grid sees a planted one, in its direction and at its period, and sees none in a photo."""

import numpy as np
import pytest

from tests.benchmarks import lattice
from tests.conftest import synthetic

PHOTO = lattice.luma(synthetic(256, 320)) + np.random.default_rng(0).normal(0, 6, (256, 320))


@pytest.mark.parametrize(("period", "place"), [(8, 0), (4, 1), (2, 3)])
@pytest.mark.parametrize("direction", ["rows", "columns"])
def test_a_planted_grid_stands_out_where_it_is(period: int, place: int, direction: str) -> None:
    places = np.arange(320 if direction == "rows" else 256)
    wave = 4 * np.cos(2 * np.pi * places / period)
    planted = PHOTO + (wave[None, :] if direction == "rows" else wave[:, None])
    relative, _ = lattice.measured(PHOTO, planted)
    assert relative[direction][place] > 10
    other = "columns" if direction == "rows" else "rows"
    assert max(relative[other]) < 2


def test_a_photo_has_no_grid_against_itself_and_blur_lowers_sharpness() -> None:
    relative, share = lattice.measured(PHOTO, PHOTO)
    assert max(max(values) for values in relative.values()) <= 1
    assert share == 1
    blurred = (PHOTO + np.roll(PHOTO, 1, 0) + np.roll(PHOTO, 1, 1)) / 3
    assert lattice.measured(PHOTO, blurred)[1] < 0.5
