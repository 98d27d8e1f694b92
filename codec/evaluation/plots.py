"""The figures of an evaluation: rate-distortion curves, and the published bit rates beside measured ones.

Drawn on a light background regardless of the page, with one color per codec.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from codec.errors import SettingsError
from codec.evaluation import published
from codec.evaluation.baselines.ours import NAME, UPPER_BOUND
from codec.evaluation.tables import METRICS, Comparison
from codec.metrics.kernel_distance import NETWORK, PATCH

COLORS = {
    NAME: "#d55e00",
    UPPER_BOUND: "#d55e00",
    "hevc": "#0072b2",
    "avif": "#009e73",
    "jpeg-xl": "#cc79a7",
    "webp": "#b8860b",
    "jpeg": "#56b4e9",
    "bpg": "#333333",
}
"""Colors that are distinguishable with color blindness."""
OTHERS = ("#7f3c8d", "#11a579", "#3969ac", "#80ba5a", "#e68310", "#008695", "#cf1c90", "#4b4b8f")
PUBLISHED_MARKERS = {
    "Ours": ("*", 110, "the paper's codec"),
    "HFD": ("s", 55, "HFD"),
    "CDC": ("^", 55, "CDC"),
    "ILLM": ("D", 55, "ILLM"),
}
"""Marker, its size and the name of each published method."""
TICKS = (0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0)


def color(name: str, names: Sequence[str] = ()) -> str:
    """The color of a codec; codecs without an assigned color get one by their position in `names`."""
    if name in COLORS:
        return COLORS[name]
    for key in (NAME, UPPER_BOUND):  # followed by the bundle's id
        if name.startswith(f"{key}-"):
            return COLORS[key]
    rest = [other for other in names if other not in COLORS and not other.startswith((NAME, UPPER_BOUND))]
    if name not in rest:
        return OTHERS[0]
    return OTHERS[rest.index(name) % len(OTHERS)]


def figure(width: float, height: float) -> Any:
    """An empty white figure of this size in inches. Raises SettingsError if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure  # not pyplot, which would keep every figure in memory
    except ImportError as error:
        raise SettingsError(f"{error}: pip install 'fdcodec[evaluate]', then run again; rows are kept") from None

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def save(drawn: Any, path: Path, *, svg: bool = True) -> None:
    """Writes a figure as PNG and, of lines and points, as SVG."""
    drawn.savefig(path.with_suffix(".png"), dpi=110)
    if svg:
        drawn.savefig(path.with_suffix(".svg"))


def draw_curves(
    compared: Comparison, realism: Sequence[tuple[str, float, float]], path: Path, ours: str | None
) -> None:
    """Each metric, and the kernel distance (codec, mean bpp, KID), against bits per pixel.

    A dot is a point of a codec: the means of rate and value over all pictures; points that lack a picture are left
    out.
    """
    drawn = figure(20, 9.5)
    *axes, last, spare = drawn.subplots(2, 4).flat  # six metrics, the kernel distance, and one cell more
    spare.set_axis_off()
    order = [codec for codec in compared.codecs if codec != ours]
    if ours is not None and ours in compared.codecs:
        order.append(ours)  # drawn last, so that it lies above the others
    for axis, metric in zip(axes, METRICS, strict=True):
        for codec in order:
            _curve(axis, _means(compared, codec, metric.name), codec, order, ours)
        for name in compared.upper_bounds:
            level = compared.upper_bound(name, metric)
            if level is not None:
                axis.axhline(level, color=color(name), linestyle="--", linewidth=1, label=f"{name} (no quantization)")
        _axis(axis, metric.label, reversed_=metric.lower)
    for codec in order:
        distances = [(bpp, 1000 * value) for name, bpp, value in realism if name == codec]
        _curve(last, distances, codec, order, ours)
    _axis(last, f"KID × 1000 ({NETWORK}, {PATCH} px)", reversed_=True)
    if not realism:
        last.text(0.5, 0.5, "not measured", transform=last.transAxes, ha="center", color="0.4")
    drawn.suptitle(f"Means of {len(compared.images)} pictures, whole files; up is better everywhere", fontsize=13)
    drawn.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=11, frameon=False)
    save(drawn, path)


def _means(compared: Comparison, codec: str, metric: str) -> list[tuple[float, float]]:
    """(mean bpp, mean value) of each point that all pictures have."""
    means = []
    for (name, *_), rows in compared.points().items():
        if name != codec:
            continue
        measured = [row for row in rows if row[metric] is not None]
        # A mean over fewer pictures would be of other pictures than those of the codecs beside it.
        if len(measured) == len(compared.images):
            mean_bpp = fmean(row["bpp"] for row in measured)
            means.append((mean_bpp, fmean(row[metric] for row in measured)))
    return sorted(means)


def _curve(
    axis: Any, points: Sequence[tuple[float, float]], codec: str, order: Sequence[str], ours: str | None
) -> None:
    if not points:
        return
    width = 3 if codec == ours else 1.6
    rates, values = zip(*points, strict=True)
    style = {"color": color(codec, order), "linewidth": width, "markersize": 2 * width + 1}
    axis.plot(rates, values, "o-", label=codec, **style)


def draw_published(compared: Comparison, path: Path, ours: str) -> None:
    """The published bit rates of each photo beside those of this codec's files; unmeasured photos are left out."""
    drawn = figure(11, 5.2)
    axis = drawn.subplots()
    positions = np.arange(len(published.PHOTOS))
    for method, (marker, size, name) in PUBLISHED_MARKERS.items():
        axis.scatter(
            positions,
            published.BITS_PER_PIXEL[method],
            s=size,
            marker=marker,
            facecolors="none",
            edgecolors="0.35",
            label=f"{name}, published",
        )
    label: str | None = f"{ours}, measured, lambda rising"
    for number, photo in enumerate(published.PHOTOS):
        rates = compared.rates_of(ours, photo)
        beside = [number + 0.25] * len(rates)
        axis.plot(beside, rates, "o-", markersize=4, color=color(ours), label=label)
        label = None  # once in the legend
    axis.set(xticks=positions, xticklabels=published.PHOTOS, ylabel="bits per pixel, whole file", ylim=(0, None))
    axis.set_title(f"Published bit rates ({published.SOURCE}; no qualities published) and this codec's files")
    axis.grid(axis="y", alpha=0.3)
    drawn.legend(loc="outside lower center", ncols=5, fontsize=10, frameon=False)
    save(drawn, path)


def _axis(axis: Any, title: str, *, reversed_: bool) -> None:
    if reversed_:
        title += ", reversed"
    axis.set(xscale="log", xlabel="bits per pixel, whole file", title=title)
    # Powers of ten alone, matplotlib's ticks of a log axis, would be one or two.
    low, high = axis.get_xlim()
    ticks = [bpp for bpp in TICKS if low <= bpp <= high]
    axis.set_xticks(ticks, [f"{bpp:g}" for bpp in ticks])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    if reversed_:
        axis.invert_yaxis()
