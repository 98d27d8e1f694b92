"""Stages that train a mini backbone on photos: autoencoder, denoiser, and the decoder on real predictions."""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from codec.diffusion.backbone import Backbone
from codec.diffusion.denoiser import clean_latent
from codec.diffusion.mini import MiniAutoencoder
from codec.entropy.rate import rounded
from codec.training.discriminator import PatchDiscriminator, adversarial
from codec.training.draws import Draws
from codec.training.loss import distortion
from codec.training.settings import StageSettings

Terms = tuple[Tensor, dict[str, Tensor]]


class AutoencoderStage(nn.Module):
    """Trains encoder and decoder on pixels; half of the latents are noised, so the decoder tolerates coarse bins."""

    deviation: Tensor

    def __init__(self, settings: StageSettings, autoencoder: MiniAutoencoder) -> None:
        super().__init__()
        self.settings = settings
        self.autoencoder = autoencoder.requires_grad_(True)
        self.register_buffer("deviation", torch.ones(1, 4, 1, 1))

    @property
    def trained(self) -> Mapping[str, nn.Module]:
        return {"autoencoder": self.autoencoder}

    def forward(self, pixels: Tensor, draws: Draws) -> Terms:
        posterior = self.autoencoder.encode(pixels).latent_dist
        mean = posterior.mean
        batch = len(pixels)
        deviation = mean.detach().std((0, 2, 3), keepdim=True)
        # per sample: either noise as of a coarse bin, or the posterior's own, which the codec never draws
        noisy = (draws.uniform(batch, 1, 1, 1) < 0.5).float()
        level = draws.uniform(batch, 1, 1, 1, high=self.settings.latent_noise) * noisy
        latent = mean + draws.normal(batch, *mean.shape[1:]) * (level * deviation + posterior.std * (1 - noisy))
        decoded = self.autoencoder.decode(latent).sample
        loss, terms = distortion(pixels, decoded.float(), self.settings, draws)
        # divergence from the standard normal density (Kingma and Welling 2014, appendix B), averaged over the latent
        kl = 0.5 * (mean.square() + posterior.var - 1 - posterior.logvar).flatten(1).mean(1)
        return (loss + self.settings.kl * kl).mean(), terms | {"kl": kl.mean()}


class UNetStage(nn.Module):
    """Trains the noise predictor on normalized latents, timesteps uniform in log-SNR below largest_timestep."""

    def __init__(self, settings: StageSettings, backbone: Backbone) -> None:
        super().__init__()
        self.settings = settings
        self.backbone = backbone
        self.unet = cast(nn.Module, backbone.unet.requires_grad_(True))
        ends = torch.tensor([1.0, settings.largest_timestep], dtype=torch.float64, device=backbone.device)
        self.log_snr = torch.logit(backbone.alpha_bar(ends)).tolist()

    @property
    def trained(self) -> Mapping[str, nn.Module]:
        return {"unet": self.unet}

    def forward(self, batch: Tensor, draws: Draws) -> Terms:
        y = latents(self.backbone, batch)
        high, low = self.log_snr
        alpha_bar = torch.sigmoid(draws.uniform(len(y), low=low, high=high).double())
        t = self.backbone.timesteps_of(alpha_bar)
        noise = draws.normal(len(y), *y.shape[1:])
        mixing = alpha_bar.float().view(-1, 1, 1, 1)
        x_t = mixing.sqrt() * y + (1 - mixing).sqrt() * noise
        loss = (self.backbone.predict_noise(x_t, t) - noise).square().mean()
        return loss, {"noise_mse": loss}


class DecoderStage(nn.Module):
    """Trains the decoder alone, on latents as in decoding: quantized, then denoised in one step."""

    def __init__(self, settings: StageSettings, backbone: Backbone, *, dithered: bool) -> None:
        super().__init__()
        self.settings = settings
        self.backbone = backbone
        self.dithered = dithered
        autoencoder = cast(MiniAutoencoder, backbone.autoencoder)
        self.parts = nn.ModuleDict({"decoder": autoencoder.decoder, "synthesis": autoencoder.synthesis})
        self.parts.requires_grad_(True)
        self.discriminator = PatchDiscriminator().to(backbone.device) if settings.adversarial else None

    @property
    def trained(self) -> Mapping[str, nn.Module]:
        modules: dict[str, nn.Module] = {"parts": self.parts}
        if self.discriminator is not None:
            modules["discriminator"] = self.discriminator
        return modules

    def forward(self, pixels: Tensor, draws: Draws) -> Terms:
        with torch.no_grad():
            y = self.backbone.encode(pixels)
            alpha = draws.log_uniform(len(y), *self.settings.alpha)
            y_hat = denoised(self.backbone, y, alpha, dithered=self.dithered)
        decoded = self.backbone.decode(y_hat, (pixels.shape[-2], pixels.shape[-1]))
        loss, terms = distortion(pixels, decoded, self.settings, draws)
        # not when looking at held-out crops: every call changes the state of spectral normalization
        if self.discriminator is None or not torch.is_grad_enabled():
            return loss.mean(), terms
        fooling, telling = adversarial(self.discriminator, pixels, decoded, y_hat, self.settings, draws)
        return (loss + fooling).mean() + telling, terms | {"telling": telling}


def latents(backbone: Backbone, batch: Tensor) -> Tensor:
    """Cached latents (B, 4, h, w) as they are, pixels (B, 3, H, W) encoded without gradient."""
    if batch.shape[1] == 4:  # channels of a latent; pixels have 3
        return batch
    with torch.no_grad():
        return backbone.encode(batch)


def denoised(backbone: Backbone, y: Tensor, alpha: Tensor, *, dithered: bool) -> Tensor:
    """y quantized with alpha (B,) and denoised in one step at the timestep of the measured error; differentiable."""
    alpha = alpha.view(-1, 1, 1, 1)
    y_hat = rounded(alpha * y, dithered) / alpha
    error = (y_hat - y).detach().square().flatten(1).mean(1)
    return clean_latent(backbone, y_hat, backbone.timesteps_of(1 / (1 + error)))
