"""Fig. 1: the clean latent predicted in one step, as in training, beside the result of several steps."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import numpy as np

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


def run(codec: Codec, pictures: Sequence[Path], folder: Path) -> str:
    """Draws one_step.png; the table covers several pictures."""
    metrics, cells, shown = Metrics("psnr", "lpips"), dict[tuple[float, int], list[list[float]]](), []
    several, chosen = STEPS[-1], spread(pictures, PICTURES)
    for number, source in enumerate(chosen):
        for quality in QUALITIES:
            file = coded(codec, source, quality)
            t = file.encoded.timestep
            results = {steps: restored(codec, file, t, steps) for steps in STEPS}
            for steps, measured in zip(
                STEPS, metrics.measure_all(file.picture.pixels, list(results.values())), strict=True
            ):
                difference = psnr(results[1], results[steps])
                values = [t, measured.psnr_db, measured.lpips, difference]
                cells.setdefault((quality, steps), []).append([np.nan if v is None else v for v in values])
            if number == 0:
                shown.append((quality, t, results[1], results[several]))
    _draw(shown, several, source=chosen[0].name, path=folder / "one_step")
    lines = [
        "## One step beside several (Fig. 1)",
        "",
        f"Means of {len(chosen)} pictures. Training",
    ]
    lines += ["uses the clean latent predicted in one step; the last column says how near it is to that of more steps."]
    lines += [
        "",
        "| lambda | timestep | steps | PSNR (dB) | LPIPS (AlexNet) | PSNR to one step (dB) |",
        "|---" * 6 + "|",
    ]
    for (quality, steps), rows in cells.items():
        t, decibel, distance, same = (fmean(column) for column in zip(*rows, strict=True))
        near = "-" if steps == 1 else "identical" if np.isinf(same) else f"{same:.1f}"
        lines.append(f"| {quality:g} | {t:.1f} | {steps} | {decibel:.2f} | {distance:.4f} | {near} |")
    return "\n".join([*lines, "", "![One step beside several](one_step.png)"]) + "\n"


def _draw(shown: Sequence[tuple[float, float, np.ndarray, np.ndarray]], several: int, source: str, path: Path) -> None:
    height, width, _ = shown[0][2].shape
    drawn = figure(15, 0.5 + 5 * len(shown) * height / width)
    axes = np.atleast_2d(drawn.subplots(len(shown), 3))
    for row, (quality, t, one, more) in zip(axes, shown, strict=True):
        difference = np.abs(one.astype(int) - more.astype(int))
        inverted = (255 - np.minimum(255, GAIN * difference)).astype(np.uint8)
        titles = (
            f"λ {quality:g}, t {t:g}: one step, as in training",
            f"{several} steps",
            f"difference × {GAIN}, white is none (largest {difference.max()} of 255)",
        )
        for axis, pixels, title in zip(row, (one, more, inverted), titles, strict=True):
            axis.imshow(pixels, interpolation="none")
            axis.set_title(title, fontsize=11)
            axis.axis("off")
    drawn.suptitle(source, fontsize=11)
    save(drawn, path, svg=False)
