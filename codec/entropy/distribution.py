"""Maps the network's outputs to coded distributions: a mean on a 1/32 grid and one of 128 scales per symbol.

The network predicts the latent before scaling, so its outputs are scaled by alpha here, with integer tables over the
alpha code. The hyper-latent's prior is already in units of symbols and is used with alpha = 1.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from codec.entropy.arithmetic import Arithmetic
from codec.entropy.entroformer import ALPHA_CODES
from codec.entropy.grids import OUTPUT, Grid

FRACTIONS = 32
"""Positions of the mean between two integers."""
LEVELS = 128
"""Log-spaced standard deviations."""
SMALLEST_SIGMA = 0.06
LARGEST_SIGMA = 64.0
LEVEL_STEP = math.log(LARGEST_SIGMA / SMALLEST_SIGMA) / (LEVELS - 1)
LEVELS_PER_UNIT = 16
"""Levels per unit of the network's scale output."""
MEAN = Grid(22, 5)
TABLE_UNITS = 2**12
"""Units of alpha and 1 / alpha in RateConstants."""
LEVEL_UNITS = 2**6
CODE_OF_ONE = 128
"""The alpha code of alpha = 1."""


def sigma(level: Tensor) -> Tensor:
    """Standard deviation of a (possibly fractional) level."""
    return SMALLEST_SIGMA * torch.exp(level * LEVEL_STEP)


def alpha_of_code(code: int) -> float:
    """Reciprocal bin width 2 ** ((code - 128) / 32) of an alpha code in 0..255."""
    return float(2.0 ** ((code - 128) / 32))


def code_of_alpha(alpha: float) -> int:
    """The nearest alpha code, clamped to 0..255."""
    return min(ALPHA_CODES - 1, max(0, round(128 + 32 * math.log2(alpha))))


@dataclass(frozen=True)
class RateConstants:
    """Integer tables over the alpha code, (256,): alpha and 1 / alpha in 1/4096, the level of sigma = alpha in 1/64."""

    alpha: Tensor
    inverse: Tensor
    level: Tensor

    @classmethod
    def computed(cls) -> "RateConstants":
        """Computes the tables from their definitions, for training and export; decoders use the exported ones."""
        alpha = torch.tensor([alpha_of_code(code) for code in range(ALPHA_CODES)], dtype=torch.float64)
        level = torch.log(alpha / SMALLEST_SIGMA) / LEVEL_STEP
        return cls(
            torch.round(alpha * TABLE_UNITS).int(),
            torch.round(TABLE_UNITS / alpha).int(),
            torch.round(level * LEVEL_UNITS).int(),
        )

    def to(self, device: torch.device) -> "RateConstants":
        """The same tables on a device."""
        return RateConstants(self.alpha.to(device), self.inverse.to(device), self.level.to(device))

    @cached_property
    def level_of_one(self) -> float:
        """The level of sigma = 1."""
        return float(self.level[CODE_OF_ONE]) / LEVEL_UNITS

    def rows(self, codes: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 4) codes -> alpha, 1 / alpha and level, each (B, 1, 4) in ones."""

        def in_ones(table: Tensor, units: int) -> Tensor:
            picked = table.to(codes.device)[codes].to(dtype)
            return picked[:, None] * (1 / units)  # units are powers of two, so the product is exact

        return in_ones(self.alpha, TABLE_UNITS), in_ones(self.inverse, TABLE_UNITS), in_ones(self.level, LEVEL_UNITS)


def distributions(outputs: Tensor, alpha: Tensor, level: Tensor, math_: Arithmetic) -> tuple[Tensor, Tensor]:
    """(B, n, 2 c) outputs of c channels -> means on the 1/32 grid and levels in 0..127, (B, n, c) each."""
    mean, scale = math_.snap(outputs, OUTPUT).chunk(2, -1)
    scale = math_.snap(scale * LEVELS_PER_UNIT + level, Grid(13, 0))
    return math_.snap(mean * alpha, MEAN), torch.clamp(scale, 0, LEVELS - 1)


def prior_distributions(row: Tensor, level_of_one: float, math_: Arithmetic) -> tuple[Tensor, Tensor]:
    """(B, 2 Z) prior rows -> means on the 1/32 grid and levels of the hyper-latent's channels, (B, Z) each."""
    mean, scale = math_.snap(row, OUTPUT).chunk(2, -1)
    levels = math_.snap(scale * LEVELS_PER_UNIT + level_of_one, Grid(13, 0))
    return math_.snap(mean, MEAN), torch.clamp(levels, 0, LEVELS - 1)


def bits(symbols: Tensor, mean: Tensor, level: Tensor) -> Tensor:
    """-log2 of the Gaussian's mass in [symbol - 1/2, symbol + 1/2], stable in the tails; same shape as the inputs."""
    spread = sigma(level)
    distance = (symbols - mean).abs()
    upper = torch.special.log_ndtr((0.5 - distance) / spread)
    lower = torch.special.log_ndtr((-0.5 - distance) / spread)
    nats: Tensor = upper + torch.log1p(-torch.exp(lower - upper).clamp(max=1 - 1e-7))
    return -nats / math.log(2)
