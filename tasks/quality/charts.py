"""Small charts as inline SVG, colored by the page's style sheet, so that they follow its light or dark scheme.

All are WIDTH x HEIGHT units, and scale with their column on the page.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH = 340
HEIGHT = 190
# the plot; labels are to its left and below
LEFT = 44
TOP = 12
RIGHT = 328
BOTTOM = 160
SERIES = 6
"""Number of distinct line colors."""


@dataclass(frozen=True)
class Axis:
    """Maps values low..high to start..end of the drawing, linearly or logarithmically; `whole`: ticks at integers."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    whole: bool = False

    def __call__(self, value: float) -> float:
        return self.start + (self._scaled(value) - self._scaled(self.low)) * self._slope

    @property
    def _slope(self) -> float:
        return (self.end - self.start) / (self._scaled(self.high) - self._scaled(self.low))

    def _scaled(self, value: float) -> float:
        if self.log:
            return math.log(value)
        return value

    def ticks(self) -> list[float]:
        """Returns a few round values in the range."""
        if self.log:
            values = self._ticks_of_decades()
            if len(values) > 2:
                return values
        # a short logarithmic range has few round values of decades, and is close to linear
        raw = (self.high - self.low) / 5
        step = 10.0 ** math.floor(math.log10(raw))
        for factor in (1, 2, 5, 10):
            if factor * step >= raw:
                step *= factor
                break
        if self.whole:
            step = max(step, 1.0)
        # ends that are ticks stay, although their quotients are rounded
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]

    def _ticks_of_decades(self) -> list[float]:
        """1, 2 and 5 times the powers of ten in the range."""
        lowest = math.floor(math.log10(self.low))
        highest = math.ceil(math.log10(self.high))
        values = []
        for decade in range(lowest, highest + 1):
            for step in (1, 2, 5):
                value = step * 10.0**decade
                if self.low <= value <= self.high:
                    values.append(value)
        return values


def across(low: float, high: float, *, log: bool = False, whole: bool = False) -> Axis:
    """Creates the horizontal axis of a range, widened if it is a single value."""
    return Axis(*_widened(low, high, log), LEFT, RIGHT, log, whole)


def upwards(low: float, high: float, *, turned: bool = False, whole: bool = False) -> Axis:
    """Creates the vertical axis of a range; `turned` puts the low end at the top."""
    ends = (TOP, BOTTOM) if turned else (BOTTOM, TOP)
    return Axis(*_widened(low, high, False), *ends, whole=whole)


def _widened(low: float, high: float, log: bool) -> tuple[float, float]:
    if low < high:
        return low, high
    if log:
        return low / 1.5, high * 1.5
    return low - max(abs(low), 1) / 10, high + max(abs(high), 1) / 10


def histogram(title: str, low: float, high: float, counts: Sequence[int]) -> Markup:
    """Draws bars of equal width over low..high."""
    x = across(low, high)
    y = upwards(0, max(counts), whole=True)
    width = (x.high - x.low) / len(counts)
    parts = []
    for number, count in enumerate(counts):
        if not count:
            continue
        from_value = x.low + number * width
        to_value = x.low + (number + 1) * width
        start = x(from_value)
        drawn_width = max(x(to_value) - start - 1, 0.8)  # a gap of one unit, but never an invisible bar
        label = f"{from_value:.4g} to {to_value:.4g}: {count}"
        parts.append(
            f'<rect class="bar" x="{start + 0.5:.1f}" y="{y(count):.1f}" width="{drawn_width:.1f}" '
            f'height="{BOTTOM - y(count):.1f}"><title>{label}</title></rect>'
        )
    return _chart(title, x, y, "".join(parts))


def density(title: str, x: Axis, y: Axis, cells: Sequence[tuple[float, float, int]]) -> Markup:
    """Draws a dot at the center of each grid cell; its size and opacity grow with the count."""
    most = max(count for *_, count in cells)
    parts = []
    for column, row, count in cells:
        share = math.sqrt(count / most)  # else all but the fullest cells would vanish
        parts.append(
            f'<circle class="dot" cx="{x(column):.1f}" cy="{y(row):.1f}" r="{1.4 + 1.6 * share:.2f}" '
            f'opacity="{0.35 + 0.65 * share:.2f}"/>'
        )
    return _chart(title, x, y, "".join(parts))


def lines(title: str, series: Sequence[tuple[str, Sequence[tuple[float, float]]]]) -> Markup:
    """Draws a line per named series of points over integers, such as runs."""
    numbers: list[float] = []
    values: list[float] = []
    for _, line in series:
        for first, second in line:
            numbers.append(first)
            values.append(second)
    x = across(min(numbers), max(numbers), whole=True)
    low = min(values)
    high = max(values)
    room = (high - low) * 0.1
    y = upwards(low - room, high + room)
    parts = []
    for number, (name, line) in enumerate(series):
        style = f"series-{number % SERIES}"
        path = " ".join(f"{x(first):.1f},{y(second):.1f}" for first, second in line)
        parts.append(f'<polyline class="line {style}" points="{path}"/>')
        for first, second in line:
            label = Markup.escape(f"{name}, run {first:g}: {second:.4g}")  # a name is part of an archive's path
            parts.append(
                f'<circle class="mark {style}" cx="{x(first):.1f}" cy="{y(second):.1f}" r="2.6">'
                f"<title>{label}</title></circle>"
            )
    return _chart(title, x, y, "".join(parts))


def _chart(title: str, x: Axis, y: Axis, inside: str) -> Markup:
    grid = []
    for value in y.ticks():
        at = y(value)
        grid.append(f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        grid.append(f'<text class="tick end" x="{LEFT - 7}" y="{at + 3.5:.1f}">{_short(value)}</text>')
    for value in x.ticks():
        grid.append(f'<text class="tick middle" x="{x(value):.1f}" y="{BOTTOM + 17}">{_short(value)}</text>')
    return Markup(
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{Markup.escape(title)}">{"".join(grid)}'
        f'<line class="axis" x1="{LEFT}" x2="{RIGHT}" y1="{BOTTOM}" y2="{BOTTOM}"/>{inside}</svg>'
    )


def _short(value: float) -> str:
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:.10g}"  # without the last digits, in which a multiple of 0.1 differs from it
