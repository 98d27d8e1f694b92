"""The measure of color drift sees a shade in its own plane and neither noise nor texture."""

import numpy as np
import pytest

from codec.evaluation.baselines import classical
from tests.benchmarks import color
from tests.conftest import synthetic

PHOTO = synthetic(64, 96) // 2 + 64


@pytest.mark.parametrize("plane", range(3))
def test_a_planted_shade_is_seen_in_its_plane_with_its_size(plane: int) -> None:
    shade = np.linalg.inv(color.FROM_RGB)[:, plane] * 10
    error = color.drift(PHOTO, np.clip(PHOTO + shade, 0, 255).round().astype(np.uint8))
    assert error[plane] == pytest.approx(10, abs=0.5)
    assert max(np.delete(error, plane)) < 0.5


def test_texture_that_means_nothing_is_not_seen() -> None:
    checkered = PHOTO + 20 * ((np.indices(PHOTO.shape[:2]).sum(0) % 2)[..., None] * 2 - 1)
    assert max(color.drift(PHOTO, checkered.astype(np.uint8))) == pytest.approx(0, abs=1e-9)


def test_another_codec_has_no_more_bytes() -> None:
    jpeg = classical.jpeg()
    sizes = [len(jpeg.encode(PHOTO, setting)) for setting in jpeg.settings]
    middle = sorted(sizes)[len(sizes) // 2]
    decoded = color.at_size(jpeg, PHOTO, middle)
    assert any(
        np.array_equal(decoded, jpeg.decode(jpeg.encode(PHOTO, setting)))
        for setting, size in zip(jpeg.settings, sizes, strict=True)
        if 0.9 * middle <= size <= middle
    )
