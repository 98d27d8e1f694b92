"""Stages that make a mini backbone from photos: autoencoder, denoiser, and the decoder on real predictions."""

from collections.abc import Mapping
from pathlib import Path

import codec.compatibility  # noqa: F401

import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from codec.errors import SettingsError
from codec.mini import MiniAutoencoder
from codec.training.draws import Draws
from codec.training.loss import distortion
from codec.training.settings import StageSettings

Terms = tuple[Tensor, dict[str, Tensor]]


class AutoencoderStage(nn.Module):
    """Trains encoder and decoder on pixels; half the latents carry noise, so that the decoder stands coarse bins."""

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
        mean, batch = posterior.mean, len(pixels)
        with torch.no_grad():  # a running deviation for each channel, the unit of the noise below
            self.deviation.lerp_(mean.std((0, 2, 3), keepdim=True), 0.01 if draws.step else 1.0)
        noisy = (draws.uniform(batch, 1, 1, 1) < 0.5).float()
        level = draws.uniform(batch, 1, 1, 1, high=self.settings.latent_noise) * noisy
        latent = mean + draws.normal(batch, *mean.shape[1:]) * (level * self.deviation + posterior.std * (1 - noisy))
        decoded = self.autoencoder.decode(latent).sample
        loss, terms = distortion(pixels, decoded.float(), self.settings, draws.step)
        kl = 0.5 * (mean.square() + posterior.var - 1 - posterior.logvar).flatten(1).mean(1)
        return (loss + self.settings.kl * kl).mean(), terms | {"kl": kl.mean()}


def new_autoencoder(patches: Tensor) -> MiniAutoencoder:
    """An untrained autoencoder whose linear path is the principal components of (N, 3, 8, 8) patches."""
    autoencoder = MiniAutoencoder()
    autoencoder.start_from_patches(patches)
    return autoencoder


@torch.no_grad()
def measure_latents(autoencoder: MiniAutoencoder, batches: list[Tensor]) -> None:
    """Record mean and deviation of each latent channel over the batches in the autoencoder's configuration."""
    means = torch.cat([autoencoder.encode(pixels).latent_dist.mean.flatten(2).transpose(0, 1).flatten(1) for pixels in batches], 1)
    autoencoder.register_to_config(
        latents_mean=[round(value, 6) for value in means.mean(1).tolist()],
        latents_std=[round(value, 6) for value in means.std(1).tolist()],
    )


def save_schedule(folder: Path) -> None:
    """Write Stable Diffusion's noise schedule, epsilon prediction, beside a mini backbone."""
    DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="epsilon", clip_sample=False
    ).save_pretrained(folder / "scheduler")


def load_autoencoder(folder: Path) -> MiniAutoencoder:
    """The mini autoencoder of a backbone folder, ready to be trained on."""
    try:
        return MiniAutoencoder.from_pretrained(folder / "vae", torch_dtype=torch.float32)
    except OSError as error:
        raise SettingsError(f"no autoencoder in {folder}: run the autoencoder stage first ({error})") from None
