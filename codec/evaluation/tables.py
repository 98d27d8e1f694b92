"""Comparison of codecs from the rows of an evaluation, as numbers and Markdown tables.

A row is one picture with one codec at one point (codec.evaluation.runner.COLUMNS). Rows without bpp are of an
autoencoder without quantization, which has no file: the upper bound of a codec.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
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
                # By setting: two rates may be met by the same file, which is one point of the curve.
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
        values = _values(self._upper_bounds[name], metric.name)
        if not values:
            return None
        return fmean(values)

    def points(self) -> dict[tuple[str, float | None, float | None], list[EvaluationRow]]:
        """The measured rows of each codec at each point: (codec, asked_bpp, None) or (codec, None, setting)."""
        found: dict[tuple[str, float | None, float | None], list[EvaluationRow]] = {}
        for row in self.measured:
            asked = row["asked_bpp"]
            setting = None
            if asked is None:  # the settings of files at a rate differ from picture to picture
                setting = row["setting"]
            found.setdefault((row["codec"], asked, setting), []).append(row)

        def order(point: tuple[str, float | None, float | None]) -> tuple[str, float, float]:
            codec, rate, setting = point
            return codec, rate or 0, setting or 0

        return {point: found[point] for point in sorted(found, key=order)}

    def rates_of(self, codec: str, photo: str) -> list[float]:
        """Bits per pixel of a codec's files of the photo with this name, without folder and suffix."""
        rates = []
        for row in self.measured:
            if row["codec"] == codec and Path(row["image"]).stem == photo:
                rates.append(row["bpp"])
        return rates

    def curve(self, codec: str, image: str, metric: Metric) -> tuple[list[float], list[float]]:
        """Bits per pixel and values of a photo; points at which the metric is undefined are left out."""
        rates = []
        values = []
        for row in self._points.get((codec, image), {}).values():
            if row[metric.name] is not None:
                rates.append(row["bpp"])
                values.append(row[metric.name])
        return rates, values

    def at(self, codec: str, metric: Metric, bpp: float) -> dict[str, float]:
        """The value of each photo with files on both sides of the rate."""
        found = {}
        for image in self.images:
            rates, values = self.curve(codec, image, metric)
            value = at_rate(rates, values, bpp)
            if value is not None:
                found[image] = value
        return found

    def difference(self, first: str, second: str, metric: Metric, bpp: float) -> list[float]:
        """First minus second for each photo that has both."""
        one = self.at(first, metric, bpp)
        other = self.at(second, metric, bpp)
        return [one[image] - other[image] for image in one if image in other]

    def saved(self, first: str, second: str, metric: Metric) -> list[float]:
        """ln(bits of first / bits of second) at equal quality for each photo with overlapping curves."""
        sign = -1 if metric.lower else 1  # so that more is better
        logs = []
        for image in self.images:
            rates, values = self.curve(first, image, metric)
            other_rates, other_values = self.curve(second, image, metric)
            if not rates or not other_rates:
                continue
            log = log_rate_difference(rates, sign * np.array(values), other_rates, sign * np.array(other_values))
            if log is not None:
                logs.append(log)
        return logs


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
    if curves:
        lines += ["", "## Curves", "", curves]
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
    lines = [
        "",
        "## Means at each point",
        "",
        "A point is a requested rate (a file within 5 % below it, else the largest below, else the",
        "smallest), or a setting of the codec. Seconds are of one encoding and one decoding.",
        "",
        f"| codec | point | pictures | bpp | {titles} | encode s | decode s |",
        "|---" * (6 + len(METRICS)) + "|",
    ]
    for (codec, rate, setting), rows in compared.points().items():
        point = f"{rate:g} bpp" if rate is not None else f"setting {setting:g}"
        cells = [_mean(_values(rows, "bpp"), ".4f")]
        for metric in METRICS:
            cells.append(_mean(_values(rows, metric.name), metric.form))
        cells.append(_mean(_values(rows, "encode_seconds"), ".2f"))
        cells.append(_mean(_values(rows, "decode_seconds"), ".2f"))
        lines.append(f"| {plain(codec)} | {point} | {len(rows)} | {' | '.join(cells)} |")
    return lines


def _equal_rates(compared: Comparison, rates: Sequence[float], titles: str) -> list[str]:
    lines = [
        "",
        "## Means at equal rates",
        "",
        "Each picture's curve is interpolated in log bpp, never extrapolated;",
        "`pictures` counts those that a codec can bring to that rate; rows with different counts are not comparable.",
        "",
        f"| bpp | codec | pictures | {titles} |",
        "|---" * (3 + len(METRICS)) + "|",
    ]
    for bpp in rates:
        for codec in compared.codecs:
            cells = []
            pictures = 0
            for metric in METRICS:
                values = list(compared.at(codec, metric, bpp).values())
                cells.append(_mean(values, metric.form))
                pictures = max(pictures, len(values))
            if pictures:
                lines.append(f"| {bpp:.2f} | {plain(codec)} | {pictures} | {' | '.join(cells)} |")
    return lines


def _differences(compared: Comparison, rates: Sequence[float], ours: str, titles: str) -> list[str]:
    lines = [
        "",
        f"## {ours} minus the others",
        "",
        "Means over the pictures that both bring to the rate, with paired",
        "bootstrap intervals of 95 %. For LPIPS and DISTS less is better.",
        "",
        f"| bpp | minus | pictures | {titles} |",
        "|---" * (3 + len(METRICS)) + "|",
    ]
    others = [codec for codec in compared.codecs if codec != ours]
    for bpp in rates:
        for codec in others:
            cells = []
            pictures = 0
            for metric in METRICS:
                values = compared.difference(ours, codec, metric, bpp)
                cells.append(_difference(values, metric))
                pictures = max(pictures, len(values))
            if pictures:
                lines.append(f"| {bpp:.2f} | {plain(codec)} | {pictures} | {' | '.join(cells)} |")
    return lines


def _savings(compared: Comparison, ours: str, titles: str) -> list[str]:
    lines = [
        "",
        f"## Bits of {ours} at equal quality",
        "",
        "BD-rate (PCHIP): per cent more (+) or fewer (-) bits than the other",
        "codec over the qualities that both reach on a picture, geometric mean over the pictures (their number).",
        "",
        f"| than | {titles} |",
        "|---" * (1 + len(METRICS)) + "|",
    ]
    for codec in compared.codecs:
        if codec == ours:
            continue
        cells = [_saving(compared.saved(ours, codec, metric)) for metric in METRICS]
        lines.append(f"| {plain(codec)} | {' | '.join(cells)} |")
    return lines


def _saving(logs: Sequence[float]) -> str:
    """The mean of ratios given by their logarithms, in per cent, and their number."""
    if not logs:
        return "-"
    return f"{100 * np.expm1(fmean(logs)):+.1f} % ({len(logs)})"


def _difference(values: Sequence[float], metric: Metric) -> str:
    """The mean, and its interval for more than one photo."""
    if not values:
        return "-"
    mean = f"{fmean(values):+{metric.form}}"
    if len(values) == 1:  # whose interval would be the value itself
        return mean
    low, high = bootstrap_interval(values)
    return f"{mean} ({low:+{metric.form}} to {high:+{metric.form}})"


def _values(rows: Iterable[EvaluationRow], name: str) -> list[float]:
    return [row[name] for row in rows if row[name] is not None]


def _mean(values: Sequence[float], form: str) -> str:
    if not values:
        return "-"
    return format(fmean(values), form)
