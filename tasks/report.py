"""Reading the rows of an archive: sealed runs and open ones, as a pyarrow dataset or in DuckDB, and their totals."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet

from tasks import manifest, names
from tasks.schema import SCHEMA, STATUSES
from tasks.storage import Store

Totals = dict[str, int]

MEMORY = "384MB"
"""What DuckDB may hold before it spills to disk."""
THREADS = 4
"""Each takes its part of that memory."""


def runs(archive: Store) -> list[int]:
    """The numbers of all runs that were opened, ascending."""
    numbers = [int(name) for name in archive.children(names.RUNS) if name.isdecimal()]
    return [number for number in sorted(numbers) if archive.exists(names.manifest(number))]


def sealed(archive: Store, run: int) -> bool:
    """Whether a run is complete."""
    return archive.exists(names.seal(run))


def parts(archive: Store, run: int) -> list[str]:
    """The names of a run's parts: as its seal says, or those that are there so far."""
    if sealed(archive, run):
        seal = manifest.from_json(archive.read(names.seal(run)), archive.uri(names.seal(run)))
        return [part["name"] for part in seal["parts"]]
    return [f"{names.parts(run)}/{name}" for name in archive.children(names.parts(run)) if name.endswith(".parquet")]


def rows(archive: Store, run_numbers: Sequence[int] | None = None) -> pyarrow.dataset.Dataset:
    """The report of an archive, or of some of its runs, as a dataset of the one schema."""
    wanted = runs(archive) if run_numbers is None else run_numbers
    return dataset(archive, [part for run in wanted for part in parts(archive, run)], SCHEMA)


def dataset(archive: Store, files: list[str], schema: pa.Schema) -> pyarrow.dataset.Dataset:
    """Parquet files of one schema, of which fields they lack are null."""
    if not files:
        return pyarrow.dataset.dataset(schema.empty_table())
    return pyarrow.dataset.dataset(files, schema=schema, filesystem=archive.arrow(), format="parquet")


@contextmanager
def database(**tables: pyarrow.dataset.Dataset | pyarrow.dataset.Scanner) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB connection with datasets, or scans of them, as views; it spills to a folder and loads no extension."""
    with tempfile.TemporaryDirectory() as spill:
        config = {
            "temp_directory": spill,
            "memory_limit": MEMORY,
            "threads": THREADS,
            "preserve_insertion_order": False,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
        with duckdb.connect(config=config) as connection:
            for name, table in tables.items():
                connection.register(name, table)
            yield connection


def query(archive: Store, sql: str) -> list[dict[str, Any]]:
    """The answer to an SQL query in which `rows` is the archive's report."""
    with database(rows=rows(archive)) as connection:
        return list(connection.sql(sql).to_arrow_table().to_pylist())


def count(table: pa.Table) -> Totals:
    """Rows by status, bytes of their sources and bytes stored; a file that several rows share counts once."""
    statuses = table.column("status").to_pylist()
    files = {
        (tar, offset): length
        for status, tar, offset, length in zip(
            statuses, *(table.column(name).to_pylist() for name in ("tar", "offset", "length")), strict=True
        )
        if tar is not None and status != "unchanged"
    }
    return {
        "images": table.num_rows,
        **{status: statuses.count(status) for status in STATUSES},
        "source_bytes": sum(table.column("source_bytes").to_pylist()),
        "stored_bytes": sum(files.values()),
    }


def add(totals: Sequence[Totals]) -> Totals:
    """The sum of totals, field by field."""
    empty = count(SCHEMA.empty_table())
    return {name: sum(total[name] for total in totals) for name in empty}


def means(archive: Store, run_numbers: Sequence[int]) -> dict[str, float | None]:
    """Bits per pixel over all kept pictures of known size, and the mean of each metric over those that have it."""
    sql = """
        SELECT 8.0 * sum(bytes) FILTER (width IS NOT NULL) / sum(width::BIGINT * height) AS bpp,
               avg(psnr_db) AS psnr_db, avg(ms_ssim) AS ms_ssim, avg(lpips) AS lpips, avg(dists) AS dists
        FROM rows WHERE status IN ('compressed', 'fallback')
    """
    with database(rows=rows(archive, run_numbers)) as connection:
        return dict(connection.sql(sql).to_arrow_table().to_pylist()[0])
