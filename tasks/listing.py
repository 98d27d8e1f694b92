"""What there is at a source, less what sealed runs hold, frozen as the Parquet file that a run works through."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet

from codec.errors import ArchiveError
from tasks import manifest, names, report
from tasks.schema import NOT_HELD
from tasks.storage import Store, sha256_of

BATCH = 10_000
LARGEST_SOURCE = 10**9
SHARDS_PER_RUN = 2000

FOUND = pa.schema([("key", pa.string()), ("size", pa.int64()), ("stamp", pa.string())])

LISTING = pa.schema(
    [
        pa.field("run", pa.int32(), False, {"description": "run that this listing belongs to"}),
        pa.field("key", pa.string(), False, {"description": "path relative to the source"}),
        pa.field("uri", pa.string(), False, {"description": "where the source is read"}),
        pa.field("size", pa.int64(), True, {"description": "size of the source; null when it is gone", "unit": "byte"}),
        pa.field("stamp", pa.string(), True, {"description": "ETag, or modification time in nanoseconds"}),
        pa.field(
            "state",
            pa.string(),
            False,
            {"description": "new; changed: kept before with another stamp; gone: no more there"},
        ),
        pa.field(
            "version", pa.int32(), False, {"description": "version of the key if the content is new; if gone, the last"}
        ),
        pa.field("held_sha256", pa.string(), True, {"description": "content of the version kept last"}),
        pa.field("sha256", pa.string(), True, {"description": "content, where another source here has the same size"}),
        pa.field(
            "duplicate_of", pa.string(), True, {"description": "first key here with that content, unless it is this"}
        ),
    ]
)

_PENDING = f"""
    CREATE TEMP TABLE pending AS
    WITH last_row AS (
        SELECT r.key, r.status, r.reason, l.size, l.stamp FROM rows r JOIN listings l USING (key, run)
        QUALIFY row_number() OVER (PARTITION BY r.key ORDER BY r.run DESC) = 1
    ), last_kept AS (
        SELECT key, version, source_sha256 FROM rows WHERE tar IS NOT NULL
        QUALIFY row_number() OVER (PARTITION BY key ORDER BY run DESC) = 1
    ), forgotten AS (
        SELECT key FROM rows WHERE status = 'forgotten'
    ), last_listed AS (
        SELECT key, state FROM listings QUALIFY row_number() OVER (PARTITION BY key ORDER BY run DESC) = 1
    )
    SELECT f.key, f.size, f.stamp, if(k.key IS NULL, 'new', 'changed') AS state,
           coalesce(k.version, 0) + 1 AS version, k.source_sha256 AS held_sha256
    FROM found f ANTI JOIN forgotten USING (key)
    LEFT JOIN last_row h USING (key) LEFT JOIN last_kept k USING (key)
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
    shards: int


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
    listings = [manifest.read(archive, number).listing for number in history]
    found = _write_found(source, scratch / "found.parquet")
    with report.database(
        rows=report.rows(archive, history),
        listings=report.dataset(archive, listings, LISTING),
        found=pa.dataset.dataset(found),
    ) as connection:
        connection.execute(_PENDING)
        connection.register("twins", _twins(source, connection))
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


def _twins(source: Store, connection: duckdb.DuckDBPyConnection) -> pa.Table:
    first: dict[str, str] = {}
    twins: list[dict[str, str | None]] = []
    for (key,) in connection.execute(_SAME_SIZE, [LARGEST_SOURCE]).fetchall():
        try:
            content = source.sha256(names.name_of(key))
        except ArchiveError:  # the shard that takes it will say what is wrong with it
            continue
        duplicate_of = first.setdefault(content, key)
        twins.append({"key": key, "sha256": content, "duplicate_of": duplicate_of if duplicate_of != key else None})
    kinds = pa.schema([("key", pa.string()), ("sha256", pa.string()), ("duplicate_of", pa.string())])
    return pa.Table.from_pylist(twins, kinds)


def _write(source: Store, connection: duckdb.DuckDBPyConnection, run: int, limits: Limits, path: Path) -> Frozen:
    shards = _Shards(limits)
    truncated = False
    gone = 0
    with pa.parquet.ParquetWriter(path, LISTING) as writer:
        for batch in connection.sql(_FROZEN, params=[False]).to_arrow_reader(BATCH):
            rows = _completed(batch.to_pylist(), source, run)
            taken = list(itertools.takewhile(lambda row: shards.take(row["size"]), rows))
            writer.write_batch(pa.RecordBatch.from_pylist(taken, LISTING))
            if len(taken) < len(rows):
                truncated = True
                break
        for batch in connection.sql(_FROZEN, params=[True]).to_arrow_reader(BATCH):
            gone += batch.num_rows
            writer.write_batch(pa.RecordBatch.from_pylist(_completed(batch.to_pylist(), source, run), LISTING))
    return Frozen(path, sha256_of(path), shards.ranges, gone, truncated)


def _completed(rows: list[dict[str, Any]], source: Store, run: int) -> list[dict[str, Any]]:
    return [{**row, "run": run, "uri": source.uri(names.name_of(row["key"]))} for row in rows]


class _Shards:
    """Row ranges filled in order."""

    def __init__(self, limits: Limits) -> None:
        self.ranges: list[tuple[int, int]] = []
        self._limits = limits
        self._bytes = 0

    def take(self, size: int) -> bool:
        """Put the next source into the last shard, or a new one; False when the run is full."""
        start, stop = self.ranges[-1] if self.ranges else (0, 0)
        full = stop - start == self._limits.images_per_shard or self._bytes + size > self._limits.bytes_per_shard
        if not self.ranges or (full and stop > start):
            if len(self.ranges) == self._limits.shards:
                return False
            self.ranges.append((stop, stop + 1))
            self._bytes = size
        else:
            self.ranges[-1] = (start, stop + 1)
            self._bytes += size
        return True
