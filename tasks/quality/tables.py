"""The report in the tools of data people: DuckDB, Polars and pandas, one call each.

Each reads archives as they are at the call: the rows that count, their hashes checked. Files of a remote archive are
copied to a temporary folder, which goes with the result.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import duckdb
import pyarrow.dataset

from tasks.archive import report
from tasks.archive.opening import existing
from tasks.quality.questions import define_views, sources

if TYPE_CHECKING:
    import pandas
    import polars


def register(connection: duckdb.DuckDBPyConnection, *archives: str) -> None:
    """Gives a DuckDB connection the views `rows`, `runs` and `listings` of archives (paths or URLs).

    Raises ArchiveError for a location without an archive.

    >>> register(duckdb.default_connection(), "s3://bucket/archive")
    >>> duckdb.sql("SELECT avg(bpp) FROM rows WHERE status = 'compressed'")
    """
    tables = sources(archives)
    for name, table in tables.datasets.items():
        connection.register(name, table)
    define_views(connection, tables)


def polars_scan(archive: str) -> "polars.LazyFrame":
    """The report's rows as a Polars LazyFrame, which reads the columns and rows that a query needs."""
    import polars

    return polars.scan_pyarrow_dataset(_rows(archive))


def pandas_frame(
    archive: str, columns: Sequence[str] | None = None, where: pyarrow.dataset.Expression | None = None
) -> "pandas.DataFrame":
    """The report's rows as a pandas DataFrame: these columns, or all; with `where`, a pyarrow expression, some rows."""
    names = None if columns is None else list(columns)
    frame: pandas.DataFrame = _rows(archive).to_table(columns=names, filter=where).to_pandas()
    return frame


def _rows(archive: str) -> pyarrow.dataset.Dataset:
    return report.rows(existing(archive))
