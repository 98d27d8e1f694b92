"""Codecs beside each other: the Markdown table and the rate-distortion curves of measured rows.

A row is a photo through a codec at one setting: image, codec, version, asked_bpp, setting, bpp and METRICS. Rows whose
asked_bpp is 0 are an autoencoder without quantisation, which has no file: the ceiling of a codec, drawn as a line.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from codec.curves import at_rate, bootstrap_interval, log_rate_difference

Row = dict[str, Any]


@dataclass(frozen=True)
class Metric:
    """A column of the rows, how it is called and written, and whether less of it is better."""

    name: str
    label: str
    form: str
    lower: bool = True


METRICS = (
    Metric("psnr_db", "PSNR (dB)", ".2f", lower=False),
    Metric("ms_ssim", "MS-SSIM", ".4f", lower=False),
    Metric("lpips_alex", "LPIPS (AlexNet)", ".4f"),
    Metric("lpips_vgg", "LPIPS (VGG)", ".4f"),
    Metric("dists", "DISTS", ".4f"),
)


class Comparison:
    """The curves of a set of rows; failed ones count for nothing."""

    def __init__(self, rows: Iterable[Row]) -> None:
        good = [row for row in rows if not row["error"]]
        self.versions = {row["codec"]: row["version"] for row in good}
        self.images = sorted({row["image"] for row in good})
        self._points: dict[tuple[str, str], dict[float, Row]] = {}
        self._ceilings: dict[str, list[Row]] = {}
        for row in good:
            if row["asked_bpp"] == 0:
                self._ceilings.setdefault(row["codec"], []).append(row)
            else:
                self._points.setdefault((row["codec"], row["image"]), {})[row["setting"]] = row

    @property
    def codecs(self) -> list[str]:
        """Those that have files."""
        return sorted({codec for codec, _ in self._points})

    @property
    def ceilings(self) -> list[str]:
        return sorted(self._ceilings)

    def ceiling(self, name: str, metric: Metric) -> float:
        """The mean of a metric over the photos of an autoencoder."""
        return fmean(row[metric.name] for row in self._ceilings[name])

    def curve(self, codec: str, image: str, metric: Metric) -> tuple[list[float], list[float]]:
        """Bits per pixel and values of a photo; points at which the metric is undefined are left out."""
        rows = [row for row in self._points.get((codec, image), {}).values() if row[metric.name] is not None]
        return [row["bpp"] for row in rows], [row[metric.name] for row in rows]

    def at(self, codec: str, metric: Metric, bpp: float) -> dict[str, float]:
        """The value of each photo that has files on both sides of the rate."""
        values = {image: at_rate(*self.curve(codec, image, metric), bpp) for image in self.images}
        return {image: value for image, value in values.items() if value is not None}

    def difference(self, first: str, second: str, metric: Metric, bpp: float) -> list[float]:
        """First minus second on each photo that has both."""
        one, other = self.at(first, metric, bpp), self.at(second, metric, bpp)
        return [one[image] - other[image] for image in one if image in other]

    def saved(self, first: str, second: str, metric: Metric) -> list[float]:
        """ln(bits of first / bits of second) at equal quality on each photo whose curves overlap."""
        sign, logs = -1 if metric.lower else 1, []
        for image in self.images:
            (rates, values), (others, other) = (self.curve(codec, image, metric) for codec in (first, second))
            if rates and others:
                logs.append(log_rate_difference(rates, sign * np.array(values), others, sign * np.array(other)))
        return [value for value in logs if value is not None]


def markdown(compared: Comparison, rates: Sequence[float], ours: str | None) -> str:
    """The report: means at each rate, ours minus each other with intervals, and bits at equal quality."""
    titles = " | ".join(metric.label for metric in METRICS)
    lines = [f"{len(compared.images)} photos; bpp is 8 x bytes of the whole file / pixels.", ""]
    lines += [f"- {codec}: {version}" for codec, version in compared.versions.items()]
    lines += ["", "## Means at equal rates", "", "Each photo's curve is interpolated in log bpp, never extrapolated;"]
    lines += ["`photos` counts those that a codec can bring to that rate, so rows of fewer photos do not compare."]
    lines += ["", f"| bpp | codec | photos | {titles} |", "|---" * (3 + len(METRICS)) + "|"]
    for bpp in rates:
        for codec in compared.codecs:
            columns = [list(compared.at(codec, metric, bpp).values()) for metric in METRICS]
            cells = " | ".join(_mean(column, metric) for column, metric in zip(columns, METRICS, strict=True))
            lines.append(f"| {bpp:.2f} | {codec} | {max(map(len, columns))} | {cells} |")
    for name in compared.ceilings:
        cells = " | ".join(format(compared.ceiling(name, metric), metric.form) for metric in METRICS)
        lines.append(f"| - | {name} | {len(compared.images)} | {cells} |")
    if ours is not None:
        lines += _differences(compared, rates, ours, titles) + _savings(compared, ours, titles)
    return "\n".join(lines) + "\n"


def _differences(compared: Comparison, rates: Sequence[float], ours: str, titles: str) -> list[str]:
    lines = ["", f"## {ours} minus the others", "", "Means over the photos that both bring to the rate, with paired"]
    lines += ["bootstrap intervals of 95 %. For LPIPS and DISTS less is better.", ""]
    lines += [f"| bpp | minus | photos | {titles} |", "|---" * (3 + len(METRICS)) + "|"]
    for bpp in rates:
        for codec in (codec for codec in compared.codecs if codec != ours):
            columns = [compared.difference(ours, codec, metric, bpp) for metric in METRICS]
            cells = [_difference(values, metric) for values, metric in zip(columns, METRICS, strict=True)]
            lines.append(f"| {bpp:.2f} | {codec} | {max(map(len, columns))} | {' | '.join(cells)} |")
    return lines


def _savings(compared: Comparison, ours: str, titles: str) -> list[str]:
    lines = [
        "",
        f"## Bits of {ours} at equal quality",
        "",
        "BD-rate: per cent more (+) or fewer (-) bits than the other",
    ]
    lines += ["codec over the qualities that both reach on a photo, geometric mean over the photos (their number).", ""]
    lines += [f"| than | {titles} |", "|---" * (1 + len(METRICS)) + "|"]
    for codec in (codec for codec in compared.codecs if codec != ours):
        columns = [compared.saved(ours, codec, metric) for metric in METRICS]
        cells = [f"{100 * np.expm1(fmean(logs)):+.1f} % ({len(logs)})" if logs else "-" for logs in columns]
        lines.append(f"| {codec} | {' | '.join(cells)} |")
    return lines


def _difference(values: Sequence[float], metric: Metric) -> str:
    """The mean, and its interval where there is more than one photo to draw from."""
    if not values:
        return "-"
    low, high = (format(bound, f"+{metric.form}") for bound in bootstrap_interval(values))
    return f"{fmean(values):+{metric.form}}" + (f" ({low} to {high})" if len(values) > 1 else "")


def _mean(values: Sequence[float], metric: Metric) -> str:
    return format(fmean(values), metric.form) if values else "-"


def draw(compared: Comparison, places: Sequence[Path], ours: str | None, span: tuple[float, float]) -> None:
    """The five curves over a span of bits per pixel, written to each place; its suffix names the format.

    Solid where all photos contribute to the mean, dotted where at least half of them do.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16, 9), layout="constrained")
    *axes, last = figure.subplots(2, 3).flat
    grid = np.geomspace(*span, 40)
    others = [codec for codec in compared.codecs if codec != ours]
    for axis, metric in zip(axes, METRICS, strict=True):
        for number, codec in enumerate([*others, *([ours] if ours else [])]):
            columns = [list(compared.at(codec, metric, bpp).values()) for bpp in grid]
            style = {"color": f"C{number}", "linewidth": 2.6 if codec == ours else 1.4}
            for least, dashes in ((len(compared.images), "-"), ((len(compared.images) + 1) // 2, ":")):
                means = [fmean(column) if len(column) >= max(1, least) else np.nan for column in columns]
                axis.plot(grid, means, dashes, label=codec if dashes == "-" else None, **style)
        for name in compared.ceilings:
            axis.axhline(compared.ceiling(name, metric), color="0.4", linestyle="--", linewidth=1, label=name)
        axis.set(xscale="log", xlabel="bits per pixel, whole file", title=metric.label, xlim=span)
        axis.set_xticks(ticks := [bpp for bpp in (0.05, 0.1, 0.15, 0.2, 0.3, 0.4) if span[0] <= bpp <= span[1]])
        axis.set_xticklabels([f"{bpp:g}" for bpp in ticks])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        if metric.lower:
            axis.invert_yaxis()
    last.axis("off")
    last.legend(*figure.axes[0].get_legend_handles_labels(), loc="center", fontsize=12, frameon=False)
    last.set_title(
        f"mean of {len(compared.images)} photos; up is better\ndotted: of those that reach the rate", fontsize=12
    )
    for place in places:
        figure.savefig(place, dpi=110)
