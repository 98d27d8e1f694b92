"""Comparison of codecs from the rows of an evaluation, as numbers and Markdown tables.

A row is one picture with one codec at one point (codec.evaluation.runner.COLUMNS). Rows without bpp are of an
autoencoder without quantization, which has no file: the upper bound of a codec.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from codec.evaluation.bd_rate import at_rate, bootstrap_interval, log_rate_difference
from codec.evaluation.runner import EvaluationRow


@dataclass(frozen=True)
class Metric:
    """A column of the rows, its title and format, and whether less is better."""

    name: str
    label: str
    form: str
    lower: bool = True


METRICS = (
    Metric("psnr_db", "PSNR (dB)", ".2f", lower=False),
    Metric("ms_ssim", "MS-SSIM", ".4f", lower=False),
    Metric("ssimulacra2", "SSIMULACRA 2", ".2f", lower=False),
    Metric("lpips_alex", "LPIPS (AlexNet, trained on)", ".4f"),
    Metric("lpips_vgg", "LPIPS (VGG, trained on)", ".4f"),
    Metric("dists", "DISTS (trained on)", ".4f"),
)
"""Metrics marked as trained on are terms of this project's losses and flatter its own codecs."""


class Comparison:
    """The curves of a set of rows; failed rows are ignored."""

    def __init__(self, rows: Iterable[EvaluationRow]) -> None:
        self.rows = list(rows)
        self.measured = [row for row in self.rows if row["status"] == "measured"]
        self.versions = {row["codec"]: row["version"] for row in self.measured}
        self.images = sorted({row["image"] for row in self.measured})
        self._points: dict[tuple[str, str], dict[float, EvaluationRow]] = {}
        self._upper_bounds: dict[str, list[EvaluationRow]] = {}
        for row in self.measured:
            if row["bpp"] is None:
                self._upper_bounds.setdefault(row["codec"], []).append(row)
            else:
                self._points.setdefault((row["codec"], row["image"]), {})[row["setting"]] = row

    @property
    def codecs(self) -> list[str]:
        """Codecs that have files."""
        return sorted({codec for codec, _ in self._points})

    @property
    def upper_bounds(self) -> list[str]:
        return sorted(self._upper_bounds)

    def upper_bound(self, name: str, metric: Metric) -> float | None:
        """The mean of a metric over an autoencoder's photos that have it."""
        values = [row[metric.name] for row in self._upper_bounds[name] if row[metric.name] is not None]
        return fmean(values) if values else None

    def points(self) -> dict[tuple[str, float | None, float | None], list[EvaluationRow]]:
        """The measured rows of each codec at each point: (codec, asked_bpp, None) or (codec, None, setting)."""
        found: dict[tuple[str, float | None, float | None], list[EvaluationRow]] = {}
        for row in self.measured:
            asked = row["asked_bpp"]
            found.setdefault((row["codec"], asked, None if asked is not None else row["setting"]), []).append(row)
        return dict(sorted(found.items(), key=lambda item: (item[0][0], item[0][1] or 0, item[0][2] or 0)))

    def curve(self, codec: str, image: str, metric: Metric) -> tuple[list[float], list[float]]:
        """Bits per pixel and values of a photo; points at which the metric is undefined are left out."""
        rows = [row for row in self._points.get((codec, image), {}).values() if row[metric.name] is not None]
        return [row["bpp"] for row in rows], [row[metric.name] for row in rows]

    def at(self, codec: str, metric: Metric, bpp: float) -> dict[str, float]:
        """The value of each photo with files on both sides of the rate."""
        values = {image: at_rate(*self.curve(codec, image, metric), bpp) for image in self.images}
        return {image: value for image, value in values.items() if value is not None}

    def difference(self, first: str, second: str, metric: Metric, bpp: float) -> list[float]:
        """First minus second for each photo that has both."""
        one, other = self.at(first, metric, bpp), self.at(second, metric, bpp)
        return [one[image] - other[image] for image in one if image in other]

    def saved(self, first: str, second: str, metric: Metric) -> list[float]:
        """ln(bits of first / bits of second) at equal quality for each photo with overlapping curves."""
        sign, logs = -1 if metric.lower else 1, []
        for image in self.images:
            (rates, values), (others, other) = (self.curve(codec, image, metric) for codec in (first, second))
            if rates and others:
                logs.append(log_rate_difference(rates, sign * np.array(values), others, sign * np.array(other)))
        return [value for value in logs if value is not None]


def plain(text: object) -> str:
    """Escapes a name or message as one line of Markdown."""
    return re.sub(r"[\\`*\[\]<>|&~]", r"\\\g<0>", " ".join(str(text).split()))


def markdown(compared: Comparison, rates: Sequence[float], ours: str | None, curves: str = "") -> str:
    """The curves, then for several codecs means at equal rates, differences and bits at equal quality, then means.

    `curves` is the Markdown of the curves.
    """
    titles = " | ".join(metric.label for metric in METRICS)
    failed = [row for row in compared.rows if row["status"] == "failed"]
    lines = [f"{len(compared.images)} pictures; bpp is 8 x bytes of the whole file / pixels.", ""]
    lines += [f"- {plain(codec)}: {plain(version)}" for codec, version in compared.versions.items()]
    lines += ["", "## Curves", "", curves] if curves else []
    if len(compared.codecs) > 1:
        lines += _equal_rates(compared, rates, titles)
        if ours is not None:
            lines += _differences(compared, rates, ours, titles) + _savings(compared, ours, titles)
    lines += _means(compared, titles)
    if failed:
        lines += ["", f"## {len(failed)} failed rows", ""]
        lines += [f"- {plain(row['image'])}, {plain(row['codec'])}: {plain(row['error'])}" for row in failed]
    return "\n".join(lines) + "\n"


def _means(compared: Comparison, titles: str) -> list[str]:
    lines = ["", "## Means at each point", ""]
    lines += ["A point is a requested rate (a file within 5 % below it, else the largest below, else the"]
    lines += ["smallest), or a setting of the codec. Seconds are of one encoding and one decoding.", ""]
    lines += [f"| codec | point | pictures | bpp | {titles} | encode s | decode s |", "|---" * (6 + len(METRICS)) + "|"]
    for (codec, rate, setting), rows in compared.points().items():
        point = f"{rate:g} bpp" if rate is not None else f"setting {setting:g}"
        cells = [_mean(_values(rows, "bpp"), ".4f")]
        cells += [_mean(_values(rows, metric.name), metric.form) for metric in METRICS]
        cells += [_mean(_values(rows, name), ".2f") for name in ("encode_seconds", "decode_seconds")]
        lines.append(f"| {plain(codec)} | {point} | {len(rows)} | {' | '.join(cells)} |")
    return lines


def _equal_rates(compared: Comparison, rates: Sequence[float], titles: str) -> list[str]:
    lines = ["", "## Means at equal rates", "", "Each picture's curve is interpolated in log bpp, never extrapolated;"]
    lines += [
        "`pictures` counts those that a codec can bring to that rate; rows with different counts are not comparable."
    ]
    lines += ["", f"| bpp | codec | pictures | {titles} |", "|---" * (3 + len(METRICS)) + "|"]
    for bpp in rates:
        for codec in compared.codecs:
            columns = [list(compared.at(codec, metric, bpp).values()) for metric in METRICS]
            cells = " | ".join(_mean(column, metric.form) for column, metric in zip(columns, METRICS, strict=True))
            if any(columns):
                lines.append(f"| {bpp:.2f} | {plain(codec)} | {max(map(len, columns))} | {cells} |")
    return lines


def _differences(compared: Comparison, rates: Sequence[float], ours: str, titles: str) -> list[str]:
    lines = ["", f"## {ours} minus the others", "", "Means over the pictures that both bring to the rate, with paired"]
    lines += ["bootstrap intervals of 95 %. For LPIPS and DISTS less is better.", ""]
    lines += [f"| bpp | minus | pictures | {titles} |", "|---" * (3 + len(METRICS)) + "|"]
    for bpp in rates:
        for codec in (codec for codec in compared.codecs if codec != ours):
            columns = [compared.difference(ours, codec, metric, bpp) for metric in METRICS]
            cells = [_difference(values, metric) for values, metric in zip(columns, METRICS, strict=True)]
            if any(columns):
                lines.append(f"| {bpp:.2f} | {plain(codec)} | {max(map(len, columns))} | {' | '.join(cells)} |")
    return lines


def _savings(compared: Comparison, ours: str, titles: str) -> list[str]:
    lines = [
        "",
        f"## Bits of {ours} at equal quality",
        "",
        "BD-rate (PCHIP): per cent more (+) or fewer (-) bits than the other",
    ]
    lines += [
        "codec over the qualities that both reach on a picture, geometric mean over the pictures (their number).",
        "",
    ]
    lines += [f"| than | {titles} |", "|---" * (1 + len(METRICS)) + "|"]
    for codec in (codec for codec in compared.codecs if codec != ours):
        columns = [compared.saved(ours, codec, metric) for metric in METRICS]
        cells = [f"{100 * np.expm1(fmean(logs)):+.1f} % ({len(logs)})" if logs else "-" for logs in columns]
        lines.append(f"| {plain(codec)} | {' | '.join(cells)} |")
    return lines


def _difference(values: Sequence[float], metric: Metric) -> str:
    """The mean, and its interval for more than one photo."""
    if not values:
        return "-"
    low, high = (format(bound, f"+{metric.form}") for bound in bootstrap_interval(values))
    return f"{fmean(values):+{metric.form}}" + (f" ({low} to {high})" if len(values) > 1 else "")


def _values(rows: Iterable[EvaluationRow], name: str) -> list[float]:
    return [row[name] for row in rows if row[name] is not None]


def _mean(values: Sequence[float], form: str) -> str:
    return format(fmean(values), form) if values else "-"
