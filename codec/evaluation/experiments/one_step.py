"""Fig. 1: the clean latent predicted in one step, as in training, beside the result of several steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codec.codec import Codec
from codec.evaluation.experiments import spread
from codec.evaluation.experiments.latents import coded, restored
from codec.evaluation.plots import figure, save
from codec.metrics.quality import Metrics, psnr

QUALITIES = (1.0, 4.0, 16.0)
STEPS = (1, 2, 4, 8)
PICTURES = 5
GAIN = 16
"""Amplification of shown differences."""


@dataclass(frozen=True)
class _Measured:
    """A picture decoded with some number of steps."""

    timestep: float
    psnr_db: float
    lpips: float
    to_one_step_db: float
    """PSNR to the result of one step; infinite where they are equal."""


@dataclass(frozen=True, eq=False)
class _Shown:
    """A row of the figure: (H, W, 3) after one step and after several."""

    quality: float
    timestep: float
    one: NDArray[np.uint8]
    several: NDArray[np.uint8]


def run(codec: Codec, pictures: Sequence[Path], folder: Path) -> str:
    """Draws one_step.png; the table covers several pictures."""
    metrics = Metrics("psnr", "lpips")
    several = STEPS[-1]
    chosen = spread(pictures, PICTURES)
    cells: dict[tuple[float, int], list[_Measured]] = {}
    shown: list[_Shown] = []
    for number, source in enumerate(chosen):
        for quality in QUALITIES:
            file = coded(codec, source, quality)
            t = file.encoded.timestep
            results = [restored(codec, file, t, steps) for steps in STEPS]
            one = results[STEPS.index(1)]
            found = metrics.measure_all(file.picture.pixels, results)
            for steps, pixels, measured in zip(STEPS, results, found, strict=True):
                values = _Measured(t, _or_nan(measured.psnr_db), _or_nan(measured.lpips), psnr(one, pixels))
                cells.setdefault((quality, steps), []).append(values)
            if number == 0:
                shown.append(_Shown(quality, t, one, results[-1]))
    _draw(shown, several, source=chosen[0].name, path=folder / "one_step")
    lines = [
        "## One step beside several (Fig. 1)",
        "",
        f"Means of {len(chosen)} pictures. Training",
        "uses the clean latent predicted in one step; the last column says how near it is to that of more steps.",
        "",
        "| lambda | timestep | steps | PSNR (dB) | LPIPS (AlexNet) | PSNR to one step (dB) |",
        "|---" * 6 + "|",
    ]
    for (quality, steps), rows in cells.items():
        t = fmean(row.timestep for row in rows)
        decibel = fmean(row.psnr_db for row in rows)
        distance = fmean(row.lpips for row in rows)
        near = _near(steps, fmean(row.to_one_step_db for row in rows))
        lines.append(f"| {quality:g} | {t:.1f} | {steps} | {decibel:.2f} | {distance:.4f} | {near} |")
    lines += ["", "![One step beside several](one_step.png)"]
    return "\n".join(lines) + "\n"


def _or_nan(value: float | None) -> float:
    """A metric that is undefined for a picture makes the mean undefined."""
    if value is None:
        return float("nan")
    return value


def _near(steps: int, decibel: float) -> str:
    if steps == 1:
        return "-"
    if np.isinf(decibel):
        return "identical"
    return f"{decibel:.1f}"


def _draw(shown: Sequence[_Shown], several: int, source: str, path: Path) -> None:
    height, width, _ = shown[0].one.shape
    drawn = figure(15, 0.5 + 5 * len(shown) * height / width)
    axes = np.atleast_2d(drawn.subplots(len(shown), 3))  # subplots drops the first dimension of a single row
    for row, result in zip(axes, shown, strict=True):
        difference = np.abs(result.one.astype(int) - result.several.astype(int))
        inverted = (255 - np.minimum(255, GAIN * difference)).astype(np.uint8)
        _panel(row[0], result.one, f"λ {result.quality:g}, t {result.timestep:g}: one step, as in training")
        _panel(row[1], result.several, f"{several} steps")
        _panel(row[2], inverted, f"difference × {GAIN}, white is none (largest {difference.max()} of 255)")
    drawn.suptitle(source, fontsize=11)
    save(drawn, path, svg=False)


def _panel(axis: Any, pixels: NDArray[np.uint8], title: str) -> None:
    axis.imshow(pixels, interpolation="none")
    axis.set_title(title, fontsize=11)
    axis.axis("off")
