"""Tables: the rows of sealed runs in few large files sorted by key, so that readers need few requests.

Each seal adds its run. A new table absorbs older tables that are less than FACTOR times as large, so the number of
tables grows with the logarithm of the rows, and each row is rewritten only a few times. A table also has the listing
entries that planning needs. Parts and listings do not change: no row depends on a table.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from codec.errors import ArchiveError
from tasks.archive import index_files, layout, log, report
from tasks.archive.index_files import DamagedError, IndexFile
from tasks.archive.log import ArchiveHead, Table, TableFile
from tasks.archive.schema import SCHEMA
from tasks.storage import parquet
from tasks.storage.store import Store, sha256_of

FACTOR = 4
ROWS_PER_FILE = 100_000
ROWS_SORTED_AT_ONCE = 2_000_000  # a bound on memory, not on rows
LISTED = pa.schema(
    [
        pa.field("key", pa.string(), False),
        pa.field("run", pa.int32(), False),
        pa.field("size", pa.int64()),
        pa.field("stamp", pa.string()),
        pa.field("state", pa.string(), False),
    ]
)
"""The listing columns that planning needs. A table has the last entry of each key and kind of state."""

_SAMPLE = "SELECT key FROM staged USING SAMPLE 10000 ROWS"
_RANGE = "SELECT * FROM staged WHERE key >= $low AND ($high IS NULL OR key < $high) ORDER BY key, run"
_ROWS = "CREATE TABLE staged AS FROM rows"
_LAST_ENTRIES = """
    CREATE TABLE staged AS SELECT * FROM rows
    QUALIFY run = max(run) OVER (
        PARTITION BY key, CASE WHEN state IN ('gone', 'excluded', 'unjudged') THEN state ELSE 'listed' END)
"""


def with_run(archive: Store, head: ArchiveHead, run: int) -> tuple[Table, ...]:
    """Returns the tables of a head, extended to cover all sealed runs up to `run`."""
    older = list(head.tables)
    absorbed: list[Table] = []
    plans = [log.plan(archive, head, number) for number in range(head.tabled + 1, run + 1)]
    rows = sum(plan.images for plan in plans)
    while older and _is_small(older[-1], rows):
        absorbed.insert(0, older.pop())
        rows += absorbed[0].rows
    sources: list[Table | IndexFile] = list(absorbed)
    for plan in plans:
        sources += report.parts(archive, head, plan.run)
    first = absorbed[0].first_run if absorbed else head.tabled + 1
    return (*older, write(archive, head, first, run, sources))


def _is_small(older: Table, rows: int) -> bool:
    """Whether a new table with some rows absorbs the table before it."""
    if rows == 0:
        return older.rows == 0  # runs without rows, say of sources that are gone, must not pile up empty tables
    return older.rows < FACTOR * rows


def retire(archive: Store, head: ArchiveHead, after: ArchiveHead, kind: str, **about: Any) -> ArchiveHead | None:
    """Puts new tables in force and returns the head. Retires the replaced files, and removes those retired before.

    Returns None if another record came first. Readers of the previous head can finish; readers of an older head read
    again by a newer one.
    """
    retired = replaced_files(head, after)
    after = replace(after, record=head.record + 1, retired=tuple(retired))
    if not log.append(archive, head, kind, after, **about):
        return None
    for name in head.retired:
        archive.remove(name)
    return after


def replaced_files(head: ArchiveHead, after: ArchiveHead) -> list[str]:
    """Returns the names of a head's table files that the head after it does not name."""
    still_named = {file.name for file in every_file(after.tables)}
    return [file.name for file in every_file(head.tables) if file.name not in still_named]


def every_file(tables: Iterable[Table]) -> list[TableFile]:
    """Returns all files of some tables."""
    files: list[TableFile] = []
    for table in tables:
        files += table.files
        files += table.listed
    return files


def whole(archive: Store, head: ArchiveHead, *, afresh: bool) -> tuple[Table, ...]:
    """Builds one table of all sealed runs, from the existing tables or, if `afresh`, from the parts."""
    last = len(head.sealed)
    if not last:
        return ()
    if afresh:
        head = replace(head, tables=())
    sources: list[Table | IndexFile] = list(head.tables)
    for run in range(head.tabled + 1, last + 1):
        sources += report.parts(archive, head, run)
    return (write(archive, head, 1, last, sources),)


def write(archive: Store, head: ArchiveHead, first: int, last: int, sources: list[Table | IndexFile]) -> Table:
    """Publishes the table of some runs: rows from `sources`, listing entries from the head's tables."""
    entries = listed(archive, head, first, last)
    files = _write(archive, head, 0, _ROWS, report.batches(archive, head, sources), SCHEMA)
    # Both kinds of files share a folder, so their numbers go on.
    listed_files = _write(archive, head, len(files), _LAST_ENTRIES, entries, LISTED)
    return Table(first, last, files, listed_files)


def listed(archive: Store, head: ArchiveHead, first: int = 1, last: int | None = None) -> pa.RecordBatchReader:
    """Streams the listing entries of some runs (default: all): at least the last entries of each key."""
    if last is None:
        last = head.runs
    tables = {table.first_run: table for table in head.tables if table.last_run <= last}
    run = first
    with index_files.scratch() as scratch:
        paths: list[Path] = []
        while run <= last:
            if run in tables:
                paths += _listed_paths(archive, head, tables[run], scratch.path)
                run = tables[run].last_run + 1
            else:
                paths.append(_listing(archive, head, run, scratch.path))
                run += 1
        return scratch.owned_by(index_files.reader(paths, LISTED, LISTED.names))


def _listed_paths(archive: Store, head: ArchiveHead, table: Table, scratch: Path) -> list[Path]:
    try:
        paths = [index_files.fetch(archive, file, scratch) for file in table.listed]
    except DamagedError as error:
        report.say_instead(error)
        paths = []
    if not paths:  # damaged, or a table of format 1, which has no listing entries
        return [_listing(archive, head, run, scratch) for run in range(table.first_run, table.last_run + 1)]
    return paths


def _listing(archive: Store, head: ArchiveHead, run: int, scratch: Path) -> Path:
    plan = log.plan(archive, head, run)
    return index_files.fetch(archive, IndexFile(plan.listing, plan.listing_sha256), scratch)


def _write(
    archive: Store, head: ArchiveHead, start: int, staging: str, source: pa.RecordBatchReader, schema: pa.Schema
) -> tuple[TableFile, ...]:
    """Publishes rows as files for the record after a head, with names numbered from `start`."""
    files: list[TableFile] = []
    with parquet.database(rows=source) as connection:
        for index, rows in enumerate(_filled(_sorted(connection, staging)), start):
            files.append(publish(archive, head.record + 1, index, rows.cast(schema)))
        staged = _staged_rows(connection)
    written = sum(file.rows for file in files)
    # A wrong key range in `_sorted` would lose rows, and readers prefer the table to the parts that still have them.
    if written != staged:
        raise ArchiveError(
            f"{archive}: only {written} of {staged} rows were written to a table; nothing was changed; run again"
        )
    return tuple(files)


def publish(archive: Store, record: int, index: int, rows: pa.Table) -> TableFile:
    """Publishes one table file."""
    data = index_files.written(rows)
    content = sha256_of(data)
    name = layout.table(record, index, content)
    if not archive.publish(name, data):
        raise ArchiveError(f"{archive.uri(name)}: its content does not match its name; remove it and run again")
    keys = rows.column("key")
    return TableFile(
        name=name, sha256=content, size=len(data), rows=len(rows), first=keys[0].as_py(), last=keys[-1].as_py()
    )


def _sorted(connection: duckdb.DuckDBPyConnection, staging: str) -> Iterator[pa.RecordBatch]:
    """Yields rows sorted by key and run, one key range at a time: sorting all at once needs memory for all."""
    connection.execute(staging)
    ranges = 1 + _staged_rows(connection) // ROWS_SORTED_AT_ONCE
    bounds = _range_bounds(connection, ranges) if ranges > 1 else []
    for low, high in itertools.pairwise(["", *bounds, None]):
        yield from connection.sql(_RANGE, params={"low": low, "high": high}).to_arrow_reader(ROWS_PER_FILE)


def _staged_rows(connection: duckdb.DuckDBPyConnection) -> int:
    return int(connection.sql("FROM staged").count("*").fetchall()[0][0])


def _range_bounds(connection: duckdb.DuckDBPyConnection, ranges: int) -> list[str]:
    """Returns the keys between ranges of about equal size: quantiles of a sample, since exact ones need a sort."""
    keys = sorted(key for (key,) in connection.execute(_SAMPLE).fetchall())
    bounds = {keys[len(keys) * step // ranges] for step in range(1, ranges)}
    return sorted(bounds)


def _filled(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Yields tables of ROWS_PER_FILE rows (the last may have fewer); DuckDB's batches vary in size."""
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        while sum(map(len, waiting)) + len(batch) >= ROWS_PER_FILE:
            missing = ROWS_PER_FILE - sum(map(len, waiting))
            yield pa.Table.from_batches([*waiting, batch.slice(0, missing)])
            waiting = []
            batch = batch.slice(missing)
        if len(batch):
            waiting.append(batch)
    if waiting:
        yield pa.Table.from_batches(waiting)
