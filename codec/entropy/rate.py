"""The float model's rate: hyper-latent and latent in the model's order, and their cost in bits. Used in training."""

import torch
from torch import Tensor

from codec.entropy.arithmetic import Arithmetic, Plain, Simulated
from codec.entropy.distribution import RateConstants, bits, distributions, prior_distributions
from codec.entropy.dither import dither
from codec.entropy.entroformer import Entroformer
from codec.entropy.windows import anchor_mask

HYPER_LIMIT = 63
"""Largest magnitude of a hyper-latent symbol."""


def straight_through_round(x: Tensor) -> Tensor:
    """round(x) with the gradient of x."""
    return x + (torch.round(x) - x).detach()


def rounded(scaled: Tensor, dithered: bool) -> Tensor:
    """alpha y (B, 4, h, w) as decoded: rounded, with or without dither; straight-through gradient."""
    u = dither(scaled, dithered)
    return straight_through_round(scaled + u) - u


def hyper_latent(model: Entroformer, scaled: Tensor, codes: Tensor, constants: RateConstants) -> Tensor:
    """alpha y (B, 4, h, w) -> whole hyper-latent symbols (B, Z, ceil(h/4), ceil(w/4)), gradient straight through."""
    _, inverse, _ = constants.rows(codes, scaled.dtype)
    # only the encoder runs this network, so it needs no grids: the decoder reads the rounded result from the file
    z = straight_through_round(model.hyper_encoder(scaled, inverse, codes, Plain()))
    return z.clamp(-HYPER_LIMIT, HYPER_LIMIT)


def crop_tokens(tokens: Tensor, full: tuple[int, int], shape: tuple[int, int]) -> Tensor:
    """Crops rows of a full raster to its top left part."""
    grid: Tensor = tokens.unflatten(1, full)
    return grid[:, : shape[0], : shape[1]].flatten(1, 2)


def coded_bits(
    model: Entroformer,
    scaled: Tensor,
    codes: Tensor,
    constants: RateConstants,
    *,
    seen: Tensor | None = None,
    math: Arithmetic | None = None,
    symbols: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Bits of (latent, hyper-latent), (B,) each, of the rounded alpha y under the simulated integer model.

    scaled is alpha y, (B, 4, h, w); codes the alpha codes, (B, 4) long. For pretraining, `seen` (h w,) bool
    replaces the checkerboard's anchors. `symbols` (B, 4, h, w), without dither, replace the rounded latent, for example
    alpha y with uniform noise. The arithmetic defaults to Simulated with the model's grids.
    """
    if math is None:
        math = Simulated(model.settings.arithmetic)
    alpha, inverse, level = constants.rows(codes, scaled.dtype)
    z = hyper_latent(model, scaled, codes, constants)
    z_mean, z_level = prior_distributions(model.prior(codes, math), constants.level_of_one, math)
    hyper_bits = bits(z, z_mean[:, :, None, None], z_level[:, :, None, None]).flatten(1).sum(1)

    shape = (scaled.shape[-2], scaled.shape[-1])
    step = 2**model.settings.halvings
    # the hyper-latent covers whole squares of step x step latents, which may reach over the right and bottom border
    full = (step * z.shape[-2], step * z.shape[-1])
    hyper = crop_tokens(model.hyper_decoder(z, codes, math), full, shape)
    if symbols is None:
        symbols = rounded(scaled, model.settings.dither)
    tokens = symbols.flatten(2).transpose(1, 2)
    if model.settings.order == "serial":
        context = model.context(tokens, inverse, codes, shape, math)
    else:
        seen = anchor_mask(*shape) if seen is None else seen
        seen = seen.to(scaled.device)
        # the first pass has no context, so the anchors' features are zeros
        context = model.context(tokens, inverse, codes, shape, math, seen) * ~seen[:, None]
    outputs = model.parameter_net(hyper, context, tokens, inverse, math)
    mean, scale = distributions(outputs, alpha, level, math)
    return bits(tokens, mean, scale).flatten(1).sum(1), hyper_bits
