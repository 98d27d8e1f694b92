"""The networks of the embedded backbone: an 8x, 4-channel autoencoder and a denoiser, small enough for two CPU cores.

They have the interface of diffusers' AutoencoderKL and UNet2DConditionModel, so Backbone treats all backbones alike;
diffusers itself, which takes seconds to import, is not needed. Normalization is per pixel and there is no
attention, so that a picture decoded in overlapping tiles equals the whole.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PixelNorm(nn.Module):
    """Root-mean-square normalization over the channels of each pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        normalized = x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-6)
        return normalized * self.gain if torch.is_grad_enabled() else normalized.mul_(self.gain)


class ResidualBlock(nn.Module):
    """Pre-normalized residual block of two convolutions, optionally scaled and shifted by an embedding."""

    def __init__(self, channels: int, embedding: int = 0) -> None:
        super().__init__()
        self.norm = PixelNorm(channels)
        self.inner = nn.Conv2d(channels, channels, 3, padding=1)
        self.outer = nn.Conv2d(channels, channels, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * channels) if embedding else None
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(cast(Tensor, self.outer.bias))

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        h = self.norm(x)
        if self.modulation is not None:
            scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, 1)
            h = h * (1 + scale) + shift
        fresh = not torch.is_grad_enabled()
        change: Tensor = self.outer(F.silu(self.inner(F.silu(h, inplace=fresh)), inplace=fresh))
        return change.add_(x) if fresh else x + change


@dataclass
class Posterior:
    """A Gaussian per latent, (B, 4, h, w) float32 each."""

    mean: Tensor
    logvar: Tensor

    @property
    def var(self) -> Tensor:
        return self.logvar.exp()

    @property
    def std(self) -> Tensor:
        return (0.5 * self.logvar).exp()


@dataclass
class EncoderOutput:
    """What an autoencoder's encode returns, in diffusers' shape."""

    latent_dist: Posterior


@dataclass
class Output:
    """What a decoder and a U-Net return, in diffusers' shape."""

    sample: Tensor


class MiniNetwork(nn.Module):
    """A network whose `config` holds its constructor's arguments by name."""

    def __init__(self, **config: Any) -> None:
        super().__init__()
        self.config = config

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Makes an untrained network. Ignores names with a leading underscore; raises TypeError for unknown ones."""
        return cls(**{name: value for name, value in config.items() if not name.startswith("_")})

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


class MiniAutoencoder(MiniNetwork):
    """8x reduction to 4 channels: residual convolutions at 1/2, 1/4 and 1/8 scale around a linear 8x8x3 -> 4 transform.

    Pixels are (B, 3, H, W) in [-1, 1] with H and W multiples of 8; latents are (B, 4, H/8, W/8).
    """

    def __init__(
        self,
        encoder_channels: tuple[int, int, int] = (32, 64, 128),
        decoder_channels: tuple[int, int, int] = (40, 80, 144),
        encoder_blocks: tuple[int, int, int] = (1, 1, 3),
        decoder_blocks: tuple[int, int, int] = (2, 2, 4),
        scaling_factor: float = 1.0,
        latents_mean: tuple[float, ...] | None = None,
        latents_std: tuple[float, ...] | None = None,
    ) -> None:
        super().__init__(
            encoder_channels=encoder_channels,
            decoder_channels=decoder_channels,
            encoder_blocks=encoder_blocks,
            decoder_blocks=decoder_blocks,
            scaling_factor=scaling_factor,
            latents_mean=latents_mean,
            latents_std=latents_std,
        )
        c = encoder_channels
        encoder: list[nn.Module] = [nn.PixelUnshuffle(2), nn.Conv2d(12, c[0], 3, padding=1)]
        for level, blocks in enumerate(encoder_blocks):
            if level:
                encoder += [nn.PixelUnshuffle(2), nn.Conv2d(4 * c[level - 1], c[level], 1)]
            encoder += [ResidualBlock(c[level]) for _ in range(blocks)]
        encoder += [PixelNorm(c[2]), nn.SiLU(), nn.Conv2d(c[2], 8, 3, padding=1)]
        self.encoder = nn.Sequential(*encoder)

        c = decoder_channels
        decoder: list[nn.Module] = [nn.Conv2d(4, c[2], 3, padding=1)]
        for level, blocks in reversed(list(enumerate(decoder_blocks))):
            if level < 2:
                decoder += [nn.Conv2d(c[level + 1], 4 * c[level], 1), nn.PixelShuffle(2)]
            decoder += [ResidualBlock(c[level]) for _ in range(blocks)]
        decoder += [PixelNorm(c[0]), nn.SiLU(), nn.Conv2d(c[0], 12, 3, padding=1), nn.PixelShuffle(2)]
        self.decoder = nn.Sequential(*decoder)

        self.analysis = nn.Conv2d(3, 4, 8, stride=8)
        self.synthesis = nn.ConvTranspose2d(4, 3, 8, stride=8)
        last = cast(nn.Conv2d, self.encoder[-1])
        for layer in (last, cast(nn.Conv2d, self.decoder[-2])):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(cast(Tensor, layer.bias))
        with torch.no_grad():
            cast(Tensor, last.bias)[4:] = -6.0  # initialize with a narrow posterior

    @torch.no_grad()
    def start_from_patches(self, patches: Tensor) -> None:
        """Sets the linear path to the four principal components of (N, 3, 8, 8) pixel patches."""
        x = patches.flatten(1).double()
        mean = x.mean(0)
        values, vectors = torch.linalg.eigh((x - mean).T @ (x - mean) / len(x))
        # eigh sorts ascending; the largest four, largest first
        basis = vectors[:, -4:].flip(1)
        deviation = values[-4:].flip(0).sqrt()
        # divided by the deviation, so that each channel of the latent begins with unit variance
        self.analysis.weight.copy_((basis / deviation).T.reshape(4, 3, 8, 8))
        cast(Tensor, self.analysis.bias).copy_(-(mean @ basis) / deviation)
        self.synthesis.weight.copy_((basis * deviation).T.reshape(4, 3, 8, 8))
        cast(Tensor, self.synthesis.bias).copy_(mean.reshape(3, 64).mean(1))

    @property
    def encoder_reach(self) -> int:
        """Distance, in latents, at which a pixel can affect a latent."""
        half, quarter, eighth = cast(tuple[int, int, int], self.config["encoder_blocks"])
        # each 3x3 convolution reaches one position of its resolution; a block has two
        pixels = 2 * (1 + 2 * half) + 4 * 2 * quarter + 8 * (2 * eighth + 1)
        return math.ceil(pixels / 8)

    @property
    def decoder_reach(self) -> int:
        """Distance, in latents, at which a latent can affect a pixel."""
        half, quarter, eighth = cast(tuple[int, int, int], self.config["decoder_blocks"])
        pixels = 8 * (1 + 2 * eighth) + 4 * 2 * quarter + 2 * (2 * half + 1)
        return math.ceil(pixels / 8)

    def encode(self, pixels: Tensor) -> EncoderOutput:
        mean, log_variance = self.encoder(pixels).chunk(2, 1)
        return EncoderOutput(Posterior((mean + self.analysis(pixels)).float(), log_variance.clamp(-12, 2).float()))

    def decode(self, latent: Tensor) -> Output:
        return Output(sample=self.decoder(latent) + self.synthesis(latent))


def _level(channels: int, blocks: int, embedding: int) -> nn.ModuleList:
    return nn.ModuleList(ResidualBlock(channels, embedding) for _ in range(blocks))


class MiniUNet(MiniNetwork):
    """Noise predictor on 4-channel latents whose height and width are multiples of 4; no attention, no text.

    sample is (B, 4, h, w), timestep a float tensor (B,) in 0..999; the prompt embedding is accepted and ignored.
    """

    def __init__(self, channels: tuple[int, int, int] = (80, 128, 144), blocks: int = 2, embedding: int = 128) -> None:
        super().__init__(channels=channels, blocks=blocks, embedding=embedding)
        c = channels
        self.embed = nn.Sequential(nn.Linear(64, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.enter = nn.Conv2d(4, c[0], 3, padding=1)
        self.down = nn.ModuleList(_level(width, blocks, embedding) for width in c)
        self.shrink = nn.ModuleList(nn.Conv2d(c[i], c[i + 1], 3, 2, 1) for i in (0, 1))
        self.grow = nn.ModuleList(nn.Conv2d(c[i + 1], 4 * c[i], 1) for i in (0, 1))
        self.up = nn.ModuleList(_level(width, blocks, embedding) for width in c[:2])
        self.leave = nn.Sequential(PixelNorm(c[0]), nn.SiLU(), nn.Conv2d(c[0], 4, 3, padding=1))
        nn.init.zeros_(cast(nn.Conv2d, self.leave[-1]).weight)

    @property
    def reach(self) -> int:
        """Distance, in latents, at which a latent can affect the prediction."""
        convolutions = 2 * int(self.config["blocks"])
        # convolutions at each resolution on the way down and up; the coarsest is passed once
        fine = 2 * (1 + convolutions)
        half = 2 * convolutions
        quarter = convolutions
        strides = 1 + 2
        alignment = 3  # tiles start at multiples of 4
        return fine + 2 * half + 4 * quarter + strides + alignment

    def forward(
        self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any
    ) -> Output:
        frequencies = torch.exp(-math.log(1000) * torch.arange(32, device=sample.device) / 32)
        angles = timestep.float()[:, None] * frequencies
        embedding = self.embed(torch.cat([angles.sin(), angles.cos()], 1))
        h = self.enter(sample)
        skips = []
        for i, blocks in enumerate(self.down):
            for block in cast(nn.ModuleList, blocks):
                h = block(h, embedding)
            if i < 2:
                skips.append(h)
                h = self.shrink[i](h)
        for i in (1, 0):
            h = F.pixel_shuffle(self.grow[i](h), 2) + skips[i]
            for block in cast(nn.ModuleList, self.up[i]):
                h = block(h, embedding)
        return Output(sample=self.leave(h))
