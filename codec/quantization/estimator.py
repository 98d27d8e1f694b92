"""The parameter estimator (the paper's adapter): predicts bin width and timestep from latent and lambda."""

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class AdapterSettings:
    """Sizes of the estimator and the ranges of what it predicts."""

    channels: tuple[int, int, int] = (32, 48, 64)
    alphas: int = 1
    """Number of reciprocal bin widths: 1, or 4 for one per channel."""
    alpha_at_one: float = 0.5
    """Reciprocal bin width of the untrained estimator at lambda = 1; it grows with the square root of lambda."""
    largest_timestep: float = 350.0
    first_timestep: float = 50.0

    def __post_init__(self) -> None:
        if self.alphas not in (1, 4):
            raise ValueError(f"alphas must be 1 or 4, not {self.alphas}")
        if not 0 < self.alpha_at_one < math.inf:
            raise ValueError(f"alpha_at_one must be a positive number, not {self.alpha_at_one}")
        if not 0 < self.first_timestep < self.largest_timestep < 1000:
            raise ValueError("timesteps must be below 1000, and first_timestep between 0 and largest_timestep")
        if min(self.channels) < 1:
            raise ValueError(f"channels must be at least 1, not {list(self.channels)}")


class ParameterEstimator(nn.Module):
    """(latent, lambda) -> (alpha, t). Three stride-2 convolutions and a global mean, for pictures of any size."""

    def __init__(self, settings: AdapterSettings) -> None:
        super().__init__()
        self.settings = settings
        widths = (5, *settings.channels)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.SiLU()]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1] + 1, settings.alphas + 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, y: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        """y (B, 4, h, w) normalized, quality = lambda (B,) -> alpha (B, 4, 1, 1) > 0, t (B,) in 0..largest_timestep.

        alpha is within a factor of four of its start. There is no offset beta: rounding passes it no gradient.
        """
        level = quality.log2()
        plane = (level / 4)[:, None, None, None].expand(-1, 1, *y.shape[-2:])
        pooled = self.features(torch.cat([y, plane], 1)).mean((2, 3))
        out = self.head(torch.cat([pooled, level[:, None] / 4], 1))
        start = math.log2(self.settings.alpha_at_one) + level[:, None] / 2
        alpha = 2.0 ** (start + 2 * torch.tanh(out[:, :-1]))
        fraction = self.settings.first_timestep / self.settings.largest_timestep
        t = self.settings.largest_timestep * torch.sigmoid(out[:, -1] + math.log(fraction / (1 - fraction)))
        return F.interpolate(alpha[:, None], size=4)[:, 0, :, None, None], t
