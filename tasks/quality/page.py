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
MOST_BINS = 36
FEWEST_BINS = 8
COLUMNS = 64
"""Cells of a density chart from left to right."""
LINES = 44
"""Cells of a density chart from top to bottom."""

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
        answers = {}
        for name in questions.QUESTIONS:
            answers[name] = connection.sql(questions.sql(name)).to_arrow_table()
        savings = answers["savings"]
        archives = []
        for row in savings.to_pylist():
            if row["archive"] and not row["folder"]:  # the total of an archive
                archives.append(row["archive"])
        if len(archives) == 1:  # its total, the second row, would repeat that of all archives
            answers["savings"] = pa.concat_tables([savings.slice(0, 1), savings.slice(2)])
        connection.execute(_LATEST)
        overview = connection.sql(_OVERVIEW).to_arrow_table().to_pylist()[0]
        measured = [name for name in METRICS if overview[name] is not None]
        # twice the square root of the number of values: a common rule of thumb
        bins = min(MOST_BINS, max(FEWEST_BINS, round(2 * overview["pictures"] ** 0.5)))
        distributions = []
        against_rate = []
        trends = []
        for name in measured:
            distributions.append(_distribution(connection, name, bins))
            trends.append(_trend(answers["trends"], name))
            if name != "bpp":
                against_rate.append(_against_rate(connection, name))
        trends.append(_trend(answers["trends"], "failed"))
        worst_by = _worst_by(measured)
        rows = _worst(connection, worst_by, worst)
        made = datetime.datetime.now(datetime.UTC)
    # after the database is closed: decoding takes long
    worst_pairs = pairs(rows, models, progress)
    return Report(
        archives=archives,
        made=made,
        overview=overview,
        answers=answers,
        distributions=_drawn(distributions),
        against_rate=_drawn(against_rate),
        trends=_drawn(trends),
        worst_by=METRICS[worst_by][0].partition(",")[0] if worst_by else "",
        worst=worst_pairs,
    )


def _worst_by(measured: Sequence[str]) -> str:
    """The metric that finds the worst pictures; empty if neither was measured. LPIPS is closer to what people see."""
    for name in ("lpips", "psnr_db"):
        if name in measured:
            return name
    return ""


def _drawn(found: Sequence[Chart | None]) -> list[Chart]:
    """Returns the charts that have values."""
    return [chart for chart in found if chart is not None]


def html(report: Report) -> str:
    """Renders the page. Styles, charts and thumbnails are embedded; its content security policy forbids requests."""
    here = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(here),
        autoescape=True,  # keys and errors come from strangers' files
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,  # a misspelled name is an error, not an empty cell
    )
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
    headings = []
    medians = []
    for name, value in report.overview.items():
        if name in METRICS and value is not None:
            label, _ = METRICS[name]
            headings.append(label)
            medians.append(text.shown(name, value))
    if headings:
        lines += [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|", f"| {' | '.join(medians)} |", ""]
    for name in ("failures", "fallbacks", "kept_whole", "left_out", "attention", "below_floor"):
        count = _pictures(name, report.answers[name])
        answer = f"{count:,} pictures" if count else "None."
        lines.append(f"- {questions.QUESTIONS[name]} {answer}")
    return "\n".join([*lines, "", f"Page: `{page}`", ""])


def _pictures(question: str, rows: pa.Table) -> int:
    """The number of pictures in an answer."""
    if question == "left_out":  # one row per part
        pictures = rows.group_by(["archive", "key"]).aggregate([])
        return int(pictures.num_rows)
    if "pictures" in rows.schema.names:  # grouped
        return sum(rows.column("pictures").to_pylist())
    return int(rows.num_rows)


def _distribution(connection: duckdb.DuckDBPyConnection, name: str, bins: int) -> Chart | None:
    found = connection.sql(_BINS.format(name=name, bins=bins)).fetchall()
    if not found:
        return None
    counts = [0] * bins
    for *_, count, bucket in found:
        counts[bucket] = count
    title, _lower_is_better = METRICS[name]
    low, high, *_ = found[0]  # the same in every row
    return Chart(title, charts.histogram(title, float(low), float(high), counts))


def _against_rate(connection: duckdb.DuckDBPyConnection, name: str) -> Chart | None:
    cells = connection.sql(_CELLS.format(name=name, columns=COLUMNS, lines=LINES)).fetchall()
    if not cells:
        return None
    title, lower_is_better = METRICS[name]
    rates, values, _counts = zip(*cells, strict=True)
    x = charts.across(min(rates), max(rates), log=True)
    y = charts.upwards(min(values), max(values), turned=lower_is_better)  # better is always higher up
    return Chart(f"{title} at bits per pixel", charts.density(title, x, y, cells))


def _trend(trends: pa.Table, name: str) -> Chart | None:
    series: dict[str, list[tuple[float, float]]] = {}
    for row in trends.to_pylist():
        value = row[name]
        if name == "failed":
            value = 100 * row["failed"] / row["pictures"]
        if value is not None:
            series.setdefault(row["archive"], []).append((row["run"], value))
    longest = max((len(line) for line in series.values()), default=0)
    if longest < 2:  # one run is no trend
        return None
    title = "Failed, %" if name == "failed" else METRICS[name][0]
    return Chart(title, charts.lines(title, list(series.items())[: charts.SERIES]))


def _worst(connection: duckdb.DuckDBPyConnection, name: str, most: int) -> list[RowOfArchive]:
    if not name or most < 1:
        return []
    _, lower_is_better = METRICS[name]
    order = "DESC" if lower_is_better else "ASC"
    return list(connection.sql(_WORST.format(name=name, order=order, most=most)).to_arrow_table().to_pylist())
