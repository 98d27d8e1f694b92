"""python -m tests.benchmarks.denoising_arms FOLDER: does denoising pay? The same files, decoded in different ways.

Arms: direct (no denoiser), centroid (each symbol's expected value under the entropy model's distribution, for free),
the U-Net with 1, 2 and 4 steps, and the U-Net after the centroid, from the timestep of the error that is left.
--vae FOLDER adds all arms with another decoder of the same latents, for the question how much of the denoising its last
training stage does. All arms of a photo and lambda have the same bytes; differences from the first arm have 95 %
intervals of a paired bootstrap over photos. Parallel order only.
"""

import argparse
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec import Codec, read_image
from codec.diffusion.backbone import Backbone
from codec.diffusion.denoiser import denoise
from codec.diffusion.mini import MiniAutoencoder
from codec.entropy.coder import SymbolEncoder
from codec.entropy.distribution import FRACTIONS, sigma
from codec.entropy.rate import hyper_latent
from codec.entropy.stream import TILE, compress
from codec.entropy.windows import anchor_mask
from codec.evaluation.bd_rate import bootstrap_interval
from codec.images import to_pixels, to_tensor
from codec.metrics.quality import Metrics
from codec.quantization.quantizer import alpha_code_of_quality, dequantize, measured_alpha_bar, quantize, with_timestep

STEPS = (1, 2, 4)
FIGURES = ("PSNR", "MS-SSIM", "LPIPS alex", "LPIPS vgg", "DISTS")


class Recording(SymbolEncoder):
    """An encoder that keeps the distributions it was given."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.calls: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []

    def write(self, symbols: NDArray[np.int32], means: NDArray[np.int64], levels: NDArray[np.int64]) -> None:
        super().write(symbols, means, levels)
        self.calls.append((means, levels))


def centroids(symbols: NDArray[np.int32], calls: list[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> Tensor:
    """Expected alpha y of each symbol (4, h, w) given its Gaussian, cut to the symbol's bin; one tile, two passes."""
    shape = symbols.shape[1:]
    means = torch.zeros(4, math.prod(shape)).double()
    levels = torch.zeros(4, math.prod(shape)).double()
    # Parallel order: the anchors are coded first, then all other positions.
    anchors = anchor_mask(*shape)
    for places, (mean, level) in zip((anchors, ~anchors), calls, strict=True):
        means[:, places] = torch.from_numpy(mean).view(4, -1).double() / FRACTIONS
        levels[:, places] = torch.from_numpy(level).view(4, -1).double()
    k = torch.from_numpy(symbols).flatten(1).double()
    spread = sigma(levels)
    normal = torch.distributions.Normal(0, 1)
    low = (k - 0.5 - means) / spread
    high = (k + 0.5 - means) / spread
    # The mean of a Gaussian cut to an interval.
    density_low = torch.exp(normal.log_prob(low))
    density_high = torch.exp(normal.log_prob(high))
    expected = means + spread * (density_low - density_high) / (normal.cdf(high) - normal.cdf(low)).clamp(min=1e-12)
    # In far tails the quotient is without meaning: there the middle of the bin.
    return torch.where((expected - k).abs() <= 0.5, expected, k).view(4, *shape).float()


@torch.no_grad()
def arms(codec: Codec, decoders: dict[str, Backbone], photo: Path, quality: float) -> tuple[float, dict[str, Any]]:
    """Bits per pixel of the stream, and the pixels of each arm."""
    picture = read_image(photo)
    y = codec.backbone.encode(to_tensor(picture.pixels)[None])
    if max(y.shape[-2:]) > TILE:
        raise SystemExit(f"{photo} is larger than a tile: give photos of at most {8 * TILE} pixels a side")
    code = alpha_code_of_quality(quality, codec.bundle.config.alpha_at_one)
    u = codec.dither(y)
    parameters = with_timestep((code,), y, u, codec.backbone, "measured")
    k = quantize(y, parameters.alpha, u)
    codes = parameters.channel_codes
    recording = Recording(codec.tables)
    z = hyper_latent(codec.encoder, parameters.alpha * y, codes, codec.constants)[0].round().int().numpy()
    symbols = k[0].int().numpy()
    data = compress(codec.entropy, codec.tables, symbols, [z], codes, encoder=recording).data
    y_hat = dequantize(k, parameters.alpha, u)
    t = torch.tensor([parameters.timestep])
    latents = {"direct": y_hat}
    # The first call wrote the hyper-latent.
    latents["centroid"] = (centroids(symbols, recording.calls[1:])[None] - u) / parameters.alpha
    for steps in STEPS:
        latents[f"U-Net, {steps} step(s)"] = denoise(codec.backbone, y_hat, t, steps)
    left = codec.backbone.timestep_of(float(measured_alpha_bar(y, latents["centroid"]).mean()))
    latents["centroid, then U-Net"] = denoise(
        codec.backbone, latents["centroid"], torch.tensor([left]), codec.bundle.config.steps
    )
    size = (picture.height, picture.width)
    pixels = {"original": picture.pixels}
    for suffix, decoder in decoders.items():
        for arm, latent in latents.items():
            pixels[f"{arm}{suffix}"] = to_pixels(decoder.decode(latent, size)[0])
    return 8 * len(data) / (picture.width * picture.height), pixels


def main() -> int:
    """Print a table for each lambda."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--vae", type=Path, help="a MiniAutoencoder in diffusers layout")
    parser.add_argument("--count", type=int)
    parser.add_argument("--qualities", type=float, nargs="+", default=[2.0, 8.0, 32.0])
    given = parser.parse_args()
    codec = Codec.load(*[given.bundle] if given.bundle else [])
    decoders = {"": codec.backbone}
    if given.vae:
        other = codec.bundle.load_backbone()
        other.autoencoder = MiniAutoencoder.from_pretrained(given.vae).eval().requires_grad_(False)
        decoders[", other decoder"] = other
    metrics = Metrics()
    photos = sorted(given.folder.iterdir())[: given.count]
    for quality in given.qualities:
        rates = []
        measured = {}
        for photo in photos:
            rate, pictures = arms(codec, decoders, photo, quality)
            original = pictures.pop("original")
            names = list(pictures)
            rates.append(rate)
            for name, q in zip(names, metrics.measure_all(original, list(pictures.values())), strict=True):
                measured.setdefault(name, []).append((q.psnr_db, q.ms_ssim, q.lpips, q.lpips_vgg, q.dists))
        table = {name: np.array(rows, np.float64) for name, rows in measured.items()}
        first = next(iter(table.values()))
        print(f"\n{len(photos)} photos, lambda {quality:g}, {np.mean(rates):.3f} bpp (stream alone)\n")
        print("| arm | " + " | ".join(FIGURES) + " |\n" + "|---" * (1 + len(FIGURES)) + "|")
        for name, values in table.items():
            cells = []
            for column, base in zip(values.T, first.T, strict=True):
                low, high = bootstrap_interval(column - base)
                interval = "" if values is first else f" ({low:+.3f} to {high:+.3f})"
                cells.append(f"{column.mean():.3f}{interval}")
            print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
