"""Fig. 4 and section E: files of several rates decoded from forced timesteps, compared with the file's timestep."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from codec.codec import Codec
from codec.evaluation.experiments import spread
from codec.evaluation.experiments.latents import coded, restored
from codec.evaluation.plots import figure, save
from codec.metrics.quality import Metrics

QUALITIES = (1.0, 2.0, 4.0, 8.0, 16.0)
TIMESTEPS = (0.0, 10.0, 20.0, 40.0, 60.0, 90.0, 130.0, 190.0, 270.0)
PICTURES = 3
OWN = "#d00000"
WAY = {"measured": "measured", "tied": "tied", "learned": "predicted"}
"""How a bundle's files get their timestep, in one word, by its `parameters`."""
LABELS = {"psnr_db": ("PSNR (dB)", ".3f", 0.02), "lpips": ("LPIPS (AlexNet)", ".4f", 0.001)}
"""A metric's title and format, and an invisible difference."""
HEADING = f"""## Forced timesteps beside the {{way}} one (Fig. 4, section E)

{{pictures}} pictures at {{qualities}} lambdas, each decoded from the timestep in its file, which this codec's encoder
has {{way}}, and from {", ".join(f"{t:g}" for t in TIMESTEPS)}; DDIM steps: {{steps}}. The file's own is best where no
forced timestep is better; otherwise the miss is what the best of them gains, and the second table counts how often it
is the best and how often within a difference that nobody sees.
"""


@dataclass(frozen=True)
class Point:
    """A file decoded from a timestep."""

    picture: str
    quality: float
    bpp: float
    timestep: float
    own: bool
    """Whether it is the timestep that the file states."""
    psnr_db: float
    lpips: float


def run(codec: Codec, pictures: Sequence[Path], folder: Path) -> str:
    """Draws timesteps.png and .svg; the tables state how often and by how much the file's timestep misses the best."""
    chosen = spread(pictures, PICTURES)
    points: list[Point] = []
    for source in chosen:
        points += sweep(codec, source)
    config = codec.bundle.config
    way = WAY[config.parameters]
    _draw(points, way, folder / "timesteps")
    groups = _groups(points)
    lines = [
        HEADING.format(way=way, pictures=len(chosen), qualities=len(QUALITIES), steps=config.steps),
        f"| lambda | bpp | {way} t | best t, PSNR | miss (dB) | best t, LPIPS | miss |",
        "|---" * 7 + "|",
    ]
    for quality in QUALITIES:
        cells = _cells([group for group in groups if group[0].quality == quality])
        lines.append(f"| {quality:g} | {' | '.join(cells)} |")
    lines += ["", "| metric | files | best | within | mean miss | largest miss |", "|---" * 6 + "|"]
    for metric, (label, form, near) in LABELS.items():
        misses = [miss(group, metric) for group in groups]
        exact = misses.count(0)
        within = len([value for value in misses if value <= near])
        mean = format(fmean(misses), form)
        worst = format(max(misses), form)
        lines.append(f"| {label} | {len(misses)} | {exact} | {within} of {near:g} | {mean} | {worst} |")
    lines += ["", "![Forced timesteps](timesteps.png)"]
    return "\n".join(lines) + "\n"


def _cells(groups: Sequence[Sequence[Point]]) -> list[str]:
    """The cells of one lambda: rate and timesteps of its files, then best timestep and miss by metric."""
    bpp = fmean(group[0].bpp for group in groups)
    cells = [f"{bpp:.3f}", _range(_own(group).timestep for group in groups)]
    for metric, (_, form, _) in LABELS.items():
        cells.append(_range(best(group, metric).timestep for group in groups))
        cells.append(format(fmean(miss(group, metric) for group in groups), form))
    return cells


def sweep(codec: Codec, source: Path) -> list[Point]:
    """A picture's files of all qualities, decoded from all timesteps including its own."""
    metrics = Metrics("psnr", "lpips")
    points = []
    for quality in QUALITIES:
        file = coded(codec, source, quality)
        own = file.encoded.timestep
        timesteps = sorted({*TIMESTEPS, own})
        decoded = [restored(codec, file, t, codec.bundle.config.steps) for t in timesteps]
        found = metrics.measure_all(file.picture.pixels, decoded)
        for t, measured in zip(timesteps, found, strict=True):
            if measured.psnr_db is None or measured.lpips is None:
                continue  # a picture too small for LPIPS
            points.append(Point(source.name, quality, file.bpp, t, t == own, measured.psnr_db, measured.lpips))
    return points


def best(group: Sequence[Point], metric: str) -> Point:
    """The point with the least distortion."""
    if metric == "psnr_db":
        return max(group, key=lambda point: point.psnr_db)
    return min(group, key=lambda point: point.lpips)


def miss(group: Sequence[Point], metric: str) -> float:
    """The gain of the best timestep over the file's own."""
    gained = getattr(best(group, metric), metric) - getattr(_own(group), metric)
    return abs(float(gained))


def _own(group: Sequence[Point]) -> Point:
    """The point at the timestep of the file itself, of which there is exactly one."""
    (own,) = [point for point in group if point.own]
    return own


def _groups(points: Sequence[Point]) -> list[list[Point]]:
    """The points of each file."""
    groups: dict[tuple[str, float], list[Point]] = {}
    for point in points:
        groups.setdefault((point.picture, point.quality), []).append(point)
    return list(groups.values())


def _range(values: Iterable[float]) -> str:
    found = sorted(values)
    if found[0] == found[-1]:
        return f"{found[0]:.0f}"
    return f"{found[0]:.0f} to {found[-1]:.0f}"


def _draw(points: Sequence[Point], way: str, path: Path) -> None:
    from matplotlib.colors import PowerNorm

    names = list(dict.fromkeys(point.picture for point in points))
    drawn = figure(5.2 * len(names), 9)
    grid = drawn.subplots(2, len(names), squeeze=False)
    norm = PowerNorm(0.5, 0, max(TIMESTEPS))  # the timesteps crowd at 0
    for column, name in enumerate(names):
        mine = [point for point in points if point.picture == name]
        _panel(grid[0, column], mine, way, "psnr_db", norm)
        grid[0, column].set(ylabel="PSNR (dB)", title=name)
        dots = _panel(grid[1, column], mine, way, "lpips", norm)
        grid[1, column].set(ylabel="LPIPS (AlexNet), reversed", title=name)
        grid[1, column].invert_yaxis()
    grid[0, 0].legend(loc="lower right")
    ticks = [t for t in TIMESTEPS if t not in (5, 10)]  # their labels would overlap that of 0
    drawn.colorbar(dots, ax=grid, label="forced timestep", shrink=0.8, ticks=ticks)
    save(drawn, path)


def _panel(axis: Any, points: Sequence[Point], way: str, metric: str, norm: Any) -> Any:
    """A picture's points by rate: forced timesteps as colored dots, which are returned, the files' own as circles."""
    forced = [point for point in points if not point.own]
    rates, values = _coordinates(forced, metric)
    timesteps = [point.timestep for point in forced]
    dots = axis.scatter(rates, values, c=timesteps, cmap="viridis", norm=norm, s=34, zorder=2)
    rates, values = _coordinates([point for point in points if point.own], metric)
    axis.plot(rates, values, "-", color=OWN, linewidth=1, zorder=1)
    axis.scatter(
        rates,
        values,
        s=90,
        facecolors="none",
        edgecolors=OWN,
        linewidths=2,
        zorder=3,
        label=f"{way} timestep",
    )
    axis.set(xlabel="bits per pixel, whole file")
    axis.grid(alpha=0.3)
    return dots


def _coordinates(points: Sequence[Point], metric: str) -> tuple[list[float], list[float]]:
    """The rates and values of points."""
    rates = []
    values = []
    for point in points:
        rates.append(point.bpp)
        values.append(getattr(point, metric))
    return rates, values
