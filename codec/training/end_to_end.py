"""The end-to-end stage: trains encoder, entropy model, U-Net and decoder of a mini codec for rate and distortion."""

from collections.abc import Iterable, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from codec.diffusion.backbone import Backbone
from codec.diffusion.denoiser import clean_latent
from codec.diffusion.mini import MiniAutoencoder
from codec.entropy.distribution import RateConstants
from codec.entropy.entroformer import Entroformer
from codec.entropy.rate import coded_bits, rounded
from codec.errors import SettingsError
from codec.training.discriminator import PatchDiscriminator, adversarial
from codec.training.draws import Draws
from codec.training.loss import distortion
from codec.training.pretraining import Terms
from codec.training.settings import StageSettings

FIRST_SCALE = 0.1
"""Weight of lambda D in bits per pixel at the start: with it the shipped bundle's bins
balance bits and distortion (its card, lambda 4 to 8)."""
ROUNDED_SHARE = 0.1
"""Final fraction of the steps, which uses rounding with the codec's dither instead of uniform noise."""
STATISTICS_MOMENTUM = 0.01
"""Momentum of the running statistics: about a hundred batches."""


class RunningState(nn.Module):
    """The stage's running statistics, kept in its checkpoints, without gradients."""

    mean: Tensor
    std: Tensor
    log_scale: Tensor
    log_bits: Tensor
    distortions: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.clone())
        self.register_buffer("std", std.clone())
        self.register_buffer("log_scale", torch.tensor(FIRST_SCALE).log())
        self.register_buffer("log_bits", torch.zeros(3))
        self.register_buffer("distortions", torch.zeros(3))


class EndToEndStage(nn.Module):
    """Minimizes bits per pixel + lambda scale D through the quantizer, one U-Net step and the decoder.

    Lambda is drawn log-uniformly for each sample and sets the bin width as in the codec. Latents are normalized by
    running statistics with the gradient of normalization by the batch's own (batch renormalization, Ioffe 2017): so
    no gradient changes the scale of a channel, which would only be undone. While noise stands for rounding, it has the
    error that dither gives, uniform and independent of the latent. Each sample's loss is divided by what the networks
    that the stage begins with lose at its lambda, so that lambda 64 does not weigh 64 times as much as lambda 1.
    `scale` follows the rate: bits per pixel stay what they were at the start, at each lambda in the mean.
    """

    def __init__(
        self, settings: StageSettings, backbone: Backbone, entropy: Entroformer, *, alpha_at_one: float
    ) -> None:
        super().__init__()
        if not isinstance(backbone.autoencoder, MiniAutoencoder):
            raise SettingsError(
                f"the end_to_end stage trains the backbone itself, and {backbone.name} is not ours: it stays frozen; "
                "run the stages entropy, adapter and joint"
            )
        self.settings = settings
        self.backbone = backbone
        self.alpha_at_one = alpha_at_one
        self.autoencoder = backbone.autoencoder.requires_grad_(True)
        self.unet = cast(nn.Module, backbone.unet).requires_grad_(settings.train_unet)
        self.entropy = entropy.requires_grad_(True)
        self.constants = RateConstants.computed().to(backbone.device)
        self.state = RunningState(*backbone.latent_statistics).to(backbone.device)
        self.discriminator = PatchDiscriminator().to(backbone.device) if settings.adversarial else None

    @property
    def trained(self) -> Mapping[str, nn.Module]:
        modules = {"autoencoder": self.autoencoder, "unet": self.unet, "entropy": self.entropy, "state": self.state}
        if self.discriminator is not None:
            modules["discriminator"] = self.discriminator
        return modules

    def forward(self, pixels: Tensor, draws: Draws) -> Terms:
        training = torch.is_grad_enabled()
        quality = draws.log_uniform(len(pixels), *self.settings.quality)
        bpp, lossy, terms, made = self._coded(pixels, quality, draws, learning=training)
        level = quality.log2()
        # what the networks lost at the start, at the lambda of each sample
        expected_bpp = _curve(self.state.log_bits, level).exp()
        scale = self.state.log_scale.exp().clone()
        expected = expected_bpp + quality * scale * _curve(self.state.distortions, level)
        telling: Tensor | float = 0.0
        if self.discriminator is not None and training:  # every call changes the state of spectral normalization
            # not part of what is expected: it starts from nothing and means nothing at first
            fooling, telling = adversarial(self.discriminator, pixels, *made, self.settings, draws)
            lossy = lossy + fooling
            terms["telling"] = telling
        loss = (bpp + quality * scale * lossy) / expected
        drift = (bpp.detach() / expected_bpp).log().mean()
        if training:  # more bits than at the start: lower the weight of distortion
            self.state.log_scale -= self.settings.rate_gain / self.settings.accumulate * drift
        return loss.mean() + telling, terms | {"bpp": bpp.mean(), "rate_drift": drift, "scale": scale}

    @torch.no_grad()
    def calibrate(self, batches: Iterable[tuple[Tensor, Draws]]) -> None:
        """Fits the expected rate and distortion at each lambda to the current networks, on batches that compute every
        term, as second-order curves in log2 lambda."""
        levels, rates, distortions = [], [], []
        for pixels, draws in batches:
            quality = draws.log_uniform(len(pixels), *self.settings.quality)
            bpp, lossy, _, _ = self._coded(pixels, quality, draws, learning=False, every_term=True)
            levels.append(quality.log2())
            rates.append(bpp.log())
            distortions.append(lossy)
        level = torch.cat(levels)
        self.state.log_bits.copy_(_fitted(level, torch.cat(rates)))
        self.state.distortions.copy_(_fitted(level, torch.cat(distortions)))

    def _coded(
        self, pixels: Tensor, quality: Tensor, draws: Draws, *, learning: bool, every_term: bool = False
    ) -> tuple[Tensor, Tensor, dict[str, Tensor], tuple[Tensor, Tensor]]:
        """Bits per pixel (B,), distortion (B,), the distortion's terms, and the pixels with the latent decoded."""
        y = self._normalized(self.autoencoder.encode(pixels).latent_dist.mean, learning=learning)
        # the file's code of alpha, in 1/32 octaves (FORMAT.md); alpha grows as the square root of lambda
        codes = (128 + 32 * (self.alpha_at_one * quality.sqrt()).log2()).round().clamp(0, 255).long()
        alpha = (2.0 ** ((codes - 128) / 32)).view(-1, 1, 1, 1)
        noise = draws.uniform(len(y), *y.shape[1:], low=-0.5, high=0.5)
        late = draws.step >= (1 - ROUNDED_SHARE) * self.settings.steps
        scaled = alpha * y
        with torch.autocast(y.device.type, enabled=False):  # the entropy model's grids are finer than half precision
            if late or not learning:
                seen = rounded(scaled, self.entropy.settings.dither)
            else:
                seen = scaled + noise
            channel_codes = codes[:, None].expand(-1, 4)  # one alpha for the four channels
            latent_bits, hyper_bits = coded_bits(
                self.entropy, scaled.float(), channel_codes, self.constants, symbols=seen.float()
            )
        y_hat = seen / alpha
        error = (y_hat - y).detach().square().flatten(1).mean(1)
        timestep = self.backbone.timesteps_of(1 / (1 + error))  # as the encoder measures it; latents have variance 1
        clean = clean_latent(self.backbone, y_hat, timestep)
        decoded = self.autoencoder.decode(clean * self.state.std + self.state.mean).sample.float()
        lossy, terms = distortion(pixels, decoded, self.settings, draws, every_term=every_term)
        bpp = (latent_bits + hyper_bits) / (pixels.shape[-2] * pixels.shape[-1])
        return bpp, lossy, terms, (decoded, y_hat)

    def _normalized(self, raw: Tensor, *, learning: bool) -> Tensor:
        """Latents in units of the running statistics, whose gradient is that of the batch's own."""
        if not learning:
            return (raw - self.state.mean) / self.state.std
        mean = raw.mean((0, 2, 3), keepdim=True)
        std = raw.std((0, 2, 3), keepdim=True)
        with torch.no_grad():
            # around the running mean, so that the spread between batches counts too
            momentum = STATISTICS_MOMENTUM / self.settings.accumulate  # the same for a step, however many its parts
            variance = std.square() + (mean - self.state.mean).square()
            self.state.mean.lerp_(mean, momentum)
            self.state.std.copy_(torch.lerp(self.state.std.square(), variance, momentum).sqrt())
            stretch = std / self.state.std
            shift = (mean - self.state.mean) / self.state.std
        # equals (raw - running mean) / running std; r and d of Ioffe 2017, section 3
        return (raw - mean) / std * stretch + shift


def _curve(coefficients: Tensor, level: Tensor) -> Tensor:
    """The value of a polynomial at log2 lambda (B,)."""
    return coefficients[0] + coefficients[1] * level + coefficients[2] * level.square()


def _fitted(level: Tensor, values: Tensor) -> Tensor:
    """The coefficients (3,) of the least squares polynomial through values (N,) at log2 lambda (N,)."""
    powers = torch.stack([torch.ones_like(level), level, level.square()], 1).double()
    # the pseudoinverse also takes fewer distinct values of lambda than coefficients
    coefficients: Tensor = torch.linalg.pinv(powers) @ values.double()
    return coefficients.float()
