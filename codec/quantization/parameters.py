"""The quantizer's parameters as a file codes them. Reading a header needs these and no torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

TIMESTEP_UNITS = 8
"""Timestep codes count eighths."""
LARGEST_TIMESTEP_CODE = 999 * TIMESTEP_UNITS


@dataclass(frozen=True)
class QuantizationParameters:
    """Quantizer parameters as coded in the file: one alpha code, or one per channel."""

    alpha_codes: tuple[int, ...]
    timestep_code: int

    @property
    def timestep(self) -> float:
        """The timestep in 0..999; zero bypasses the U-Net."""
        return self.timestep_code / TIMESTEP_UNITS

    @property
    def channel_codes(self) -> "Tensor":
        """The alpha codes of the four channels, (1, 4) long."""
        import torch

        return torch.tensor([self.alpha_codes * (4 // len(self.alpha_codes))])

    @property
    def alpha(self) -> "Tensor":
        """The reciprocal bin widths, (1, 4, 1, 1) float32."""
        import torch

        from codec.entropy.distribution import alpha_of_code

        return torch.tensor([alpha_of_code(code) for code in self.channel_codes[0].tolist()]).view(1, 4, 1, 1)


def quality_of_code(code: int) -> float:
    """Lambda of a quality code in 0..255: 2 ** ((code - 64) / 16)."""
    return float(2.0 ** ((code - 64) / 16))
