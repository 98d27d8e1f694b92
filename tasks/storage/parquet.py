"""Reads Parquet files in bounded memory: as datasets, as a stream, and in DuckDB."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset

from tasks.storage.store import Store

MEMORY = "256MB"
"""Memory that DuckDB may use before it spills to disk."""
THREADS = 2
"""Each thread takes its part of that memory."""


def dataset(archive: Store, paths: list[str], schema: pa.Schema) -> pyarrow.dataset.Dataset:
    """Opens Parquet files with one schema; missing columns are null."""
    if not paths:
        return pyarrow.dataset.dataset(schema.empty_table())
    return pyarrow.dataset.dataset(paths, schema=schema, filesystem=archive.arrow(), format="parquet")


def conformed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Returns a table with the columns of a schema; missing columns are null."""
    columns = []
    for field in schema:
        if field.name in table.column_names:
            columns.append(table.column(field.name).cast(field.type))
        else:  # written before the schema got this column
            columns.append(pa.nulls(table.num_rows, field.type))
    return pa.Table.from_arrays(columns, schema=schema)


@contextmanager
def database(**views: Any) -> Iterator[duckdb.DuckDBPyConnection]:
    """Opens DuckDB with datasets or Arrow tables as views; its database and spill files are in a temporary folder.

    Tables created in it are compressed on disk; temporary tables would not be. It loads no extension.
    """
    with tempfile.TemporaryDirectory() as folder:
        config = {
            "temp_directory": f"{folder}/spilled",
            "memory_limit": MEMORY,
            "threads": THREADS,
            "preserve_insertion_order": False,  # keeping it would buffer results in memory
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
        with duckdb.connect(f"{folder}/tables.duckdb", config=config) as connection:
            # In a spawned process DuckDB assumes an interactive user. In a notebook without ipywidgets the bar is off,
            # and setting it would be an error.
            if connection.execute("SELECT current_setting('enable_progress_bar')").fetchall() == [(True,)]:
                connection.execute("SET enable_progress_bar = false")
            for name, table in views.items():
                connection.register(name, table)
            yield connection
