"""What there is at a source, less what sealed runs hold, frozen as the Parquet file that a run works through."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet

from codec.errors import ArchiveError
from tasks import names, report
from tasks.schema import NOT_HELD
from tasks.storage import Store, StorageError, sha256_of

BATCH = 10_000

FOUND = pa.schema([("key", pa.string()), ("size", pa.int64()), ("stamp", pa.string())])

LISTING = pa.schema(
    [
        pa.field("run", pa.int32(), False, {"description": "run that this listing belongs to"}),
        pa.field("key", pa.string(), False, {"description": "path relative to the source"}),
        pa.field("uri", pa.string(), False, {"description": "where the source is read"}),
        pa.field("size", pa.int64(), True, {"description": "size of the source; null when it is gone", "unit": "byte"}),
        pa.field("stamp", pa.string(), True, {"description": "ETag, or modification time in nanoseconds"}),
        pa.field(
            "state", pa.string(), False, {"description": "new; changed: kept before with another stamp; gone: no more there"}
        ),
        pa.field("version", pa.int32(), False, {"description": "version of the key if the content is new; if gone, the last"}),
        pa.field("held_sha256", pa.string(), True, {"description": "content of the version kept last"}),
        pa.field("sha256", pa.string(), True, {"description": "content, where another source here has the same size"}),
        pa.field("duplicate_of", pa.string(), True, {"description": "first key here with that content, unless it is this"}),
    ]
)

_PENDING = f"""
    CREATE TEMP TABLE pending AS
    WITH last_row AS (
        SELECT r.key, r.status, r.reason, l.size, l.stamp FROM rows r JOIN listings l USING (key, run)
        QUALIFY row_number() OVER (PARTITION BY r.key ORDER BY r.run DESC) = 1
    ), last_kept AS (
        SELECT key, version, source_sha256 FROM rows WHERE status <> 'failed'
        QUALIFY row_number() OVER (PARTITION BY key ORDER BY run DESC) = 1
    ), last_listed AS (
        SELECT key, state FROM listings QUALIFY row_number() OVER (PARTITION BY key ORDER BY run DESC) = 1
    )
    SELECT f.key, f.size, f.stamp, if(k.key IS NULL, 'new', 'changed') AS state,
           coalesce(k.version, 0) + 1 AS version, k.source_sha256 AS held_sha256
    FROM found f LEFT JOIN last_row h USING (key) LEFT JOIN last_kept k USING (key)
    WHERE h.key IS NULL OR h.size <> f.size OR h.stamp <> f.stamp
          OR (h.status = 'failed' AND h.reason IN {NOT_HELD})
    UNION ALL
    SELECT k.key, NULL, NULL, 'gone', k.version, k.source_sha256
    FROM last_kept k ANTI JOIN found USING (key) JOIN last_listed USING (key)
    WHERE last_listed.state <> 'gone'
"""
_SAME_SIZE = """
    SELECT key FROM pending WHERE state <> 'gone' AND size <= ?
    QUALIFY count(*) OVER (PARTITION BY size) > 1 ORDER BY key
"""
_FROZEN = """
    SELECT key, size, stamp, state, version, held_sha256, t.sha256, t.duplicate_of
    FROM pending LEFT JOIN twins t USING (key) WHERE (state = 'gone') = ? ORDER BY key
"""


@dataclass(frozen=True)
class Limits:
    """How many sources a shard and a run may hold."""

    images_per_shard: int
    bytes_per_shard: int
    shards: int = 2000


@dataclass(frozen=True)
class Frozen:
    """A listing written to a local file: row ranges of its shards, how many sources are gone, and whether some wait."""

    path: Path
    sha256: str
    shards: list[tuple[int, int]]
    gone: int
    truncated: bool


def freeze(source: Store, archive: Store, run: int, limits: Limits, scratch: Path) -> Frozen:
    """List a source, take away what the sealed runs hold, and write the rest as the listing of a run, sorted by key.

    Sources of equal size are read once here, so that equal content is known to every shard. Gone sources come last.
    """
    history = [number for number in report.runs(archive) if number < run]
    listings = [name for number in history for name in _listings(archive, number)]
    found = _write_found(source, scratch / "found.parquet")
    with report.database(
        rows=report.rows(archive, history),
        listings=report.dataset(archive, listings, LISTING),
        found=pa.dataset.dataset(found),
    ) as connection:
        connection.execute(_PENDING)
        connection.register("twins", _twins(source, connection, limits.bytes_per_shard))
        return _write(source, connection, run, limits, scratch / "listing.parquet")


def read(archive: Store, name: str, start: int, stop: int) -> list[dict[str, Any]]:
    """The rows start..stop-1 of a listing; only the row groups that hold them are read."""
    wanted: list[pa.Table] = []
    with archive.open(name) as file:
        listing = pa.parquet.ParquetFile(file)
        first = 0
        for group in range(listing.num_row_groups):
            length = listing.metadata.row_group(group).num_rows
            low, high = max(start, first), min(stop, first + length)
            if low < high:
                wanted.append(listing.read_row_group(group).slice(low - first, high - low))
            first += length
    return list(pa.concat_tables(wanted).to_pylist()) if wanted else []


def _listings(archive: Store, run: int) -> list[str]:
    import json

    return [json.loads(archive.read(names.manifest(run)))["listing"]]


def _write_found(source: Store, path: Path) -> Path:
    with pa.parquet.ParquetWriter(path, FOUND) as writer:
        batch: list[dict[str, Any]] = []
        for item in source.list():
            batch.append({"key": names.key_of(item.name), "size": item.size, "stamp": item.stamp})
            if len(batch) == BATCH:
                writer.write_batch(pa.RecordBatch.from_pylist(batch, FOUND))
                batch.clear()
        writer.write_batch(pa.RecordBatch.from_pylist(batch, FOUND))
    return path
