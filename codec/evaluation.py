"""The report of `fdc evaluate`: rate and quality of each picture of a folder, as a table and as Parquet."""

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import duckdb
from rich.table import Table
from rich.text import Text

from codec.codec import Codec
from codec.errors import FdcError, SettingsError
from codec.images import read_image
from codec.metrics import Metrics

Row = dict[str, Any]

COLUMNS = {
    "key": "VARCHAR",
    "status": "VARCHAR",
    "error": "VARCHAR",
    "source_format": "VARCHAR",
    "width": "INTEGER",
    "height": "INTEGER",
    "quality_lambda": "DOUBLE",
    "bytes": "BIGINT",
    "bpp": "DOUBLE",
    "psnr_db": "DOUBLE",
    "ms_ssim": "DOUBLE",
    "lpips": "DOUBLE",
    "lpips_net": "VARCHAR",
    "dists": "DOUBLE",
    "timestep": "DOUBLE",
    "steps": "INTEGER",
    "latent_bits": "BIGINT",
    "side_bits": "BIGINT",
    "encode_seconds": "DOUBLE",
    "decode_seconds": "DOUBLE",
    "bundle_id": "VARCHAR",
}
"""Names are those of an archive's report."""
SHOWN = {
    "quality_lambda": ".4g",
    "bytes": ".0f",
    "bpp": ".4f",
    "psnr_db": ".2f",
    "ms_ssim": ".4f",
    "lpips": ".4f",
    "dists": ".4f",
}
"""Columns of the table and how their numbers are written."""


def measure(codec: Codec, metrics: Metrics, path: Path, quality: float) -> Row:
    """Compress and restore one picture. `error` also says why metrics are undefined; a bad file is a failed row."""
    try:
        picture = read_image(path)
        started = time.perf_counter()
        encoded = codec.encode(picture, quality=quality)
        between = time.perf_counter()
        decoded = codec.decode(encoded.data)
        ended = time.perf_counter()
        measured = metrics.measure(picture.pixels, decoded)
    except (FdcError, RuntimeError, MemoryError) as error:  # torch's lack of memory is a RuntimeError
        text = " ".join(str(error).split()) or type(error).__name__
        return {"status": "failed", "quality_lambda": quality, "error": text}
    reasons = [f"{metric}: {reason}" for metric, reason in sorted(measured.reasons.items())]
    return {
        "status": "compressed",
        "error": "; ".join(reasons) or None,
        "source_format": picture.source_format,
        "width": picture.width,
        "height": picture.height,
        "quality_lambda": encoded.quality,
        "bytes": len(encoded.data),
        "bpp": 8 * len(encoded.data) / (picture.width * picture.height),
        "psnr_db": measured.psnr_db,
        "ms_ssim": measured.ms_ssim,
        "lpips": measured.lpips,
        "lpips_net": measured.lpips_net,
        "dists": measured.dists,
        "timestep": encoded.timestep,
        "steps": encoded.steps,
        "latent_bits": encoded.latent_bits,
        "side_bits": encoded.side_bits,
        "encode_seconds": between - started,
        "decode_seconds": ended - between,
        "bundle_id": codec.bundle.id,
    }


def table(rows: Sequence[Row]) -> Table:
    """The rows, then the means of the compressed ones at each lambda; what is undefined is a dash and left out."""
    shown = Table("file", *({"quality_lambda": "lambda"}.get(name, name) for name in SHOWN), "", header_style="bold")
    for row in rows:
        remark = f"failed: {row['error']}" if row["status"] == "failed" else row["error"] or ""
        shown.add_row(Text(row["key"]), *_cells(row), Text(remark))
    compressed = [row for row in rows if row["status"] == "compressed"]
    shown.add_section()
    for quality in dict.fromkeys(row["quality_lambda"] for row in compressed):
        chosen = [row for row in compressed if row["quality_lambda"] == quality]
        values = {name: [row[name] for row in chosen if row[name] is not None] for name in SHOWN}
        shown.add_row(f"mean of {len(chosen)}", *_cells({name: fmean(v) for name, v in values.items() if v}), "")
    return shown


def write_parquet(rows: Sequence[Row], path: Path) -> None:
    """Write the rows, one column each of COLUMNS. Raises SettingsError where that fails."""
    declared = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
    places = ", ".join("?" for _ in COLUMNS)
    target = str(path).replace("'", "''")
    try:
        with duckdb.connect() as database:
            database.execute(f"CREATE TABLE report ({declared})")
            database.executemany(f"INSERT INTO report VALUES ({places})", [[*map(row.get, COLUMNS)] for row in rows])
            database.execute(f"COPY report TO '{target}' (FORMAT parquet)")
    except duckdb.Error as error:
        raise SettingsError(f"cannot write the report: {str(error).splitlines()[0]}") from None


def _cells(row: Row) -> list[str]:
    return ["-" if row.get(name) is None else format(row[name], form) for name, form in SHOWN.items()]
