"""Plans a run: lists a source, subtracts what sealed runs hold, and freezes the rest as a Parquet listing."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet

from codec.errors import ArchiveError
from tasks.archive import layout, log, redaction, report, tables
from tasks.archive.listing_schema import LISTING, Entry
from tasks.archive.log import ArchiveHead
from tasks.archive.schema import TROUBLE
from tasks.sources import listing_files
from tasks.sources.filters import Filter
from tasks.sources.sharding import Limits, Shards
from tasks.sources.source import FOUND, Source, write_filtered
from tasks.storage import parquet
from tasks.storage.keys import name_of
from tasks.storage.store import StorageError, Store, sha256_of

BATCH = 10_000
LARGEST_SOURCE = 10**9
"""Bytes of the largest source that is read into memory; larger ones are copied into the tar in pieces."""
SHARDS_PER_RUN = 2000
KEYS_PER_BUCKET = 50_000
HISTORY = (
    *("key", "run", "status", "reason", "version", "source_sha256", "source_uri", "tar", "codec", "carried"),
    "source_bytes",
)
"""Report columns that planning needs."""

_IS_PSEUDONYM = f"status = 'forgotten' AND starts_with(key, '{redaction.PREFIX}')"
_IS_REDACTED = f"(EXISTS (FROM redacted) AND {redaction.PSEUDONYM} IN (SELECT pseudonym FROM redacted))"
# Once on disk in the order of buckets, so that each bucket reads its own rows alone.
_STAGED = "CREATE TABLE {name}_staged AS SELECT *, hash(key) % {buckets} AS bucket FROM {name} ORDER BY bucket"
_NOTHING_PENDING = """
    CREATE TABLE pending (
        key VARCHAR, uri VARCHAR, size BIGINT, stamp VARCHAR, state VARCHAR, version INTEGER, held_sha256 VARCHAR,
        fault VARCHAR
    )
"""
_PLACES = "CREATE TABLE places AS SELECT rtrim(key, '/') || '/' AS place FROM found_staged WHERE fault IS NOT NULL"
_STILL_THERE = """
    SELECT count(DISTINCT key) FROM rows_staged r
    SEMI JOIN (SELECT key FROM found_staged WHERE bucket = $bucket) USING (key)
    WHERE r.bucket = $bucket AND tar IS NOT NULL
"""
_NAMED_AS_ARCHIVES = "SELECT uri FROM found_staged WHERE key = $name OR ends_with(key, '/' || $name)"
_REDACTED = f"CREATE TABLE redacted AS SELECT DISTINCT key AS pseudonym FROM rows_staged WHERE {_IS_PSEUDONYM}"
# `unjudged` in `missing`: an .fdc file of a release that did not record what it carries, and its source is deleted.
# `back`: a source that was gone is pending also with its old stamp, so that the archive records its return.
_PENDING = f"""
    INSERT INTO pending
    WITH rows AS (
        SELECT * EXCLUDE bucket FROM rows_staged WHERE bucket = $bucket
    ), listings AS (
        SELECT * EXCLUDE bucket FROM listings_staged WHERE bucket = $bucket
    ), found AS (
        SELECT * EXCLUDE bucket FROM found_staged WHERE bucket = $bucket
    ), forgotten AS (
        SELECT DISTINCT key FROM rows WHERE status = 'forgotten'
    ), here AS (
        SELECT DISTINCT ON (key) key, uri, size, stamp, fault FROM found ANTI JOIN forgotten USING (key)
        WHERE pattern IS NULL AND NOT {_IS_REDACTED} ORDER BY key, stamp
    ), last_row AS (
        SELECT key, max(run) AS run, arg_max({{'status': status, 'reason': reason}}, run) AS said
        FROM rows SEMI JOIN here USING (key) GROUP BY key
    ), back AS (
        SELECT key FROM listings SEMI JOIN here USING (key)
        GROUP BY key HAVING arg_max(state, run) IN ('gone', 'unjudged')
    ), last_stamp AS (
        SELECT key, r.run, said.status, said.reason, l.size, l.stamp FROM last_row r JOIN listings l USING (key, run)
    ), last_kept AS (
        SELECT key, arg_max({{'version': version, 'sha256': source_sha256}}, run) AS kept
        FROM rows SEMI JOIN here USING (key) WHERE tar IS NOT NULL GROUP BY key
    ), missing AS (
        SELECT key, arg_max({{'version': version, 'sha256': source_sha256, 'uri': source_uri, 'size': source_bytes,
            'unjudged': $all AND codec = 'fdc' AND carried IS NULL AND list_contains($again, run)}}, run) AS kept
        FROM rows ANTI JOIN found USING (key)
        WHERE tar IS NOT NULL AND NOT EXISTS (SELECT 1 FROM places WHERE starts_with(rows.key || '/', place))
        GROUP BY key
    ), once_gone AS (
        SELECT DISTINCT key FROM listings WHERE state IN ('gone', 'unjudged')
    ), known_gone AS (
        SELECT key FROM listings SEMI JOIN once_gone USING (key)
        GROUP BY key HAVING arg_max(state, run) IN ('gone', 'unjudged')
    )
    SELECT key, f.uri, f.size, f.stamp,
           CASE WHEN f.fault IS NOT NULL THEN 'unreadable'
                WHEN k.key IS NULL THEN 'new'
                WHEN h.size = f.size AND h.stamp = f.stamp AND b.key IS NULL THEN 'again' ELSE 'changed' END AS state,
           coalesce(k.kept.version, 0) + 1 AS version, k.kept.sha256 AS held_sha256, f.fault
    FROM here f LEFT JOIN last_stamp h USING (key) LEFT JOIN last_kept k USING (key) LEFT JOIN back b USING (key)
    WHERE f.fault IS NOT NULL OR h.key IS NULL OR b.key IS NOT NULL OR h.size <> f.size OR h.stamp <> f.stamp
          OR h.status = 'failed' OR (list_contains($again, h.run) AND ($all OR h.reason IN {TROUBLE}))
    UNION ALL
    SELECT key, kept.uri, NULL, NULL, 'gone', kept.version, kept.sha256, NULL
    FROM missing ANTI JOIN known_gone USING (key) WHERE NOT kept.unjudged
    UNION ALL
    SELECT key, kept.uri, kept.size, 'gone', 'unjudged', kept.version, kept.sha256, NULL
    FROM missing WHERE kept.unjudged
"""
# Sources of one size may be equal; if stamps are hashes of the content, only those with one stamp.
_ALIKE = """
    SELECT key, uri, size, stamp FROM pending
    WHERE state NOT IN ('gone', 'unjudged', 'unreadable') AND size <= $largest
    QUALIFY count(*) OVER (PARTITION BY size, if($by_stamp, stamp, '')) > 1
"""
_ALIKE_TO_THE_END = "SELECT * FROM alike QUALIFY count(*) OVER (PARTITION BY size, stamp_or_tail) > 1"
_TWINS = """
    CREATE TEMP TABLE duplicates AS
    SELECT key, sha256, nullif(min(key) OVER (PARTITION BY sha256), key) AS duplicate_of FROM hashed
"""
_GROUPS = r"""
    CREATE TABLE groups AS
    SELECT key, regexp_replace(key, '(\.[^./]+)+$', '') AS stem
    FROM (SELECT DISTINCT key FROM found_staged WHERE pattern IS NULL AND fault IS NULL)
    QUALIFY count(*) OVER (PARTITION BY stem) > 1 AND NOT regexp_matches(stem, '(^|/)$')
"""
_TOGETHER = """
    CREATE TABLE together AS
    SELECT min(key) AS key, count(*) AS members, sum(size)::BIGINT AS bytes
    FROM pending JOIN groups USING (key) WHERE state <> 'gone' GROUP BY stem
"""
_FROZEN = """
    SELECT $run AS run, key, uri, size, stamp, state, version, held_sha256, t.sha256, t.duplicate_of, NULL AS pattern,
           g.stem AS "group", fault, coalesce(members, 1) AS members, coalesce(bytes, size) AS bytes
    FROM pending LEFT JOIN duplicates t USING (key) LEFT JOIN groups g USING (key) LEFT JOIN together USING (key)
    WHERE (state = 'gone') = $gone ORDER BY coalesce(g.stem, key), key
"""
"""Sources of a group are consecutive; its first source has the `members` and `bytes` of the whole group."""
_EXCLUDED = f"""
    SELECT $run AS run, key, uri, size, stamp, 'excluded' AS state, 0 AS version, NULL AS held_sha256, NULL AS sha256,
           NULL AS duplicate_of, pattern, NULL AS "group", fault
    FROM found_staged WHERE pattern IS NOT NULL AND NOT {_IS_REDACTED} ORDER BY key
"""


@dataclass(frozen=True)
class Again:
    """Rows to encode again although their sources are unchanged: rows of `runs`, all or only those after trouble."""

    runs: tuple[int, ...] = ()
    every_row: bool = False


NOTHING = Again()
EVERYTHING = Filter(exclude=())


@dataclass(frozen=True)
class Frozen:
    """A listing in a local file: its row ranges by shard, the number of gone sources, and whether it is truncated."""

    path: Path
    sha256: str
    shards: list[tuple[int, int]]
    gone: int
    truncated: bool
    excluded: int = 0
    has_shrunk: bool = False
    """Whether more kept keys are gone than were found; such a run is opened even without shards."""


def freeze(
    source: Source,
    archive: Store,
    head: ArchiveHead,
    limits: Limits,
    scratch: Path,
    *,
    again: Again = NOTHING,
    chosen: Filter = EVERYTHING,
    allow_shrink: bool = True,
) -> Frozen:
    """Lists a source, subtracts what the archive holds, and writes the rest by group and key as the next listing.

    Failed rows do not count as held, nor do rows named by `again`. Sources that may be equal are read here, so that
    every shard knows duplicates. Gone sources come last, followed by sources that `chosen` excludes, which are neither
    gone nor failed. Sources below a folder that cannot be listed are neither gone nor new. Memory is bounded: listing
    and comparison use disk space in `scratch`.

    Raises StorageError, also if the disk is full. Raises ArchiveError if the source contains the archive, or, without
    `allow_shrink`, if the source lists nothing or less than half of the kept pictures, like an unmounted disk.
    """
    run = head.runs + 1
    not_in_tables = [log.plan(archive, head, number).images for number in range(head.tabled + 1, run)]
    try:
        found = pa.dataset.dataset(write_filtered(source, scratch / "found.parquet", chosen))
        with parquet.database(
            rows=report.stream(archive, head, HISTORY),
            listings=tables.listed(archive, head),
            found=found,
        ) as connection:
            keys = found.count_rows() + sum(table.rows for table in head.tables) + sum(not_in_tables)
            still_there = _compare(connection, 1 + keys // KEYS_PER_BUCKET, again)
            _refuse_itself(connection, archive)
            gone = _count(connection, "SELECT count(*) FROM pending WHERE state = 'gone'")
            if not allow_shrink:
                _refuse_shrinking(source, found.count_rows(), still_there, gone)
            _find_duplicates(source, connection, scratch)
            connection.execute(_GROUPS)
            connection.execute(_TOGETHER)
            frozen = _write(connection, run, limits, scratch / "listing.parquet")
            return replace(frozen, has_shrunk=still_there < gone)
    except (OSError, duckdb.Error) as error:
        why = str(error).partition("\n")[0]
        raise StorageError(f"{scratch}: cannot plan run {run}: {why}; free disk space there, or set TMPDIR") from error


def read(archive: Store, name: str, start: int, stop: int) -> list[Entry]:
    """Reads rows start..stop-1 of a listing, and only the row groups that contain them."""
    wanted: list[pa.Table] = []
    with archive.open(name) as file:
        listing = pa.parquet.ParquetFile(file, page_checksum_verification=True)
        first = 0
        for group in range(listing.num_row_groups):
            length = listing.metadata.row_group(group).num_rows
            low = max(start, first)
            high = min(stop, first + length)
            if low < high:
                wanted.append(listing.read_row_group(group).slice(low - first, high - low))
            first += length
    if not wanted:
        return []
    return list(pa.concat_tables(wanted).to_pylist())


def _compare(connection: duckdb.DuckDBPyConnection, buckets: int, again: Again) -> int:
    """Fills the table `pending` with new, changed and gone sources, one bucket of keys at a time.

    Returns the number of kept keys that were found.

    All input is read once, onto disk. Aggregates and joins hold one bucket in memory, however long the history is.
    """
    for name in ("rows", "listings", "found"):
        connection.execute(_STAGED.format(name=name, buckets=buckets))
    connection.execute(_NOTHING_PENDING)
    connection.execute(_PLACES)
    connection.execute(_REDACTED)
    still_there = 0
    for bucket in range(buckets):
        connection.execute(_PENDING, {"bucket": bucket, "again": list(again.runs), "all": again.every_row})
        still_there += _count(connection, _STILL_THERE, bucket=bucket)
    return still_there


def _refuse_itself(connection: duckdb.DuckDBPyConnection, archive: Store) -> None:
    """Raises ArchiveError if the source contains the archive, directly or through links."""
    if archive.folder is None:
        return
    for (uri,) in connection.execute(_NAMED_AS_ARCHIVES, {"name": layout.ARCHIVE}).fetchall():
        path = Path(name_of(uri).removeprefix("file://"))
        with suppress(OSError):  # what was listed may be gone by now
            if uri.startswith("file://") and path.samefile(archive.folder / layout.ARCHIVE):
                raise ArchiveError(
                    f"{archive}: the source contains the archive, as {path.parent}; choose a folder outside the source"
                )


def _refuse_shrinking(source: Source, found: int, still_there: int, gone: int) -> None:
    if not found:
        raise ArchiveError(f"{source}: is empty; if this is intended, set --allow-shrink")
    if still_there < gone:
        raise ArchiveError(
            f"{source}: contains {still_there} of {still_there + gone} kept pictures, less than half; "
            "if this is intended, set --allow-shrink"
        )


def _count(connection: duckdb.DuckDBPyConnection, sql: str, **parameters: int) -> int:
    (counted,) = connection.execute(sql, parameters).fetchall()[0]
    return int(counted)


def _find_duplicates(source: Source, connection: duckdb.DuckDBPyConnection, scratch: Path) -> None:
    """Fills the table `duplicates` with sources of equal content.

    If stamps do not depend on content, sources of equal size are compared by their last bytes first, so that few must
    be read completely.
    """
    alike = connection.sql(_ALIKE, params={"largest": LARGEST_SOURCE, "by_stamp": source.stamps_tell_content})
    stamp_or_tail = _stamp if source.stamps_tell_content else source.tail
    tails = _mapped(alike, stamp_or_tail, "stamp_or_tail", scratch / "alike.parquet")
    connection.register("alike", pa.dataset.dataset(tails))
    hashes = _mapped(connection.sql(_ALIKE_TO_THE_END), source.sha256, "sha256", scratch / "hashed.parquet")
    connection.register("hashed", pa.dataset.dataset(hashes))
    connection.execute(_TWINS)


def _stamp(entry: dict[str, Any]) -> str:
    return str(entry["stamp"])


def _mapped(
    entries: duckdb.DuckDBPyRelation, function: Callable[[dict[str, Any]], str], field: str, path: Path
) -> Path:
    """Writes entries with the function's result as a new field to a Parquet file; leaves unreadable ones out."""

    def with_field(entry: dict[str, Any]) -> dict[str, Any]:
        found = {name: entry.get(name) for name in FOUND.names}
        try:
            found[field] = function(entry)
        except ArchiveError:  # its shard records the error
            return {}
        return found

    schema = FOUND.append(pa.field(field, pa.string()))
    with pa.parquet.ParquetWriter(path, schema) as writer:
        for batch in entries.to_arrow_reader(BATCH):
            rows = [row for row in listing_files.in_parallel(with_field, batch.to_pylist()) if row]
            writer.write_batch(pa.RecordBatch.from_pylist(rows, writer.schema))
    return path


def _write(connection: duckdb.DuckDBPyConnection, run: int, limits: Limits, path: Path) -> Frozen:
    """Writes the listing, and divides its sources into shards up to the limit of a run."""
    shards = Shards(limits)
    truncated = False
    gone = 0
    excluded = 0
    with pa.parquet.ParquetWriter(path, LISTING, compression="zstd", write_page_checksum=True) as writer:
        for batch in connection.sql(_FROZEN, params={"run": run, "gone": False}).to_arrow_reader(BATCH):
            taken = _take(shards, batch)
            writer.write_table(_as_listing(batch.slice(0, taken)))
            if taken < batch.num_rows:
                truncated = True
                break
        for batch in connection.sql(_FROZEN, params={"run": run, "gone": True}).to_arrow_reader(BATCH):
            gone += batch.num_rows
            writer.write_table(_as_listing(batch))
        for batch in connection.sql(_EXCLUDED, params={"run": run}).to_arrow_reader(BATCH):
            excluded += batch.num_rows
            writer.write_table(_as_listing(batch))
    return Frozen(path, sha256_of(path), shards.ranges, gone, truncated, excluded)


def _take(shards: Shards, batch: pa.RecordBatch) -> int:
    """Assigns rows to shards until the run is full; returns the number of rows assigned."""
    columns = [batch.column(name).to_pylist() for name in ("size", "members", "bytes")]
    taken = 0
    for size, members, together in zip(*columns, strict=True):
        if not shards.take(size, members, together):
            break
        taken += 1
    return taken


def _as_listing(batch: pa.RecordBatch) -> pa.Table:
    return pa.Table.from_batches([batch]).select(LISTING.names).cast(LISTING)
