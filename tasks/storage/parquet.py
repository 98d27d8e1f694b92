"""Parquet files read in bounded memory: as datasets, as a stream, and in DuckDB."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset

from tasks.storage.store import Store

MEMORY = "256MB"
"""What DuckDB may hold before it spills to disk."""


THREADS = 2
"""Each takes its part of that memory."""


FILES_AT_ONCE, ROWS_AT_ONCE = 64, 10_000


def dataset(archive: Store, paths: list[str], schema: pa.Schema) -> pyarrow.dataset.Dataset:
    """Parquet files of one schema, of which fields they lack are null."""
    if not paths:
        return pyarrow.dataset.dataset(schema.empty_table())
    return pyarrow.dataset.dataset(paths, schema=schema, filesystem=archive.arrow(), format="parquet")


def read_once(
    archive: Store, paths: Sequence[str], schema: pa.Schema, columns: Sequence[str] | None = None
) -> pa.RecordBatchReader:
    """Columns of Parquet files of one schema as a stream, which takes the same memory for any number of files.

    A dataset keeps what it learnt of each file it has read, and reads two million rows ahead of DuckDB.
    """
    columns = list(columns or schema.names)

    def batches() -> Iterator[pa.RecordBatch]:
        for some in some_at_once(archive, paths, schema):
            yield from some.scanner(columns=columns, batch_size=ROWS_AT_ONCE, batch_readahead=2).to_batches()

    return pa.RecordBatchReader.from_batches(pa.schema([schema.field(name) for name in columns]), batches())


def some_at_once(archive: Store, paths: Sequence[str], schema: pa.Schema) -> Iterator[pyarrow.dataset.Dataset]:
    """Datasets of at most FILES_AT_ONCE of the files each."""
    for first in range(0, len(paths), FILES_AT_ONCE):
        yield dataset(archive, list(paths[first : first + FILES_AT_ONCE]), schema)


@contextmanager
def database(**views: Any) -> Iterator[duckdb.DuckDBPyConnection]:
    """DuckDB with datasets or Arrow tables as views; what it makes and spills is below a temporary folder.

    Tables made in it are compressed in its file; temporary tables would not be. It loads no extension.
    """
    with tempfile.TemporaryDirectory() as folder:
        config = {
            "temp_directory": f"{folder}/spilled",
            "memory_limit": MEMORY,
            "threads": THREADS,
            "preserve_insertion_order": False,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
        with duckdb.connect(f"{folder}/tables.duckdb", config=config) as connection:
            connection.execute("SET enable_progress_bar = false")  # in a spawned process DuckDB believes it has a user
            for name, table in views.items():
                connection.register(name, table)
            yield connection
