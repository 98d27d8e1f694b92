"""The quality report of archives: one self-contained HTML file, and its summary as Markdown."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import jinja2
import pyarrow as pa
from markupsafe import Markup

from tasks.processes.codec_process import Models
from tasks.progress import SILENT, Progress
from tasks.quality import charts, questions, text
from tasks.quality.thumbnails import RowOfArchive, ThumbnailPair, pairs

SHOWN = 30
"""Most rows of an answer shown on the page."""
MOST_BINS, FEWEST_BINS = 36, 8
GRID = (64, 44)

METRICS = {
    "bpp": ("Bits per pixel", False),
    "psnr_db": ("PSNR, dB", False),
    "ms_ssim": ("MS-SSIM", False),
    "lpips": ("LPIPS", True),
    "lpips_vgg": ("LPIPS (VGG)", True),
    "dists": ("DISTS", True),
}
"""The label of each metric column, and whether lower is better."""

_LATEST = """
    CREATE TEMP TABLE latest AS
    SELECT archive, key, run, codec, width, height, bytes, bpp, psnr_db, ms_ssim, lpips, lpips_vgg, dists
    FROM rows WHERE status <> 'failed'
    QUALIFY row_number() OVER (PARTITION BY archive, key ORDER BY run DESC) = 1 AND tar IS NOT NULL
"""
_OVERVIEW = """
    SELECT count(*) AS pictures, 8.0 * sum(bytes) / sum(width::BIGINT * height) FILTER (bytes IS NOT NULL) AS bpp,
           median(psnr_db) AS psnr_db, median(ms_ssim) AS ms_ssim, median(lpips) AS lpips,
           median(lpips_vgg) AS lpips_vgg, median(dists) AS dists
    FROM latest WHERE width IS NOT NULL
"""
_BINS = """
    WITH found AS (SELECT {name} AS value FROM latest WHERE {name} IS NOT NULL AND codec = 'fdc'),
         span AS (SELECT min(value) AS low, max(value) AS high FROM found)
    SELECT low, high, count(*),
           least(coalesce(floor((value - low) / nullif(high - low, 0) * {bins}), {bins} // 2), {bins} - 1)::INT
    FROM found, span GROUP BY ALL
"""
_CELLS = """
    WITH found AS (SELECT ln(bpp) AS x, {name} AS y FROM latest WHERE {name} IS NOT NULL AND codec = 'fdc'),
         span AS (SELECT min(x) AS x0, greatest(max(x) - min(x), 1e-9) AS dx, min(y) AS y0,
                         greatest(max(y) - min(y), 1e-9) AS dy FROM found)
    SELECT exp(x0 + dx * (least(floor((x - x0) / dx * {columns}), {columns} - 1) + 0.5) / {columns}),
           y0 + dy * (least(floor((y - y0) / dy * {lines}), {lines} - 1) + 0.5) / {lines}, count(*)
    FROM found, span GROUP BY ALL
"""
_WORST = """
    WITH worst AS (
        SELECT archive, key, run FROM latest WHERE {name} IS NOT NULL AND codec = 'fdc'
        ORDER BY {name} {order}, archive, key LIMIT {most}
    )
    SELECT rows.* FROM rows SEMI JOIN worst USING (archive, key, run) ORDER BY {name} {order}, archive, key
"""


@dataclass(frozen=True)
class Chart:
    """A chart with its caption."""

    title: str
    svg: Markup


@dataclass(frozen=True)
class Report:
    """The data of the page."""

    archives: list[str]
    made: datetime.datetime
    overview: dict[str, Any]
    answers: dict[str, pa.Table]
    distributions: list[Chart]
    against_rate: list[Chart]
    trends: list[Chart]
    worst_by: str
    worst: list[ThumbnailPair]

    @property
    def total(self) -> dict[str, Any]:
        """Total savings over all archives."""
        return dict(self.answers["savings"].slice(0, 1).to_pylist()[0])


def gather(
    locations: Sequence[str],
    models: Models = Models(""),  # noqa: B008  # frozen
    *,
    worst: int = 50,
    progress: Progress = SILENT,
) -> Report:
    """Runs all questions on archives. Decodes the `worst` pictures by LPIPS, or by PSNR if LPIPS is missing."""
    with questions.database(locations) as connection:
        answers = {name: connection.sql(questions.sql(name)).to_arrow_table() for name in questions.QUESTIONS}
        archives = [row["archive"] for row in answers["savings"].to_pylist() if row["archive"] and not row["folder"]]
        if len(archives) == 1:  # its total row is the overview
            answers["savings"] = pa.concat_tables([answers["savings"].slice(0, 1), answers["savings"].slice(2)])
        connection.execute(_LATEST)
        overview = connection.sql(_OVERVIEW).to_arrow_table().to_pylist()[0]
        bins = min(MOST_BINS, max(FEWEST_BINS, round(2 * overview["pictures"] ** 0.5)))
        measured = [name for name in METRICS if overview[name] is not None]
        worst_by = next((name for name in ("lpips", "psnr_db") if name in measured), "")
        rows = _worst(connection, worst_by, worst)
        report = Report(
            archives=archives,
            made=datetime.datetime.now(datetime.UTC),
            overview=overview,
            answers=answers,
            distributions=[chart for name in measured if (chart := _distribution(connection, name, bins))],
            against_rate=[chart for name in measured if name != "bpp" and (chart := _against_rate(connection, name))],
            trends=[chart for name in (*measured, "failed") if (chart := _trend(answers["trends"], name))],
            worst_by=METRICS[worst_by][0].partition(",")[0] if worst_by else "",
            worst=[],
        )
    return Report(**{**vars(report), "worst": pairs(rows, models, progress)})


def html(report: Report) -> str:
    """Renders the page. Styles, charts and thumbnails are embedded; its content security policy forbids requests."""
    here = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(here), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters.update(shown=text.shown, size=text.size, data_uri=text.data_uri)
    environment.globals.update(metrics=METRICS, asked=questions.QUESTIONS, most=SHOWN)
    style = Markup((here / "page.css").read_text(encoding="utf-8"))
    return environment.get_template("page.html.jinja").render(report=report, style=style, columns=text.columns)


def markdown(report: Report, page: str) -> str:
    """Renders the summary: totals, then what needs attention."""
    total = report.total
    lines = [
        f"**{total['pictures']:,} pictures** in {len(report.archives)} archive(s): "
        f"{text.size(total['source_bytes'])} of sources kept in {text.size(total['stored_bytes'])}, "
        f"{text.shown('saved_percent', total['saved_percent'])} saved.",
        "",
    ]
    medians = {name: value for name, value in report.overview.items() if name in METRICS and value is not None}
    if medians:
        lines += [f"| {' | '.join(METRICS[name][0] for name in medians)} |", "|---" * len(medians) + "|"]
        lines += [f"| {' | '.join(text.shown(name, value) for name, value in medians.items())} |", ""]
    for name in ("failures", "fallbacks", "kept_whole", "left_out", "attention", "below_floor"):
        rows = report.answers[name]
        names = rows.schema.names
        count = sum(rows.column("pictures").to_pylist()) if "pictures" in names else rows.num_rows
        if name == "left_out":  # one row per part
            count = len(set(zip(rows.column("archive").to_pylist(), rows.column("key").to_pylist(), strict=True)))
        lines.append(f"- {questions.QUESTIONS[name]} {f'{count:,} pictures' if count else 'None.'}")
    return "\n".join([*lines, "", f"Page: `{page}`", ""])


def _distribution(connection: duckdb.DuckDBPyConnection, name: str, bins: int) -> Chart | None:
    found = connection.sql(_BINS.format(name=name, bins=bins)).fetchall()
    if not found:
        return None
    counts = [0] * bins
    for *_, count, bucket in found:
        counts[bucket] = count
    title = METRICS[name][0]
    return Chart(title, charts.histogram(title, float(found[0][0]), float(found[0][1]), counts))


def _against_rate(connection: duckdb.DuckDBPyConnection, name: str) -> Chart | None:
    cells = connection.sql(_CELLS.format(name=name, columns=GRID[0], lines=GRID[1])).fetchall()
    if not cells:
        return None
    title, lower = METRICS[name]
    rates, values = [cell[0] for cell in cells], [cell[1] for cell in cells]
    x, y = charts.across(min(rates), max(rates), log=True), charts.upwards(min(values), max(values), turned=lower)
    return Chart(f"{title} at bits per pixel", charts.density(title, x, y, cells))


def _trend(trends: pa.Table, name: str) -> Chart | None:
    series: dict[str, list[tuple[float, float]]] = {}
    for row in trends.to_pylist():
        value = 100 * row["failed"] / row["pictures"] if name == "failed" else row[name]
        if value is not None:
            series.setdefault(row["archive"], []).append((row["run"], value))
    if max(map(len, series.values()), default=0) < 2:
        return None
    title = "Failed, %" if name == "failed" else METRICS[name][0]
    return Chart(title, charts.lines(title, list(series.items())[: charts.SERIES]))


def _worst(connection: duckdb.DuckDBPyConnection, name: str, most: int) -> list[RowOfArchive]:
    if not name or most < 1:
        return []
    order = "DESC" if METRICS[name][1] else "ASC"
    return list(connection.sql(_WORST.format(name=name, order=order, most=most)).to_arrow_table().to_pylist())
