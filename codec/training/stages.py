"""Stages that train a codec on a frozen backbone: entropy model, adapter, and both together."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from codec.diffusion.backbone import Backbone
from codec.diffusion.denoiser import clean_latent
from codec.entropy.arithmetic import Simulated
from codec.entropy.distribution import RateConstants
from codec.entropy.entroformer import Entroformer
from codec.entropy.rate import coded_bits, rounded
from codec.quantization.estimator import ParameterEstimator
from codec.training.draws import Draws
from codec.training.loss import distortion
from codec.training.pretraining import Terms, latents
from codec.training.settings import StageSettings

PIXELS_PER_POSITION = 64
"""A latent has one position for 8 x 8 pixels."""


class EntropyStage(nn.Module):
    """Trains the entropy model on true integers k = round(alpha y) of frozen latents, alpha log-uniform.

    The loss is the rate in bits per pixel, normalized per sample by its expected rate, so that no rate dominates.
    """

    def __init__(self, settings: StageSettings, backbone: Backbone, entropy: Entroformer) -> None:
        super().__init__()
        self.settings = settings
        self.backbone = backbone
        self.entropy = entropy.requires_grad_(True)
        self.constants = RateConstants.computed().to(backbone.device)

    @property
    def trained(self) -> Mapping[str, nn.Module]:
        return {"entropy": self.entropy}

    def forward(self, batch: Tensor, draws: Draws) -> Terms:
        y = latents(self.backbone, batch)
        # the file's codes of alpha, in 1/32 octaves (FORMAT.md), so that training sees the alphas of files
        codes = torch.round(128 + 32 * draws.log_uniform(len(y), *self.settings.alpha).log2()).long()
        alpha = 2.0 ** ((codes - 128) / 32)
        scaled = alpha.view(-1, 1, 1, 1) * y
        seen = self._mask(y.shape[-2] * y.shape[-1], draws)
        math = None
        if self.settings.random_top_k:
            math = Simulated(self.entropy.settings.arithmetic, 2.0 ** draws.number(-1, 1))
        with _full_precision(y):
            codes = codes[:, None].expand(-1, 4)
            latent_bits, hyper_bits = coded_bits(
                self.entropy, scaled.float(), codes, self.constants, seen=seen, math=math
            )
        expected = 0.06 * (1 + alpha)  # bits per pixel, roughly
        bpp = (latent_bits + hyper_bits) / (PIXELS_PER_POSITION * y.shape[-2] * y.shape[-1])
        terms = {"bpp": bpp.mean(), "hyper_share": hyper_bits.sum() / (latent_bits + hyper_bits).sum()}
        return (bpp / expected).mean(), terms

    def _mask(self, positions: int, draws: Draws) -> Tensor | None:
        """The positions that others may attend to; None for the checkerboard's anchors."""
        if not self.settings.mask_ratio:
            return None
        return draws.permutation(positions) < round((1 - self.settings.mask_ratio) * positions)


class AdapterStage(nn.Module):
    """Trains the parameter estimator through rounding, one U-Net evaluation and the decoder (supplement B).

    loss = log(bits per pixel + lambda * distortion), pixels in [-1, 1], lambda drawn for each sample. In the joint
    stage the entropy model is trained as well; in the adapter stage it only estimates the rate.
    """

    def __init__(
        self,
        settings: StageSettings,
        backbone: Backbone,
        entropy: Entroformer,
        estimator: ParameterEstimator,
        *,
        joint: bool,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.backbone = backbone
        self.joint = joint
        self.entropy = entropy.requires_grad_(joint)
        self.estimator = estimator.requires_grad_(True)
        self.constants = RateConstants.computed().to(backbone.device)

    @property
    def trained(self) -> Mapping[str, nn.Module]:
        modules: dict[str, nn.Module] = {"estimator": self.estimator}
        if self.joint:
            modules["entropy"] = self.entropy
        return modules

    def forward(self, pixels: Tensor, draws: Draws) -> Terms:
        y = latents(self.backbone, pixels)
        quality = draws.log_uniform(len(y), *self.settings.quality)
        with _full_precision(y):  # bfloat16 cannot hold a timestep
            y = y.float()
            pooled = self.estimator.pooled(y)
            log2_alpha = self.estimator.log2_alpha(pooled, quality)
            t = self.backbone.timesteps_of(self.estimator.alpha_bar(pooled, log2_alpha))
        alpha = (2.0**log2_alpha)[:, :, None, None]
        codes = (128 + 32 * log2_alpha).round().clamp(0, 255).long()
        with _full_precision(y):
            latent_bits, hyper_bits = coded_bits(self.entropy, (alpha * y).float(), codes, self.constants)
        bpp = (latent_bits + hyper_bits) / (pixels.shape[-2] * pixels.shape[-1])
        y_hat = rounded(alpha * y, self.entropy.settings.dither) / alpha
        clean = clean_latent(self.backbone, y_hat, t)
        decoded = self.backbone.decode(clean, (pixels.shape[-2], pixels.shape[-1]))
        lossy, terms = distortion(pixels, decoded, self.settings, draws)
        loss = bpp + quality * lossy
        terms |= {"bpp": bpp.mean(), "alpha": alpha.mean(), "t": t.mean()}
        # the logarithm, so that a sample's gradient is divided by its loss: lambda 64 weighs as much as lambda 1
        return loss.log().mean(), terms


def _full_precision(x: Tensor) -> torch.autocast:
    """No mixed precision: the entropy model's grids are finer than half precision."""
    return torch.autocast(x.device.type, enabled=False)
