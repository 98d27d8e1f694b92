"""Subtractive dither: an offset, known to encoder and decoder, in the rounding of every symbol.

With k = round(x + u) and x_hat = k - u the error is uniform over a bin and independent of x (Schuchman, 1964), while
plain rounding maps all small x to zero and flattens smooth areas. Offsets are whole 32nds of a bin, the positions that
a coded mean may have, so coding stays exact. They come from a sequence of the plastic number (Roberts, 2018), which is
more even than random: all offsets occur equally often in any neighborhood.
"""

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

UNITS = 32
"""Offsets are counted in 1 / UNITS of a bin."""
ROW, COLUMN, CHANNEL = 3242174889, 2447445414, 2**30
"""Increments of the sequence per row, column and channel, in 2^-32: 1/p and 1/p^2 where p^3 = p + 1, 1/4."""


def offsets(channels: int, height: int, width: int) -> NDArray[np.int64]:
    """The offsets (channels, height, width) of a latent, whole numbers -16..15 in 1/32 of a bin."""
    channel, row, column = np.ogrid[:channels, :height, :width]
    place = row * ROW + column * COLUMN + channel * CHANNEL
    return np.asarray((place % 2**32 >> 27) - UNITS // 2, np.int64)


def dither(like: Tensor, wanted: bool) -> Tensor:
    """The offsets of latents (B, 4, h, w) in bins, (1, 4, h, w) of their type; zeros, (1, 1, 1, 1), if disabled."""
    if not wanted:
        return like.new_zeros(1, 1, 1, 1)
    return _kept(*like.shape[1:], like.device, like.dtype)


@lru_cache(maxsize=8)
def _kept(channels: int, height: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(offsets(channels, height, width))[None].to(device, dtype) / UNITS
