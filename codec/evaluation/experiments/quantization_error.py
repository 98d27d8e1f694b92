"""Section C: how close the latent's quantization error is to uniform, without and with dither."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codec.codec import Codec
from codec.evaluation.experiments import spread
from codec.evaluation.experiments.latents import coded
from codec.evaluation.plots import color, figure, save

QUALITIES = (1.0, 8.0, 64.0)
PICTURES = 8
BINS = 64


def run(codec: Codec, pictures: Sequence[Path], folder: Path) -> str:
    """Draws quantization_error.png and .svg."""
    chosen, errors = spread(pictures, PICTURES), dict[tuple[float, bool], NDArray[np.float64]]()
    for quality in QUALITIES:
        scaled = [scaled_latent(codec, source, quality) for source in chosen]
        for dither in (False, True):
            errors[quality, dither] = np.concatenate([error(x, dither, seed) for seed, x in enumerate(scaled)])
    _draw(errors, folder / "quantization_error")
    lines = [
        "## Quantization error beside the uniform density (section C)",
        "",
        f"{len(chosen)} pictures, all latent values;",
    ]
    lines += [
        "the error in units of a bin's width. The Kolmogorov-Smirnov statistic is the largest distance between its"
    ]
    lines += [
        "distribution and the uniform one; variance is in units of the uniform one's, 1/12. Dither is subtractive; this"
    ]
    lines += [
        f"codec's files use {'it' if codec.entropy.settings.dither else 'none'}.",
        "",
        "| lambda | dither | values | KS statistic | variance x 12 |",
        "|---" * 5 + "|",
    ]
    for (quality, dither), values in errors.items():
        cells = f"{len(values)} | {ks_statistic(values):.4f} | {12 * float(np.var(values)):.3f}"
        lines.append(f"| {quality:g} | {'with' if dither else 'without'} | {cells} |")
    return "\n".join([*lines, "", "![Quantization error](quantization_error.png)"]) + "\n"


def scaled_latent(codec: Codec, source: Path, quality: float) -> NDArray[np.float64]:
    """alpha * y of a picture at lambda, flattened: the values to be rounded."""
    file = coded(codec, source, quality)
    y = codec.backbone.encode_pixels(file.picture.pixels)
    return np.asarray((file.alpha * y).double().cpu().flatten(), np.float64)


def error(scaled: NDArray[np.float64], dither: bool, seed: int = 0) -> NDArray[np.float64]:
    """The rounding error, in -0.5..0.5; with dither, round(x + u) - u - x for a shared u uniform in -0.5..0.5."""
    u = np.random.default_rng(seed).uniform(-0.5, 0.5, scaled.shape) if dither else np.zeros_like(scaled)
    return np.round(scaled + u) - u - scaled


def ks_statistic(values: NDArray[np.float64]) -> float:
    """The Kolmogorov-Smirnov distance of values from the uniform distribution on -0.5..0.5."""
    from scipy.stats import ks_1samp, uniform  # takes half a second to import

    return float(ks_1samp(values, uniform(-0.5, 1).cdf, method="asymp").statistic)


def _draw(errors: dict[tuple[float, bool], NDArray[np.float64]], path: Path) -> None:
    drawn = figure(4.6 * len(QUALITIES), 7)
    axes = drawn.subplots(2, len(QUALITIES), sharey=True)
    for (quality, dither), values in errors.items():
        axis = axes[int(dither), QUALITIES.index(quality)]
        axis.hist(values, BINS, range=(-0.5, 0.5), density=True, color=color("avif" if dither else "hevc"), alpha=0.75)
        axis.axhline(1, color="black", linewidth=1.2, linestyle="--", label="uniform density")
        axis.set_title(f"λ {quality:g}, {'with' if dither else 'without'} dither: KS {ks_statistic(values):.4f}")
        axis.set(xlabel="error / bin width", xlim=(-0.5, 0.5))
        axis.grid(alpha=0.3)
    for row in axes:
        row[0].set_ylabel("density")
    axes[0, -1].legend(loc="lower right")
    save(drawn, path)
