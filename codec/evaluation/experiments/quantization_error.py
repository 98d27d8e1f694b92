"""Section C: how close the latent's quantization error is to uniform, without and with the codec's dither."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codec.codec import Codec
from codec.entropy.dither import UNITS, offsets
from codec.evaluation.experiments import spread
from codec.evaluation.experiments.latents import coded
from codec.evaluation.plots import color, figure, save

QUALITIES = (1.0, 8.0, 64.0)
PICTURES = 8
BINS = 64
WITH = {True: "with", False: "without"}


def run(codec: Codec, pictures: Sequence[Path], folder: Path) -> str:
    """Draws quantization_error.png and .svg."""
    chosen = spread(pictures, PICTURES)
    errors: dict[tuple[float, bool], NDArray[np.float64]] = {}
    for quality in QUALITIES:
        scaled = [scaled_latent(codec, source, quality) for source in chosen]
        for dither in (False, True):
            errors[quality, dither] = np.concatenate([error(x, dither) for x in scaled])
    _draw(errors, folder / "quantization_error")
    used = "dither" if codec.entropy.settings.dither else "none"
    lines = [
        "## Quantization error beside the uniform density (section C)",
        "",
        f"{len(chosen)} pictures, all latent values;",
        "the error in units of a bin's width. The Kolmogorov-Smirnov statistic is the largest distance between its",
        "distribution and the uniform one; variance is in units of the uniform one's, 1/12. "
        "Dither is subtractive, of the",
        f"format's own sequence of offsets; this codec's files use {used}.",
        "",
        "| lambda | dither | values | KS statistic | variance x 12 |",
        "|---" * 5 + "|",
    ]
    for (quality, dither), values in errors.items():
        cells = f"{len(values)} | {ks_statistic(values):.4f} | {12 * float(np.var(values)):.3f}"
        lines.append(f"| {quality:g} | {WITH[dither]} | {cells} |")
    lines += ["", "![Quantization error](quantization_error.png)"]
    return "\n".join(lines) + "\n"


def scaled_latent(codec: Codec, source: Path, quality: float) -> NDArray[np.float64]:
    """alpha * y (4, h, w) of a picture at lambda: the values to be rounded."""
    file = coded(codec, source, quality)
    y = codec.backbone.encode_pixels(file.picture.pixels)
    return np.asarray((file.alpha * y).double().cpu()[0], np.float64)


def error(scaled: NDArray[np.float64], dither: bool) -> NDArray[np.float64]:
    """The rounding error of (4, h, w) values, flattened, in -0.5..0.5: round(x + u) - u - x, u as in files, or 0."""
    u = offsets(*scaled.shape) / UNITS if dither else np.zeros(scaled.shape)
    return (np.round(scaled + u) - u - scaled).ravel()


def ks_statistic(values: NDArray[np.float64]) -> float:
    """The Kolmogorov-Smirnov distance of values from the uniform distribution on -0.5..0.5."""
    from scipy.stats import ks_1samp, uniform  # takes half a second to import

    return float(ks_1samp(values, uniform(-0.5, 1).cdf, method="asymp").statistic)


def _draw(errors: dict[tuple[float, bool], NDArray[np.float64]], path: Path) -> None:
    drawn = figure(4.6 * len(QUALITIES), 7)
    axes = drawn.subplots(2, len(QUALITIES), sharey=True)
    for (quality, dither), values in errors.items():
        column = QUALITIES.index(quality)
        if dither:
            axis = axes[1, column]
            fill = color("avif")
        else:
            axis = axes[0, column]
            fill = color("hevc")
        axis.hist(values, BINS, range=(-0.5, 0.5), density=True, color=fill, alpha=0.75)
        axis.axhline(1, color="black", linewidth=1.2, linestyle="--", label="uniform density")
        axis.set_title(f"λ {quality:g}, {WITH[dither]} dither: KS {ks_statistic(values):.4f}")
        axis.set(xlabel="error / bin width", xlim=(-0.5, 0.5))
        axis.grid(alpha=0.3)
    for row in axes:
        row[0].set_ylabel("density")
    axes[0, -1].legend(loc="lower right")
    save(drawn, path)
