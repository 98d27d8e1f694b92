"""SSIMULACRA 2 (Sneyers, 2023), a metric that no training loss here contains: 100 is equal, 90 hard to tell apart,
70 high quality, 50 medium, 30 low, below 0 very low. Computed by the package ssimulacra2."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from ssimulacra2 import compute_ssimulacra2

SMALLEST_SIDE = 8
"""Smallest side in pixels."""


def ssimulacra2(original: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> float | None:
    """SSIMULACRA 2 of two 8-bit sRGB pictures (H, W, 3); None if a side is below 8 pixels."""
    if min(original.shape[:2]) < SMALLEST_SIDE:
        return None
    return float(compute_ssimulacra2(_stored(original), _stored(decoded)))


def _stored(pixels: NDArray[np.uint8]) -> io.BytesIO:
    """Writes the picture to a file, which is what the package reads."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PPM")
    stream.seek(0)
    return stream
