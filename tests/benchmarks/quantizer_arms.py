"""python -m tests.benchmarks.quantizer_arms FOLDER: which way to set bins, timestep and dither costs the fewest bits?

Arms, against the default (timestep from the measured error, one alpha, the bundle's own dither or none):
tied: timestep from the bin width. learned: bins and timestep by the estimator of --learned BUNDLE.
timestep x 0.5, x 2: off the measured one. unscaled: the U-Net sees y_hat instead of sqrt(alpha_bar) y_hat.
dither: an offset in [-1/2, 1/2), known to both sides, in the rounding of each symbol, by codec.entropy.dither.
white dither: by chance. dither of wide ones: only where the model's deviation, seen without dither, is above one bin.
channel N finer: its bins a quarter of an octave narrower. --arms keeps those named.
v, exact: the U-Net made to give v, converted to epsilon as Backbone does it; v as epsilon: the same, not converted.

Prints the bits that each arm needs at equal quality, more (+) or fewer (-) than the default: geometric means over
photos with the 95 % interval of a bootstrap over photos. Bits are the float model's cross-entropy; photos of one tile.
"""

import argparse
import math
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from codec import Codec, Picture, read_image
from codec.bundle import Bundle
from codec.diffusion.backbone import Backbone
from codec.diffusion.denoiser import denoise
from codec.entropy.arithmetic import Simulated
from codec.entropy.distribution import (
    CODE_OF_ONE,
    alpha_of_code,
    bits,
    distributions,
    prior_distributions,
    sigma,
)
from codec.entropy.dither import dither
from codec.entropy.rate import crop_tokens, hyper_latent
from codec.entropy.stream import TILE
from codec.entropy.windows import anchor_mask
from codec.evaluation.bd_rate import bootstrap_interval, log_rate_difference
from codec.images import to_pixels
from codec.metrics.outside import ssimulacra2
from codec.metrics.quality import Metrics
from codec.quantization.parameter_choice import Predicted
from codec.quantization.quantizer import alpha_code_of_quality, measured_alpha_bar, tied_alpha_bar

FINER = 8
"""Alpha codes of a quarter of an octave."""
FIGURES = ("PSNR", "LPIPS alex", "LPIPS vgg", "SSIMULACRA 2")
MATH = Simulated()


@dataclass(frozen=True)
class Coded:
    """A latent as an arm codes it: what the decoder dequantizes to, its timestep, and its bits."""

    y_hat: Tensor
    timestep: float
    bits: float


class Arms:
    """Codes a latent y (1, 4, h, w) at a lambda in each of the ways."""

    def __init__(self, codec: Codec, learned: Bundle | None) -> None:
        self.codec = codec
        self.backbone = codec.backbone
        self.model = codec.bundle.trainable_entropy()
        self.estimator = learned.load_encoder()[1] if learned else None

    def coded(self, y: Tensor, quality: float, wanted: set[str]) -> dict[str, Coded]:
        """The arms that differ in symbols or timestep: of `wanted`, if any, and the default."""
        code = alpha_code_of_quality(quality, self.codec.bundle.config.alpha_at_one)
        alpha = alpha_of_code(code)
        flat = torch.full((1, 4), code)
        own = self.codec.dither(y)
        even = dither(y, wanted=True)
        base = self._rounded(y, flat, own)
        offset = torch.rand(y.shape, generator=torch.Generator().manual_seed(0)) - 0.5
        ways: dict[str, Callable[[], Coded]] = {
            "default": lambda: base,
            "tied": lambda: replace(base, timestep=self._tied(alpha)),
            "timestep x 0.5": partial(replace, base, timestep=base.timestep / 2),
            "timestep x 2": partial(replace, base, timestep=2 * base.timestep),
        }
        if self.estimator is not None:
            ways["learned"] = partial(self._learned, y, quality, timestep=True)
            ways["learned bins, measured timestep"] = partial(self._learned, y, quality, timestep=False)
        ways |= {
            "no dither": partial(self._rounded, y, flat, 0.0),
            "white dither": partial(self._rounded, y, flat, offset),
            "dither": partial(self._rounded, y, flat, even),
            "dither of wide ones": lambda: self._rounded(y, flat, offset * self._wide(alpha * y, flat)),
        }
        for channel in range(4):
            ways[f"channel {channel} finer"] = partial(self._rounded, y, _finer(flat, channel), own)
        ways["dither, channel 0 finer"] = partial(self._rounded, y, _finer(flat, 0), even)
        # The order of the table; only what is asked for is computed.
        return {name: way() for name, way in ways.items() if not wanted or name in wanted | {"default"}}

    def _tied(self, alpha: float) -> float:
        return self.backbone.timestep_of(float(tied_alpha_bar(torch.tensor(alpha))))

    def _learned(self, y: Tensor, quality: float, *, timestep: bool) -> Coded:
        assert self.estimator is not None
        choice = Predicted(self.backbone, self.estimator)
        parameters = choice.parameters(y, choice.alpha_code(y, quality))
        rounded = self._rounded(y, parameters.channel_codes, self.codec.dither(y))
        return replace(rounded, timestep=parameters.timestep) if timestep else rounded

    def _wide(self, scaled: Tensor, codes: Tensor) -> Tensor:
        return sigma(self._modelled(scaled, torch.round(scaled), codes)[1]) > 1

    def _rounded(self, y: Tensor, codes: Tensor, offset: Tensor | float) -> Coded:
        alpha = 2.0 ** ((codes.view(1, 4, 1, 1) - CODE_OF_ONE) / 32)
        scaled = alpha * y
        seen = torch.round(scaled + offset) - offset
        y_hat = seen / alpha
        t = self.backbone.timestep_of(float(measured_alpha_bar(y, y_hat).mean()))
        mean, level, z, z_mean, z_level = self._modelled(scaled, seen, codes)
        cost = bits(seen, mean, level).sum() + bits(z, z_mean[..., None, None], z_level[..., None, None]).sum()
        return Coded(y_hat, t, float(cost))

    def _modelled(self, scaled: Tensor, seen: Tensor, codes: Tensor) -> tuple[Tensor, ...]:
        """Means and levels (1, 4, h, w) of what the decoder sees, then the hyper-latent with its own."""
        model = self.model
        constants = self.codec.constants
        shape = (scaled.shape[-2], scaled.shape[-1])
        alpha, inverse, level = constants.rows(codes, scaled.dtype)
        z = hyper_latent(model, scaled, codes, constants)
        prior = prior_distributions(model.prior(codes, MATH), constants.level_of_one, MATH)
        steps = 2**model.settings.halvings
        hyper = crop_tokens(model.hyper_decoder(z, codes, MATH), (steps * z.shape[-2], steps * z.shape[-1]), shape)
        tokens = seen.flatten(2).transpose(1, 2)
        # In parallel order anchors are coded first, without a context.
        anchors = anchor_mask(*shape)
        context = model.context(tokens, inverse, codes, shape, MATH, anchors) * ~anchors[:, None]
        outputs = model.parameter_net(hyper, context, tokens, inverse, MATH)
        found = distributions(outputs, alpha, level, MATH)
        return *(part.transpose(1, 2).unflatten(2, shape) for part in found), z, *prior


def _finer(codes: Tensor, channel: int) -> Tensor:
    """Codes (1, 4) with one channel's bins a quarter of an octave narrower."""
    finer = codes.clone()
    finer[0, channel] += FINER
    return finer


class GivingV:
    """A U-Net of epsilon made to give v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) y; everything else is its own."""

    def __init__(self, backbone: Backbone, converted: bool) -> None:
        self._backbone = backbone
        self._converted = converted

    def __getattr__(self, name: str) -> object:
        return getattr(self._backbone, name)

    def predict_noise(self, x_t: Tensor, t: Tensor) -> Tensor:
        """v, converted to epsilon or taken for it."""
        alpha_bar = self._backbone.alpha_bar(t.double())[:, None, None, None]
        signal = alpha_bar.sqrt().float()
        noise = (1 - alpha_bar).sqrt().float()
        epsilon = self._backbone.predict_noise(x_t, t)
        v = signal * epsilon - noise * (x_t - noise * epsilon) / signal
        return signal * v + noise * x_t if self._converted else v


class Unscaled(GivingV):
    """A backbone whose U-Net is given x_t / sqrt(alpha_bar)."""

    def predict_noise(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Epsilon of what the U-Net would see without input scaling."""
        return self._backbone.predict_noise(x_t / self._backbone.alpha_bar(t).sqrt()[:, None, None, None], t)


def decoded(codec: Codec, arms: dict[str, Coded], size: tuple[int, int], wanted: set[str]) -> dict[str, np.ndarray]:
    """The pixels of each arm, and of those (of `wanted`, if any) that differ from the default in the denoiser alone."""
    networks: dict[str, tuple[str, object]] = {name: (name, codec.backbone) for name in arms}
    networks["unscaled"] = "default", Unscaled(codec.backbone, converted=False)
    networks["v, exact"] = "default", GivingV(codec.backbone, converted=True)
    networks["v as epsilon"] = "default", GivingV(codec.backbone, converted=False)
    pixels = {}
    for name, (arm, backbone) in networks.items():
        if wanted and name not in wanted | {"default"}:
            continue
        coded = arms[arm]
        y_hat = coded.y_hat
        # A file states the timestep in eighths, and zero is no denoising: below a sixteenth it would be zero.
        if coded.timestep >= 1 / 16:
            y_hat = denoise(backbone, y_hat, torch.tensor([coded.timestep]), codec.bundle.config.steps)  # type: ignore[arg-type]
        pixels[name] = to_pixels(codec.backbone.decode(y_hat, size)[0])
        arms.setdefault(name, coded)
    return pixels


@torch.no_grad()
def curves(arms: Arms, picture: Picture, qualities: list[float], metrics: Metrics, wanted: set[str]) -> dict:
    """For each arm its bits and its four figures at each lambda."""
    y = arms.backbone.encode_pixels(picture.pixels)
    found = defaultdict(list)
    for quality in qualities:
        coded = arms.coded(y, quality, wanted)
        pixels = decoded(arms.codec, coded, (picture.height, picture.width), wanted)
        for name, q in zip(pixels, metrics.measure_all(picture.pixels, list(pixels.values())), strict=True):
            outside = ssimulacra2(picture.pixels, pixels[name])
            found[name].append((coded[name].bits, q.psnr_db, -q.lpips, -q.lpips_vgg, outside))
    return found


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--learned", type=Path, help="a bundle with a trained estimator for the same backbone")
    parser.add_argument("--count", type=int)
    parser.add_argument("--arms", nargs="+", default=[], help="these alone, beside the default")
    parser.add_argument("--qualities", type=float, nargs="+", default=[2.0, 5.0, 12.0, 30.0])
    given = parser.parse_args()
    codec = Codec.load(*[given.bundle] if given.bundle else [])
    arms = Arms(codec, Bundle.open(given.learned) if given.learned else None)
    metrics = Metrics("psnr", "lpips", "lpips-vgg")
    saved = defaultdict(list)
    photos = []
    for path in sorted(given.folder.iterdir())[: given.count]:
        picture = read_image(path)
        if max(picture.width, picture.height) > 8 * TILE:
            raise SystemExit(f"{path} is larger than a tile: give photos of at most {8 * TILE} pixels a side")
        found = curves(arms, picture, given.qualities, metrics, set(given.arms))
        photos.append(path.name)
        print(f"{len(photos)}: {path.name}", file=sys.stderr, flush=True)
        for name, points in found.items():
            rates, *columns = zip(*points, strict=True)
            own_rates, *own = zip(*found["default"], strict=True)
            differences = []
            for column, own_column in zip(columns, own, strict=True):
                difference = log_rate_difference(rates, column, own_rates, own_column)
                differences.append(math.nan if difference is None else difference)  # no quality in common
            saved[name].append(differences)
    print(f"{len(photos)} photos, lambda {', '.join(f'{quality:g}' for quality in given.qualities)}\n")
    print("| arm | " + " | ".join(FIGURES) + " |\n" + "|---" * (1 + len(FIGURES)) + "|")
    for name, rows in saved.items():
        if name != "default":
            print(f"| {name} | " + " | ".join(map(_cell, np.array(rows).T)) + " |")
    return 0


def _cell(logs: np.ndarray) -> str:
    logs = logs[~np.isnan(logs)]
    if not len(logs):
        return "no quality in common"
    # Geometric means: logarithms are averaged, and become per cent last.
    mean, low, high = (f"{100 * math.expm1(log):+.1f}" for log in (float(logs.mean()), *bootstrap_interval(logs)))
    return f"{mean} % ({low} to {high})"


if __name__ == "__main__":
    sys.exit(main())
