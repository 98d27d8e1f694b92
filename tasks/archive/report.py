"""Reads the rows of an archive: in pyarrow, in DuckDB, and as totals.

Rows come from the tables of the head and, for runs that no table covers, from parts. The hash of every file is checked.
A damaged table is replaced by the parts of its runs, which have the same rows. A damaged part raises DamagedError, or
is appended to `damaged` if the caller passes such a list.
"""

import bisect
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute
import pyarrow.dataset
import pyarrow.parquet

from tasks.archive import index_files, layout, log
from tasks.archive.index_files import DamagedError, IndexFile
from tasks.archive.log import ArchiveHead, Table, TableFile
from tasks.archive.schema import DAMAGED, SCHEMA, STATUSES, TROUBLE
from tasks.storage import parquet
from tasks.storage.store import NotFoundError, Store

LOGGER = logging.getLogger(__name__)
Totals = dict[str, int]
Read = TypeVar("Read")


def parts(archive: Store, head: ArchiveHead, run: int) -> list[IndexFile]:
    """Returns a run's parts: those listed by its seal, or those that exist if the run is open."""
    if run in head.sealed:
        # The seal decides, not the folder: a late runner may have left a part that does not count.
        seal = log.seal(archive, head, run)
        return [IndexFile(part["name"], part["sha256"], part["size"]) for part in seal["parts"]]
    there = archive.children(layout.parts(run))
    return [IndexFile(f"{layout.parts(run)}/{name}") for name in there if name.endswith(".parquet")]


def rows(
    archive: Store, run_numbers: Sequence[int] | None = None, *, damaged: list[str] | None = None
) -> pyarrow.dataset.Dataset:
    """Returns the report of an archive, or of some runs, as a dataset of the report schema.

    Files of a remote archive are copied to a temporary folder, which is removed with the dataset.
    """

    def paths(head: ArchiveHead, noted: list[str] | None) -> list[Path]:
        found: list[Path] = []
        for source in _sources(archive, head, run_numbers):
            found += _paths(archive, head, source, scratch.path, noted)
        return found

    with index_files.scratch() as scratch:
        found = _consistently(archive, paths, damaged)
        return scratch.owned_by(index_files.dataset(found, SCHEMA))


def stream(archive: Store, head: ArchiveHead, columns: Sequence[str] = SCHEMA.names) -> pa.RecordBatchReader:
    """Streams columns of all rows once, in constant memory."""
    return batches(archive, head, _sources(archive, head, None), columns)


def batches(
    archive: Store, head: ArchiveHead, sources: Iterable[Table | IndexFile], columns: Sequence[str] = SCHEMA.names
) -> pa.RecordBatchReader:
    """Streams the rows of some tables and parts; detects damage before the first row."""
    with index_files.scratch() as scratch:
        paths: list[Path] = []
        for source in sources:
            paths += _paths(archive, head, source, scratch.path, None)
        return scratch.owned_by(index_files.reader(paths, SCHEMA, columns))


def lookup(archive: Store, keys: Iterable[str], *, damaged: list[str] | None = None) -> pa.Table:
    """Returns all rows of some keys. Reads only table files with a matching key range, each with one request."""
    wanted = sorted(set(keys))
    is_wanted = pa.compute.field("key").isin(wanted)

    def matches(head: ArchiveHead, noted: list[str] | None) -> list[pa.Table]:
        sources = [*_sources(archive, head, list(head.sealed)), *_committed(archive, head, wanted)]
        found: list[pa.Table] = []
        for source in sources:
            for table in _tables(archive, head, source, wanted, noted):
                found.append(parquet.conformed(table, SCHEMA).filter(is_wanted))
        return found

    return pa.concat_tables([SCHEMA.empty_table(), *_consistently(archive, matches, damaged)])


def _sources(archive: Store, head: ArchiveHead, run_numbers: Sequence[int] | None) -> list[Table | IndexFile]:
    """Returns the tables that cover only wanted runs, and the parts of the other wanted runs.

    A table that also covers other runs would need a filter, and is passed over.
    """
    if run_numbers is None:
        run_numbers = range(1, head.runs + 1)
    wanted = set(run_numbers)
    found: list[Table | IndexFile] = []
    for table in head.tables:
        covered = set(range(table.first_run, table.last_run + 1))
        if covered <= wanted:
            found.append(table)
            wanted -= covered
    for run in sorted(wanted):
        found += parts(archive, head, run)
    return found


def _committed(archive: Store, head: ArchiveHead, keys: list[str]) -> list[IndexFile]:
    """Returns the parts of the open run with rows of some keys, by the shards that its listing assigns to them."""
    if head.open_run is None or not keys:
        return []
    plan = log.plan(archive, head, head.open_run)
    with archive.open(plan.listing) as file:
        indices = _indices(pa.parquet.ParquetFile(file, page_checksum_verification=True), keys)
    found_parts = []
    for shard, (start, stop) in enumerate(plan.shards):
        part = layout.part(plan.run, shard)
        has_key = any(start <= index < stop for index in indices)
        if has_key and archive.exists(part):  # the shard may not be done yet
            found_parts.append(IndexFile(part))
    return found_parts


def _indices(listing: pa.parquet.ParquetFile, keys: list[str]) -> list[int]:
    """Returns the indices of some keys' rows in a listing. Reads only row groups whose key range may contain one."""
    indices: list[int] = []
    key_column = listing.schema_arrow.get_field_index("key")
    first = 0
    for group in range(listing.num_row_groups):
        about = listing.metadata.row_group(group)
        bounds = about.column(key_column).statistics
        # Parquet states no bounds where it cannot, so such a group has to be read.
        if bounds is None or any(bounds.min <= key <= bounds.max for key in keys):
            found = listing.read_row_group(group, columns=["key"]).column("key").to_pylist()
            indices += [first + index for index, key in enumerate(found) if key in keys]
        first += about.num_rows
    return indices


def parts_of(archive: Store, head: ArchiveHead, table: Table) -> list[IndexFile]:
    """Returns the parts that a table covers."""
    found: list[IndexFile] = []
    for run in range(table.first_run, table.last_run + 1):
        found += parts(archive, head, run)
    return found


def _paths(
    archive: Store, head: ArchiveHead, source: Table | IndexFile, scratch: Path, damaged: list[str] | None
) -> list[Path]:
    """Returns local files with the rows of a table or a part; for a damaged table, the parts of its runs."""
    if isinstance(source, IndexFile):
        try:
            return [index_files.fetch(archive, source, scratch)]
        except DamagedError:
            if damaged is None:
                raise
            damaged.append(source.name)
            return []
    try:
        return [index_files.fetch(archive, file, scratch) for file in source.files]
    except DamagedError as error:
        say_instead(error)
    paths: list[Path] = []
    for part in parts_of(archive, head, source):
        paths += _paths(archive, head, part, scratch, damaged)
    return paths


def _tables(
    archive: Store, head: ArchiveHead, source: Table | IndexFile, keys: list[str], damaged: list[str] | None
) -> list[pa.Table]:
    """Reads the rows of the files with a matching key range, with the same fallback as `_paths`."""
    if isinstance(source, IndexFile):
        try:
            return [index_files.read(archive, source)]
        except DamagedError:
            if damaged is None:
                raise
            damaged.append(source.name)
            return []
    chosen = [file for file in source.files if _may_have_any(file, keys)]
    try:
        return [index_files.read(archive, file) for file in chosen]
    except DamagedError as error:
        say_instead(error)
    tables: list[pa.Table] = []
    for part in parts_of(archive, head, source):
        tables += _tables(archive, head, part, keys, damaged)
    return tables


def say_instead(error: DamagedError) -> None:
    """Logs that parts are read instead of a damaged table file."""
    LOGGER.warning("%s; the parts of its runs are read instead", error)


def _consistently(
    archive: Store, read: Callable[[ArchiveHead, list[str] | None], Read], damaged: list[str] | None = None
) -> Read:
    """Calls a function that reads by the head; repeats the call if the head changed meanwhile.

    An erasure removes the objects that it replaced, so objects of an older head may be missing. The function gets a
    list for the names of damaged parts, if the caller wants them; those too count only if the head has not changed.
    """
    while True:
        head = log.read(archive)
        # A list of this attempt alone, so that an attempt that is repeated leaves nothing in the caller's list.
        noted: list[str] | None = None if damaged is None else []
        try:
            found = read(head, noted)
        except (DamagedError, NotFoundError):
            if log.number(archive) == head.record:
                raise
            continue
        if noted and damaged is not None:
            if log.number(archive) != head.record:
                continue
            damaged += noted
        return found


def _may_have_any(file: TableFile, keys: list[str]) -> bool:
    """Whether any of some sorted keys is in the key range of a file."""
    index = bisect.bisect_left(keys, file.first)
    return index < len(keys) and keys[index] <= file.last


def query(archive: Store, sql: str) -> list[dict[str, Any]]:
    """Returns the result of an SQL query with the archive's report as `rows`."""
    with parquet.database(rows=rows(archive)) as connection:
        return list(connection.sql(sql).to_arrow_table().to_pylist())


def count(table: pa.Table) -> Totals:
    """Counts rows by status, source bytes and stored bytes; a stored file shared by several rows counts once."""
    statuses = table.column("status").to_pylist()
    totals = {"images": table.num_rows}
    for status in STATUSES:
        totals[status] = statuses.count(status)
    totals[DAMAGED] = table.column("reason").to_pylist().count(DAMAGED)
    totals["source_bytes"] = sum(table.column("source_bytes").to_pylist())
    totals["stored_bytes"] = _stored_bytes(table)
    return totals


def _stored_bytes(table: pa.Table) -> int:
    """Sums the stored files of some rows; rows `unchanged` point to files that an earlier run counted."""
    names = ("status", "tar", "offset", "length", "film_length")
    columns = []
    for name in names:
        if name in table.column_names:
            columns.append(table.column(name).to_pylist())
        else:  # the column is newer than the part
            columns.append([None] * table.num_rows)
    files: dict[tuple[str, int], int] = {}
    for status, tar, offset, length, film_length in zip(*columns, strict=True):
        if tar is not None and status != "unchanged":
            files[tar, offset] = length + (film_length or 0)
    return sum(files.values())


def add(totals: Sequence[Totals]) -> Totals:
    """Sums totals field by field."""
    names = count(SCHEMA.empty_table())  # without totals each field is 0
    return {name: sum(total[name] for total in totals) for name in names}


def failures(archive: Store, run_numbers: Sequence[int], first: int) -> tuple[int, list[dict[str, Any]]]:
    """Returns the number of rows that need an operator's attention in some runs, and the first of them.

    These are pictures that failed, are damaged, or were kept whole because the encoder failed.
    """
    reasons = ", ".join(f"'{reason}'" for reason in ("unverified", *TROUBLE))
    sql = f"""
        SELECT key, reason, error, source_uri AS source, run, shard, count(*) OVER () AS found
        FROM rows WHERE status = 'failed' OR reason = '{DAMAGED}' OR (status = 'fallback' AND reason IN ({reasons}))
        ORDER BY run, shard, key LIMIT {first}
    """
    with parquet.database(rows=rows(archive, run_numbers)) as connection:
        found = list(connection.sql(sql).to_arrow_table().to_pylist())
    number = 0
    for row in found:
        number = row.pop("found")  # the same in each row, also if LIMIT cut them
    return number, found


def means(archive: Store, run_numbers: Sequence[int]) -> dict[str, float | None]:
    """Returns bits per pixel over all kept pictures of known size, and the mean of each metric where measured."""
    sql = """
        SELECT 8.0 * sum(bytes) FILTER (width IS NOT NULL) / sum(width::BIGINT * height) AS bpp,
               avg(psnr_db) AS psnr_db, avg(ms_ssim) AS ms_ssim, avg(lpips) AS lpips,
               avg(lpips_vgg) AS lpips_vgg, avg(dists) AS dists
        FROM rows WHERE status IN ('compressed', 'fallback')
    """
    with parquet.database(rows=rows(archive, run_numbers)) as connection:
        return dict(connection.sql(sql).to_arrow_table().to_pylist()[0])
