"""Fig. 4 and section E: files of several rates decoded from forced timesteps, compared with the file's timestep."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from codec.codec import Codec
from codec.evaluation.experiments import spread
from codec.evaluation.experiments.latents import coded, restored
from codec.evaluation.plots import figure, save
from codec.metrics.quality import Metrics

QUALITIES = (1.0, 2.0, 4.0, 8.0, 16.0)
TIMESTEPS = (0.0, 10.0, 20.0, 40.0, 60.0, 90.0, 130.0, 190.0, 270.0)
PICTURES = 3
PREDICTED = "#d00000"
LABELS = {"psnr_db": ("PSNR (dB)", ".3f", 0.02), "lpips": ("LPIPS (AlexNet)", ".4f", 0.001)}
"""A metric's title and format, and an invisible difference."""
HEADING = f"""## Forced timesteps beside the predicted one (Fig. 4, section E)

{{}} pictures at {{}} lambdas, each decoded from the timestep in its file and from
{", ".join(f"{t:g}" for t in TIMESTEPS)}; DDIM steps: {{}}. The prediction is best where no forced
timestep is better; otherwise the miss is what the best of them gains, and the second table counts
how often it is the best and how often within a difference that nobody sees.
"""


@dataclass(frozen=True)
class Point:
    """A file decoded from a timestep."""

    picture: str
    quality: float
    bpp: float
    timestep: float
    predicted: bool
    psnr_db: float
    lpips: float


def run(codec: Codec, pictures: Sequence[Path], folder: Path) -> str:
    """Draws timesteps.png and .svg; the tables state how often and by how much the prediction misses the best."""
    chosen = spread(pictures, PICTURES)
    points = [point for source in chosen for point in sweep(codec, source)]
    _draw(points, folder / "timesteps")
    lines = [HEADING.format(len(chosen), len(QUALITIES), codec.bundle.config.steps)]
    lines += ["| lambda | bpp | predicted t | best t, PSNR | miss (dB) | best t, LPIPS | miss |", "|---" * 7 + "|"]
    misses = {metric: [miss(group, metric) for group in _groups(points)] for metric in ("psnr_db", "lpips")}
    for quality in QUALITIES:
        groups = [group for group in _groups(points) if group[0].quality == quality]
        cells = [
            f"{fmean(group[0].bpp for group in groups):.3f}",
            _range(p.timestep for g in groups for p in g if p.predicted),
        ]
        for metric, form in (("psnr_db", ".3f"), ("lpips", ".4f")):
            cells += [_range(best(group, metric).timestep for group in groups)]
            cells += [format(fmean(miss(group, metric) for group in groups), form)]
        lines.append(f"| {quality:g} | {' | '.join(cells)} |")
    lines += ["", "| metric | files | best | within | mean miss | largest miss |", "|---" * 6 + "|"]
    for metric, (label, form, near) in LABELS.items():
        values, times = misses[metric], sum(value == 0 for value in misses[metric])
        worst, mean = max(values), fmean(values)
        within = f"{sum(value <= near for value in values)} of {near:g}"
        lines.append(f"| {label} | {len(values)} | {times} | {within} | {mean:{form}} | {worst:{form}} |")
    return "\n".join([*lines, "", "![Forced timesteps](timesteps.png)"]) + "\n"


def sweep(codec: Codec, source: Path) -> list[Point]:
    """A picture's files of all qualities, decoded from all timesteps including the predicted one."""
    metrics, points = Metrics("psnr", "lpips"), []
    for quality in QUALITIES:
        file = coded(codec, source, quality)
        predicted = file.encoded.timestep
        timesteps = sorted({*TIMESTEPS, predicted})
        decoded = [restored(codec, file, t, codec.bundle.config.steps) for t in timesteps]
        for t, measured in zip(timesteps, metrics.measure_all(file.picture.pixels, decoded), strict=True):
            if measured.psnr_db is not None and measured.lpips is not None:
                values = (measured.psnr_db, measured.lpips)
                points.append(Point(source.name, quality, file.bpp, t, t == predicted, *values))
    return points


def best(group: Sequence[Point], metric: str) -> Point:
    """The point with the least distortion."""
    return max(group, key=lambda point: point.psnr_db if metric == "psnr_db" else -point.lpips)


def miss(group: Sequence[Point], metric: str) -> float:
    """The gain of the best timestep over the predicted one."""
    (predicted,) = (point for point in group if point.predicted)
    return abs(float(getattr(best(group, metric), metric) - getattr(predicted, metric)))


def _groups(points: Sequence[Point]) -> list[list[Point]]:
    """The points of each file."""
    groups: dict[tuple[str, float], list[Point]] = {}
    for point in points:
        groups.setdefault((point.picture, point.quality), []).append(point)
    return list(groups.values())


def _range(values: Iterable[float]) -> str:
    found = sorted(values)
    return f"{found[0]:.0f} to {found[-1]:.0f}" if found[0] != found[-1] else f"{found[0]:.0f}"


def _draw(points: Sequence[Point], path: Path) -> None:
    from matplotlib.colors import PowerNorm

    names = list(dict.fromkeys(point.picture for point in points))
    drawn = figure(5.2 * len(names), 9)
    grid = drawn.subplots(2, len(names), squeeze=False)
    colors = {"cmap": "viridis", "norm": PowerNorm(0.5, 0, max(TIMESTEPS)), "s": 34, "zorder": 2}
    for column, name in enumerate(names):
        for axis, (metric, label) in zip(
            grid[:, column], (("psnr_db", "PSNR (dB)"), ("lpips", "LPIPS (AlexNet), reversed")), strict=True
        ):
            mine = [point for point in points if point.picture == name]
            forced, own = ([p for p in mine if p.predicted == chosen] for chosen in (False, True))
            dots = axis.scatter([p.bpp for p in forced], [getattr(p, metric) for p in forced],
                                c=[p.timestep for p in forced], **colors)  # fmt: skip
            axis.plot(
                [p.bpp for p in own], [getattr(p, metric) for p in own], "-", color=PREDICTED, linewidth=1, zorder=1
            )
            axis.scatter([p.bpp for p in own], [getattr(p, metric) for p in own], s=90, facecolors="none",
                         edgecolors=PREDICTED, linewidths=2, zorder=3, label="predicted timestep")  # fmt: skip
            axis.set(xlabel="bits per pixel, whole file", ylabel=label, title=name)
            axis.grid(alpha=0.3)
            if metric == "lpips":
                axis.invert_yaxis()
    grid[0, 0].legend(loc="lower right")
    drawn.colorbar(dots, ax=grid, label="forced timestep", shrink=0.8, ticks=[t for t in TIMESTEPS if t not in (5, 10)])
    save(drawn, path)
