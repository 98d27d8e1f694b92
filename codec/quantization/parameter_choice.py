"""Chooses a file's bin widths and timestep: by a table and a measurement, or by the trained estimator.

Both answer the same three questions, since every search goes over one alpha code, in 1/32 octaves of bin width.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from codec.diffusion.backbone import Backbone
from codec.entropy.distribution import CODE_OF_ONE
from codec.entropy.dither import dither
from codec.entropy.entroformer import ALPHA_CODES
from codec.quantization import quantizer
from codec.quantization.estimator import MIDDLE_LEVEL, ParameterEstimator
from codec.quantization.parameters import QuantizationParameters

OCTAVE = 32
"""Alpha codes of an octave."""


class ParameterChoice(Protocol):
    """What a latent y (1, 4, h, w) is quantized and denoised with."""

    def alpha_code(self, y: Tensor, quality: float) -> int:
        """The common alpha code, in 0..255, at lambda = quality."""

    def quality(self, y: Tensor, alpha_code: int) -> float:
        """The lambda with this common alpha code."""

    def parameters(self, y: Tensor, alpha_code: int) -> QuantizationParameters:
        """The alpha code of each channel around a common one, and the timestep."""


@dataclass(frozen=True)
class Tabulated:
    """Bins from a table in lambda alone; the timestep measured from the latent's error, or tied to the bins."""

    backbone: Backbone
    mode: Literal["measured", "tied"]
    alpha_at_one: float
    offsets: tuple[int, int, int, int]
    dithered: bool

    def alpha_code(self, y: Tensor, quality: float) -> int:
        return quantizer.alpha_code_of_quality(quality, self.alpha_at_one)

    def quality(self, y: Tensor, alpha_code: int) -> float:
        return quantizer.quality_of_alpha_code(alpha_code, self.alpha_at_one)

    def parameters(self, y: Tensor, alpha_code: int) -> QuantizationParameters:
        codes = quantizer.channel_codes(alpha_code, self.offsets)
        return quantizer.with_timestep(codes, y, dither(y, self.dithered), self.backbone, self.mode)


@dataclass(frozen=True)
class Predicted:
    """Bins and timestep from the estimator, also at an alpha code that a search asks for."""

    backbone: Backbone
    estimator: ParameterEstimator

    def alpha_code(self, y: Tensor, quality: float) -> int:
        log2_alpha = self.estimator.log2_alpha(self.estimator.pooled(y), torch.tensor([quality], device=y.device))
        return _clamped(CODE_OF_ONE + OCTAVE * float(log2_alpha.mean()))

    def quality(self, y: Tensor, alpha_code: int) -> float:
        middle, slope = self.estimator.line(self.estimator.pooled(y))
        octaves = (alpha_code - CODE_OF_ONE) / OCTAVE - float(middle.mean())
        return float(2.0 ** (MIDDLE_LEVEL + octaves / float(slope)))

    def parameters(self, y: Tensor, alpha_code: int) -> QuantizationParameters:
        pooled = self.estimator.pooled(y)
        middle = self.estimator.line(pooled)[0][0]
        offsets = [round(OCTAVE * value) for value in (middle - middle.mean()).tolist()]
        codes = quantizer.channel_codes(alpha_code, offsets)
        # the timestep is that of the bins as sent
        log2_alpha = QuantizationParameters(codes, 0).alpha.log2().view(1, -1).to(y.device)
        alpha_bar = float(self.estimator.alpha_bar(pooled, log2_alpha))
        return QuantizationParameters(codes, quantizer.timestep_code(self.backbone.timestep_of(alpha_bar)))


def _clamped(code: float) -> int:
    return min(ALPHA_CODES - 1, max(0, round(code)))
