"""Refines a latent at the encoder by gradient, so that its file shows more of the picture for its bits.

The latent is moved, with everything that decoding uses left as it is: rounding, U-Net, decoder and entropy model. So
the format does not change, and a refined file decodes as any other. The objective is that of the end-to-end stage of
training (codec.training.end_to_end): bits + lambda D of the picture that is decoded, D with LPIPS in it. The search is
also known as semi-amortized inference (Yang, Bamler and Mandt, 2020).
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from types import EllipsisType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from codec.diffusion.backbone import REDUCTION
from codec.diffusion.denoiser import clean_latent
from codec.diffusion.tiling import Tiling
from codec.entropy.rate import coded_bits, straight_through_round
from codec.images import Picture, to_tensor
from codec.quantization.efforts import Effort
from codec.quantization.parameters import QuantizationParameters

if TYPE_CHECKING:
    from codec.codec import Codec
    from codec.training.draws import Draws
    from codec.training.settings import StageSettings

Inside = tuple[EllipsisType, slice, slice]
"""Index of what is refined within a tile (1, 4, h, w)."""

MOMENTUM = 0.8
LAST_STEP = 0.2
"""The last step's size as a fraction of the first one's; steps shrink linearly."""
SMALLEST_GRADIENT = 1e-12
"""Gradients of a smaller root mean square are zeros."""
DISTORTION_WEIGHT = 0.1
"""Weight of lambda D in bits per pixel, as at the start of the end-to-end stage."""
SMALLEST_PERCEPTUAL_SIDE = 38
"""Smallest side in pixels of a tile whose LPIPS is computed: the network's 31, and the offset of up to 7."""


@torch.no_grad()
def refined(
    codec: "Codec",
    picture: Picture,
    y: Tensor,
    parameters: QuantizationParameters,
    quality: float,
    effort: Effort,
) -> Tensor:
    """The latent (1, 4, h, w) to code instead of y, at these parameters and lambda = quality.

    Tiles are refined one after the other, each among what has been refined before it, so that memory is bounded. Of
    each tile the best iterate counts, with y among them: the objective of a tile never gets worse. Runs on one thread,
    so that a processor gives the same latent each time.
    """
    alpha = parameters.alpha.to(y.device)
    scaled = alpha * y
    search = _Search(codec, parameters, quality, effort, gray=picture.gray)
    all_offsets = codec.dither(y).expand_as(y)
    tiling = Tiling(effort.side, effort.margin)
    places = itertools.product(_tiles(y.shape[-2], tiling), _tiles(y.shape[-1], tiling))
    with _one_thread():
        for (rows, inner_rows), (columns, inner_columns) in places:
            pixels = picture.pixels[_in_pixels(rows), _in_pixels(columns)]
            original = to_tensor(pixels)[None].to(y.device)
            inner: Inside = (..., _within(inner_rows, rows), _within(inner_columns, columns))
            tile = scaled[..., rows, columns]
            found = search.best(original, tile, all_offsets[..., rows, columns], inner)
            scaled[..., inner_rows, inner_columns] = found
    return scaled / alpha


@contextmanager
def _one_thread() -> Iterator[None]:
    """Several threads would add up gradients in an order that varies."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class _Search:
    """The gradient descent of tiles at one setting of the quantizer."""

    def __init__(
        self, codec: "Codec", parameters: QuantizationParameters, quality: float, effort: Effort, *, gray: bool
    ) -> None:
        self.codec = codec
        self.gray = gray
        self.quality = quality
        self.effort = effort
        self.device = codec.backbone.device
        self.alpha = parameters.alpha.to(self.device)
        self.codes = parameters.channel_codes.to(self.device)
        self.timestep = torch.tensor([parameters.timestep], dtype=torch.float32, device=self.device)
        self.constants = codec.constants.to(self.device)

    def best(self, original: Tensor, scaled: Tensor, offsets: Tensor, inner: Inside) -> Tensor:
        """What is inside of a tile, (1, 4, h, w) in bins, after the search; its surroundings stay as they are.

        A step is the running mean of gradients, each divided by its root mean square in a channel. Adam divides each
        latent's gradient by its own, which moves what hardly matters as far as what does: three of its steps gain half.
        """
        from codec.training.loss import remember

        inside = scaled[inner].clone()
        best = inside
        lowest = float("inf")
        mean = torch.zeros_like(inside)
        steps = self.effort.steps
        remember(original, self._terms(original), self._draws())
        for step in range(steps + 1):
            last = step == steps
            cost = 0.0
            gradient = torch.zeros_like(inside)
            # one term after the other, so that only one graph is in memory
            for term in (self.rate, self.distortion):
                with torch.set_grad_enabled(not last):
                    moved = inside.detach().requires_grad_(not last)
                    seen = scaled.clone()
                    seen[inner] = moved
                    share = term(original, seen, offsets)
                cost += float(share.detach())
                if not last:
                    gradient += torch.autograd.grad(share, moved)[0]
                del share
            if cost < lowest:
                lowest = cost
                best = inside
            if last:
                break
            size = gradient.square().mean((2, 3), keepdim=True).sqrt().clamp(min=SMALLEST_GRADIENT)
            mean = MOMENTUM * mean + (1 - MOMENTUM) * gradient / size
            unbiased = mean / (1 - MOMENTUM ** (step + 1))
            shrinking = 1 - (1 - LAST_STEP) * step / steps
            inside = inside - self.effort.step_size * shrinking * unbiased
        return best

    def rate(self, original: Tensor, scaled: Tensor, offsets: Tensor) -> Tensor:
        """Bits per pixel of a tile's pixels (1, 3, H, W) coded as alpha y, (1, 4, h, w)."""
        seen = straight_through_round(scaled + offsets) - offsets
        latent_bits, hyper_bits = coded_bits(self.codec.float_entropy, scaled, self.codes, self.constants, symbols=seen)
        return (latent_bits + hyper_bits).sum() / (original.shape[-2] * original.shape[-1])

    def distortion(self, original: Tensor, scaled: Tensor, offsets: Tensor) -> Tensor:
        """Weight lambda D of a tile's pixels (1, 3, H, W) coded as alpha y, (1, 4, h, w), in bits per pixel."""
        from codec.training.loss import distortion

        clean = (straight_through_round(scaled + offsets) - offsets) / self.alpha
        if float(self.timestep):  # zero bypasses the U-Net
            clean = clean_latent(self.codec.backbone, clean, self.timestep)
        decoded = self.codec.backbone.decode(clean, (original.shape[-2], original.shape[-1]))
        if self.gray:
            decoded = decoded.mean(1, keepdim=True).expand_as(decoded)
        lossy, _ = distortion(original, decoded, self._terms(original), self._draws())
        return DISTORTION_WEIGHT * self.quality * lossy.sum()

    def _draws(self) -> "Draws":
        """The same at each step: iterates are compared from one offset."""
        from codec.training.draws import Draws

        return Draws(1, 0, device=self.device)

    def _terms(self, original: Tensor) -> "StageSettings":
        """The terms of D, with less weight on LPIPS than in training: a latent is more easily fitted to it than a
        decoder is."""
        from codec.training.settings import StageSettings

        perceptual, structural = 0.4, self.effort.structural
        if min(original.shape[-2:]) < SMALLEST_PERCEPTUAL_SIDE:
            perceptual, structural = 0.0, 0.0
        return StageSettings(
            steps=1,
            pixel_l1=0.5,
            pixel_mse=20.0,
            perceptual=perceptual,
            perceptual_network="alex",
            structural=structural,
            structural_every=1,
        )


def _tiles(length: int, tiling: Tiling) -> Iterator[tuple[slice, slice]]:
    """The tiles along a side in latents, and what is inside of each: neighbors share the overlap by halves."""
    spans = tiling.cut(length)
    seams = [0]
    for before, after in itertools.pairwise(spans):
        seams.append((after.start + before.stop) // 2)
    seams.append(length)
    for span, (start, stop) in zip(spans, itertools.pairwise(seams), strict=True):
        yield span, slice(start, stop)


def _within(inner: slice, outer: slice) -> slice:
    return slice(inner.start - outer.start, inner.stop - outer.start)


def _in_pixels(span: slice) -> slice:
    return slice(span.start * REDUCTION, span.stop * REDUCTION)
