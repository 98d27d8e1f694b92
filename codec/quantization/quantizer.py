"""The scalar quantizer of the latent, its one-byte codes, and rules for bin width and timestep."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from codec.diffusion.backbone import Backbone
from codec.entropy.coder import SYMBOL_LIMIT
from codec.entropy.distribution import alpha_of_code, code_of_alpha
from codec.entropy.entroformer import ALPHA_CODES
from codec.quantization.parameters import LARGEST_TIMESTEP_CODE, TIMESTEP_UNITS, QuantizationParameters

ParameterMode = Literal["measured", "tied", "learned"]

QUALITY_CODES = 256


def code_of_quality(quality: float) -> int:
    """The nearest quality code of a lambda > 0, clamped to 0..255."""
    return min(QUALITY_CODES - 1, max(0, round(64 + 16 * float(torch.tensor(quality).double().log2()))))


def alpha_code_of_quality(quality: float, alpha_at_one: float) -> int:
    """The alpha code for lambda.

    Alpha grows with the square root of lambda, since the error of fine bins grows with the square of their width.
    """
    return code_of_alpha(alpha_at_one * quality**0.5)


def channel_codes(code: int, offsets: Sequence[int]) -> tuple[int, ...]:
    """The alpha codes of the four channels around a common one, clamped to 0..255; a single code if all are equal."""
    codes = tuple(min(ALPHA_CODES - 1, max(0, code + offset)) for offset in offsets)
    return codes if len(set(codes)) > 1 else codes[:1]


def quality_of_alpha_code(code: int, alpha_at_one: float) -> float:
    """The lambda with this alpha code."""
    return (alpha_of_code(code) / alpha_at_one) ** 2


def quantize(y: Tensor, alpha: Tensor, u: Tensor) -> Tensor:
    """k = round(alpha y + u), clamped to what a stream can hold: whole numbers in floats. u is the dither."""
    return torch.round(alpha * y + u).clamp(-SYMBOL_LIMIT, SYMBOL_LIMIT)


def dequantize(k: Tensor, alpha: Tensor, u: Tensor) -> Tensor:
    """y_hat = (k - u) / alpha."""
    return (k - u) / alpha


def bin_width(alpha_bar: Tensor) -> Tensor:
    """D(t) = sqrt(12 (1 - alpha_bar) / alpha_bar): the bin whose uniform error has t's noise-to-signal ratio."""
    return torch.sqrt(12 * (1 - alpha_bar) / alpha_bar)


def tied_alpha_bar(alpha: Tensor) -> Tensor:
    """The inverse of bin_width: alpha_bar = 1 / (1 + D^2 / 12) with D = 1 / alpha."""
    return 1 / (1 + 1 / (12 * alpha.square()))


def measured_alpha_bar(y: Tensor, y_hat: Tensor) -> Tensor:
    """alpha_bar = 1 / (1 + mean((y_hat - y)^2)): the noise level measured by the encoder, per sample (B,)."""
    return 1 / (1 + (y_hat - y).square().flatten(1).mean(1))


def timestep_code(t: float) -> int:
    """The nearest code of a timestep."""
    return min(LARGEST_TIMESTEP_CODE, max(0, round(t * TIMESTEP_UNITS)))


def with_timestep(
    alpha_codes: tuple[int, ...], y: Tensor, u: Tensor, backbone: Backbone, mode: ParameterMode
) -> QuantizationParameters:
    """Sets the timestep for given alpha codes: from the measured error of y (1, 4, h, w), or tied to the bin width."""
    alpha = QuantizationParameters(alpha_codes, 0).alpha.to(y.device)
    if mode == "tied":
        alpha_bar = tied_alpha_bar(alpha).mean()
    else:
        alpha_bar = measured_alpha_bar(y, dequantize(quantize(y, alpha, u), alpha, u)).mean()
    return QuantizationParameters(alpha_codes, timestep_code(backbone.timestep_of(float(alpha_bar))))
