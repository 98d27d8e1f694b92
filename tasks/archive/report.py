"""The one reader of an archive's rows, compacted ones and those of newer runs: in pyarrow, in DuckDB, and as totals."""

import bisect
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.dataset
import pyarrow.parquet

from tasks.archive import compacted, layout, manifest
from tasks.archive.schema import DAMAGED, SCHEMA, STATUSES, TROUBLE
from tasks.storage import parquet
from tasks.storage.store import Store

Totals = dict[str, int]


def runs(archive: Store, after: int = 0) -> list[int]:
    """The numbers of all runs that were opened, or of those after one, ascending."""
    numbers = [int(name) for name in archive.children(layout.RUNS) if name.isdecimal()]
    return [number for number in sorted(numbers) if number > after and archive.exists(layout.manifest(number))]


def sealed(archive: Store, run: int) -> bool:
    """Whether a run is complete."""
    return archive.exists(layout.seal(run))


def parts(archive: Store, run: int) -> list[str]:
    """The names of a run's parts: as its seal says, or those that are there so far."""
    if sealed(archive, run):
        return [part["name"] for part in manifest.seal(archive, run)["parts"]]
    return [f"{layout.parts(run)}/{name}" for name in archive.children(layout.parts(run)) if name.endswith(".parquet")]


def files(archive: Store, run_numbers: Sequence[int] | None = None) -> list[str]:
    """The names of the Parquet files that hold the rows of an archive, or of some runs, each row once.

    Runs that were compacted come from the files of tables/CURRENT.json when all of them are wanted; others are parts.
    """
    if run_numbers is not None and 1 not in run_numbers:
        return _parts(archive, run_numbers)
    table = compacted.current(archive)
    wanted = run_numbers if run_numbers is not None else runs(archive, table.runs)
    if run_numbers is not None and not set(range(1, table.runs + 1)) <= set(run_numbers):
        return _parts(archive, wanted)
    return [file.name for file in table.files] + _parts(archive, [run for run in wanted if run > table.runs])


def rows(archive: Store, run_numbers: Sequence[int] | None = None) -> pyarrow.dataset.Dataset:
    """The report of an archive, or of some of its runs, as a dataset of the one schema."""
    return parquet.dataset(archive, files(archive, run_numbers), SCHEMA)


def lookup(archive: Store, keys: Iterable[str]) -> pa.Table:
    """All rows of some keys: only the compacted files that may hold them are read, each in one request."""
    wanted = sorted(set(keys))
    table = compacted.current(archive)
    chosen = pa.compute.field("key").isin(wanted)
    contents = [archive.read_range(file.name, 0, file.size) for file in table.files if _within(wanted, file)]
    contents += [archive.read(part) for part in _parts(archive, runs(archive, table.runs))]
    found = [pa.parquet.read_table(pa.BufferReader(data), schema=SCHEMA, filters=chosen) for data in contents]
    return pa.concat_tables([SCHEMA.empty_table(), *found])


def _within(keys: list[str], file: compacted.File) -> bool:
    place = bisect.bisect_left(keys, file.first)
    return place < len(keys) and keys[place] <= file.last


def _parts(archive: Store, run_numbers: Iterable[int]) -> list[str]:
    return [part for run in run_numbers for part in parts(archive, run)]


def count_rows(archive: Store, paths: Sequence[str]) -> int:
    """How many rows Parquet files of the report say they hold."""
    return sum(some.count_rows() for some in parquet.some_at_once(archive, paths, SCHEMA))


def query(archive: Store, sql: str) -> list[dict[str, Any]]:
    """The answer to an SQL query in which `rows` is the archive's report."""
    with parquet.database(rows=rows(archive)) as connection:
        return list(connection.sql(sql).to_arrow_table().to_pylist())


def count(table: pa.Table) -> Totals:
    """Rows by status, bytes of their sources and bytes stored; a file that several rows share counts once."""
    statuses = table.column("status").to_pylist()
    lacking = [None] * table.num_rows  # a column that is younger than the part
    places = (
        table.column(name).to_pylist() if name in table.column_names else lacking
        for name in ("tar", "offset", "length", "film_length")
    )
    files = {
        (tar, offset): length + (film or 0)
        for status, tar, offset, length, film in zip(statuses, *places, strict=True)
        if tar is not None and status != "unchanged"
    }
    return {
        "images": table.num_rows,
        **{status: statuses.count(status) for status in STATUSES},
        DAMAGED: table.column("reason").to_pylist().count(DAMAGED),
        "source_bytes": sum(table.column("source_bytes").to_pylist()),
        "stored_bytes": sum(files.values()),
    }


def add(totals: Sequence[Totals]) -> Totals:
    """The sum of totals, field by field."""
    empty = count(SCHEMA.empty_table())
    return {name: sum(total[name] for total in totals) for name in empty}


def failures(archive: Store, run_numbers: Sequence[int], first: int) -> tuple[int, list[dict[str, Any]]]:
    """How many rows of some runs an operator should look at, and the first of them.

    Those are pictures that failed, are damaged, or were kept whole because encoding them went wrong.
    """
    reasons = ", ".join(f"'{reason}'" for reason in ("unverified", *TROUBLE))
    sql = f"""
        SELECT key, reason, error, source_uri AS source, run, shard, count(*) OVER () AS found
        FROM rows WHERE status = 'failed' OR reason = '{DAMAGED}' OR (status = 'fallback' AND reason IN ({reasons}))
        ORDER BY run, shard, key LIMIT {first}
    """
    with parquet.database(rows=rows(archive, run_numbers)) as connection:
        found = list(connection.sql(sql).to_arrow_table().to_pylist())
    return (found[0]["found"] if found else 0), [{k: v for k, v in row.items() if k != "found"} for row in found]


def means(archive: Store, run_numbers: Sequence[int]) -> dict[str, float | None]:
    """Bits per pixel over all kept pictures of known size, and the mean of each metric over those that have it."""
    sql = """
        SELECT 8.0 * sum(bytes) FILTER (width IS NOT NULL) / sum(width::BIGINT * height) AS bpp,
               avg(psnr_db) AS psnr_db, avg(ms_ssim) AS ms_ssim, avg(lpips) AS lpips,
               avg(lpips_vgg) AS lpips_vgg, avg(dists) AS dists
        FROM rows WHERE status IN ('compressed', 'fallback')
    """
    with parquet.database(rows=rows(archive, run_numbers)) as connection:
        return dict(connection.sql(sql).to_arrow_table().to_pylist()[0])
