"""A patch discriminator on what the decoder writes: tells crops of photos from crops of reconstructions.

Conditional, as in Mentzer et al., *High-Fidelity Generative Image Compression* (2020), section 3.1: it sees the
dequantized latent too, so that a patch must look real and fit what was sent. Spectral normalization (Miyato et al.,
2018) bounds its slope. Losses are the non-saturating ones of Goodfellow et al. (2014).
"""

import itertools
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from codec.training.draws import Draws
from codec.training.settings import StageSettings

CONDITION = 12
"""Channels that the latent is mapped to before it joins the pixels."""
WIDTHS = (48, 96, 192)
"""Channels after each convolution of stride 2; a decision sees 46 x 46 pixels."""
SLOPE = 0.2


class PatchDiscriminator(nn.Module):
    """(pixels, latent) -> a logit for each patch, positive where it takes the pixels for a photo's."""

    def __init__(self) -> None:
        super().__init__()
        self.condition = spectral_norm(nn.Conv2d(4, CONDITION, 3, 1, 1))
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise((3 + CONDITION, *WIDTHS)):
            layers += [spectral_norm(nn.Conv2d(before, after, 4, 2, 1)), nn.LeakyReLU(SLOPE)]
        layers.append(spectral_norm(nn.Conv2d(WIDTHS[-1], 1, 4, 1, 1)))
        self.layers = nn.Sequential(*layers)

    def forward(self, pixels: Tensor, latent: Tensor) -> Tensor:
        """Logits (B, 1, h, w) of pixels (B, 3, H, W) in [-1, 1] and latents (B, 4, H / 8, W / 8)."""
        known = F.leaky_relu(self.condition(latent), SLOPE)
        wide = F.interpolate(known, size=pixels.shape[-2:], mode="nearest")
        return torch.as_tensor(self.layers(torch.cat([pixels, wide], 1)))


def fooling_loss(discriminator: PatchDiscriminator, decoded: Tensor, latent: Tensor) -> Tensor:
    """The decoder's loss (B,), small where the discriminator takes its pixels for a photo's.

    Gives the discriminator no gradient.
    """
    fixed: Mapping[str, Tensor] = {name: value.detach() for name, value in discriminator.named_parameters()}
    logits = functional_call(discriminator, dict(fixed), (decoded, latent.detach()))
    return F.softplus(-logits).flatten(1).mean(1)


def telling_loss(discriminator: PatchDiscriminator, original: Tensor, decoded: Tensor, latent: Tensor) -> Tensor:
    """The discriminator's loss, small where it tells photos from reconstructions. Gives the decoder no gradient."""
    real = discriminator(original, latent.detach())
    made = discriminator(decoded.detach(), latent.detach())
    return F.softplus(-real).mean() + F.softplus(made).mean()


def adversarial(
    discriminator: PatchDiscriminator,
    original: Tensor,
    decoded: Tensor,
    latent: Tensor,
    settings: StageSettings,
    draws: Draws,
) -> tuple[Tensor, Tensor]:
    """The decoder's term (B,), weighted and zero before `adversarial_from`, and the discriminator's loss."""
    with torch.autocast(original.device.type, enabled=False):  # spectral norms need float32
        pixels = decoded.float()
        known = latent.float()
        if draws.step >= settings.adversarial_from:
            fooling = settings.adversarial * fooling_loss(discriminator, pixels, known)
        else:
            fooling = pixels.new_zeros(len(pixels))
        return fooling, telling_loss(discriminator, original.float(), pixels, known)
