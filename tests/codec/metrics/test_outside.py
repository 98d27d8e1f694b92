"""SSIMULACRA 2: as its authors' scale says, and in the rows of an evaluation."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from codec.metrics.outside import ssimulacra2
from tests.conftest import synthetic


def as_jpeg(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


def test_an_equal_picture_has_100_and_a_coarser_jpeg_less_than_a_finer() -> None:
    photo = synthetic(96, 120)
    scores = [ssimulacra2(photo, as_jpeg(photo, quality)) for quality in (95, 60, 20, 5)]
    assert ssimulacra2(photo, photo) == 100
    assert all(score is not None for score in scores)
    assert scores == sorted(scores, reverse=True)
    assert scores[0] - scores[-1] > 20


def test_a_picture_that_is_too_small_has_none() -> None:
    tiny = synthetic(7, 20)
    assert ssimulacra2(tiny, tiny) is None
