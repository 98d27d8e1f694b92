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


def test_a_weave_between_the_stride_s_frequencies_is_found_whatever_its_phase() -> None:
    generator = np.random.default_rng(1)
    plane = generator.normal(size=(320, 320)).cumsum(1).cumsum(0)  # much at low frequencies, as photos have
    plane -= plane.mean()
    smooth = lattice.weave(plane).max()
    columns = np.arange(320)
    waves = [np.cos(2 * np.pi * (columns / 3 + phase)) for phase in generator.random(320)]
    woven = lattice.weave(plane + np.array(waves) * plane.std() / 20)
    assert smooth < 2 < woven[0].max() / smooth
    assert woven[0].argmax() == round((1 / 3 - 0.1) / 0.02 - 0.5)
