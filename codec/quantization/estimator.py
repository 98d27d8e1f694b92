"""The parameter estimator (the paper's adapter): predicts bin widths and timestep from latent and lambda."""

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

CHANNELS = 4
MIDDLE_LEVEL = 3.0
"""log2 of lambda 8, around which the estimator's line in log2 lambda turns."""
SHALLOWEST, STEEPEST = 0.25, 0.75
"""Bounds of the octaves of alpha for an octave of lambda. Alpha grows with lambda, so the rate is monotone."""
LARGEST_SHIFT = 2.0
"""Largest shift of alpha from the table's, in octaves."""
LARGEST_NOISE_SHIFT = 3.0
"""Largest shift of the noise variance that the timestep stands for, in octaves."""


@dataclass(frozen=True)
class AdapterSettings:
    """Sizes of the estimator."""

    channels: tuple[int, int, int] = (32, 48, 64)
    """Channels of its convolutions."""
    hidden: int = 32
    """Width of the timestep's hidden layer."""
    alphas: int = 1
    """Number of reciprocal bin widths: 1, or 4 for one per channel."""

    def __post_init__(self) -> None:
        if self.alphas not in (1, CHANNELS):
            raise ValueError(f"alphas must be 1 or {CHANNELS}, not {self.alphas}")
        if min(*self.channels, self.hidden) < 1:
            raise ValueError(f"channels and hidden must be at least 1, not {list(self.channels)} and {self.hidden}")


class ParameterEstimator(nn.Module):
    """Predicts log2 alpha = start + f(y) + s(y) (log2 lambda - 3), and the timestep from y and alpha.

    Untrained, alpha is the table's, alpha_at_one * sqrt(lambda), and the timestep has the noise that bins of that width
    make. Three stride-2 convolutions and a mean over positions take latents of any size. There is no offset beta:
    rounding passes it no gradient.
    """

    def __init__(self, settings: AdapterSettings, alpha_at_one: float) -> None:
        super().__init__()
        self.settings = settings
        self.start = math.log2(alpha_at_one) + MIDDLE_LEVEL / 2
        widths = (CHANNELS, *settings.channels)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.SiLU()]
        self.features = nn.Sequential(*layers)
        self.bins = nn.Linear(widths[-1], settings.alphas + 1)
        self.noise = nn.Sequential(
            nn.Linear(widths[-1] + CHANNELS, settings.hidden), nn.SiLU(), nn.Linear(settings.hidden, 1)
        )
        for last in (self.bins, self.noise[-1]):
            nn.init.zeros_(last.weight)  # type: ignore[arg-type]
            nn.init.zeros_(last.bias)  # type: ignore[arg-type]

    def pooled(self, y: Tensor) -> Tensor:
        """The features (B, channels[-1]) of normalized latents y (B, 4, h, w), which the other methods take."""
        return torch.as_tensor(self.features(y)).mean((2, 3))

    def line(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """log2 alpha (B, 4) at lambda 8, and its slope (B, 1) in log2 lambda."""
        out = self.bins(pooled)
        shift = LARGEST_SHIFT * torch.tanh(out[:, :-1])
        slope = SHALLOWEST + (STEEPEST - SHALLOWEST) * torch.sigmoid(out[:, -1:])
        return self.start + shift.expand(-1, CHANNELS), slope

    def log2_alpha(self, pooled: Tensor, quality: Tensor) -> Tensor:
        """log2 of the reciprocal bin widths (B, 4) at lambda = quality (B,) > 0."""
        middle, slope = self.line(pooled)
        return middle + slope * (quality.log2()[:, None] - MIDDLE_LEVEL)

    def alpha_bar(self, pooled: Tensor, log2_alpha: Tensor) -> Tensor:
        """alpha_bar (B,) of the timestep to denoise from, for bins as they are sent: log2 alpha (B, 4)."""
        uniform = (2.0 ** (-2 * log2_alpha)).mean(1) / 12  # the error of bins of this width
        shift = LARGEST_NOISE_SHIFT * torch.tanh(self.noise(torch.cat([pooled, log2_alpha / 4], 1))[:, 0])
        return 1 / (1 + uniform * 2.0**shift)
