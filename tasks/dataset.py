"""Training datasets: WebDataset tars of photos in their original bytes, and a manifest of all sources.

shards/000000-<hash16>.tar    named by content
parts/part-000000.parquet     the rows of a shard; it exists once the shard is done
plan-<sha>.parquet, plan.json the assignment of sources to shards, frozen at the first call
manifest.parquet              all rows; it exists once the dataset is complete
"""

import fnmatch
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.dataset
import pyarrow.parquet

from codec.containers.reading import check_source
from codec.errors import ArchiveError, ImageError, SettingsError
from tasks.archive import layout
from tasks.archive.tar import TrainingTar
from tasks.progress import SILENT, Progress
from tasks.sources import sharding
from tasks.sources.reading import LostError, SourceReader
from tasks.sources.source import BATCH, FOUND, Source, open_source, write_found
from tasks.storage import parquet
from tasks.storage.keys import UNFINISHED, extension_of, member
from tasks.storage.store import StorageError, Store, sha256_of

DECODERS = 2
READ_AHEAD = 64

PLANNED = FOUND.append(pa.field("shard", pa.int32()))

MANIFEST = pa.schema(
    [
        pa.field("key", pa.string(), False, {"description": "path relative to the source"}),
        pa.field("source_uri", pa.string(), False, {"description": "where the source was read"}),
        pa.field("sha256", pa.string(), True, {"description": "hash of the source, null when it was not read whole"}),
        pa.field("bytes", pa.int64(), False, {"description": "size of the source", "unit": "byte"}),
        pa.field("format", pa.string(), True, {"description": "format found in the bytes"}),
        pa.field("width", pa.int32(), True, {"description": "width when upright", "unit": "pixel"}),
        pa.field("height", pa.int32(), True, {"description": "height when upright", "unit": "pixel"}),
        pa.field("status", pa.string(), False, {"description": "packed, or failed"}),
        pa.field(
            "reason",
            pa.string(),
            True,
            {"description": "content: no picture; else why its bytes could not be had, as an archive's report says it"},
        ),
        pa.field("error", pa.string(), True, {"description": "one line on what failed"}),
        pa.field("duplicate_of", pa.string(), True, {"description": "first key whose source has the same bytes"}),
        pa.field("shard", pa.int32(), False, {"description": "number of the tar"}),
        pa.field("tar", pa.string(), True, {"description": "tar that holds the source, relative to the dataset"}),
        pa.field("member", pa.string(), True, {"description": "name in the tar"}),
        pa.field("offset", pa.int64(), True, {"description": "first byte in the tar", "unit": "byte"}),
        pa.field("length", pa.int64(), True, {"description": "bytes in the tar", "unit": "byte"}),
    ]
)

DatasetRow = dict[str, Any]


@dataclass(frozen=True)
class ShardingSettings:
    """Settings of packing."""

    max_images_per_shard: int = 1000
    max_shard_bytes: int = 500_000_000
    exclude: tuple[str, ...] = ()
    """Patterns of keys, or of their last parts, to exclude."""


@dataclass(frozen=True)
class ShardingJob:
    """A planned dataset, which is packed shard by shard."""

    source: str
    dataset: str
    plan: str
    shards: int
    images: int


ShardMap = Callable[[ShardingJob], Iterable[int]]
"""Calls pack_shard(job, shard) for every shard of the job."""


def pack(
    source: str,
    dataset: str,
    settings: ShardingSettings = ShardingSettings(),  # frozen
    *,
    shard_map: ShardMap | None = None,
    progress: Progress = SILENT,
) -> dict[str, int]:
    """Packs a folder or URL of photos and returns totals; resumes an interrupted call.

    Raises SettingsError if the dataset was started from another source or with other settings.
    """
    store = Store(dataset)
    job = _plan(open_source(source), store, settings)
    progress.begin(job.images)
    if store.exists(layout.DATASET_MANIFEST):
        return totals(dataset)
    store.remove_unfinished()
    if shard_map is None:
        for shard in range(job.shards):
            pack_shard(job, shard, progress)
    else:
        for _ in shard_map(job):  # packs as it is iterated
            pass
    _finish(store, job.shards)
    return totals(dataset)


def pack_shard(job: ShardingJob, shard: int, progress: Progress = SILENT) -> int:
    """Packs one shard unless it is done. Returns its number of photos.

    Raises StorageError if the whole source is unavailable: nothing is committed, and the call can be repeated.
    """
    store = Store(job.dataset)
    reader = SourceReader(open_source(job.source))
    with store.open(job.plan) as file:
        planned = pa.parquet.read_table(file, filters=pa.compute.field("shard") == shard).to_pylist()
    if store.exists(_part(shard)):
        progress.advance(len(planned))
        return len(planned)
    rows: list[DatasetRow] = []
    with tempfile.TemporaryDirectory() as scratch:
        spool = Path(scratch) / "shard.tar"
        with TrainingTar(spool) as tar, ThreadPoolExecutor(DECODERS) as decoders:
            # In portions, since map reads every source that it is given at once, and all would be in memory.
            for first in range(0, len(planned), READ_AHEAD):
                portion = planned[first : first + READ_AHEAD]
                for row, data in decoders.map(partial(_checked, reader), portion):
                    if row["status"] == "packed":
                        row["member"] = member(len(rows), row["key"], extension_of(row["key"]))
                        row["offset"] = tar.add(row["member"], data)
                        row["length"] = len(data)
                    rows.append(row)
                    progress.advance(1)
        _commit(store, shard, rows, spool)
    return len(rows)


def totals(dataset: str) -> dict[str, int]:
    """Returns the counts of a finished dataset and its packed bytes."""
    sql = """
        SELECT count(*) FILTER (status = 'packed') AS photos, count(*) FILTER (status = 'failed') AS failed,
               count(duplicate_of) AS duplicates, count(DISTINCT tar) AS tars, coalesce(sum(length), 0)::BIGINT AS bytes
        FROM manifest
    """
    return dict(_query(Store(dataset), sql)[0])


def failures(dataset: str) -> list[DatasetRow]:
    """Returns key, reason, error and source of every failed row."""
    sql = "SELECT key, reason, error, source_uri AS source FROM manifest WHERE status = 'failed' ORDER BY key"
    return _query(Store(dataset), sql)


def local_tars(location: str, cache: Path) -> str:
    """Returns a local folder or tar itself; copies tars at a URL into the cache unless they are there.

    Raises SettingsError for an incomplete dataset or a location without tars; StorageError.
    """
    if location.endswith(".tar"):
        folder, _, tar = location.rpartition("/")
    else:
        folder = location
        tar = ""
    store = Store(folder or ".")  # a bare name is a tar of the current folder
    if tar:
        found = [store.item(tar)]
    else:
        # Tars that others made have no plan, and need no manifest.
        if store.exists(layout.DATASET_PLAN) and not store.exists(layout.DATASET_MANIFEST):
            raise SettingsError(f"{store}: this dataset is incomplete; run shard-images again to finish it")
        found = [item for item in store.list() if item.name.endswith(".tar")]
    if not found:
        raise SettingsError(f"{store}: no tars here; create some with shard-images")
    if store.folder is not None:
        return str(store.folder / tar)
    copies = cache / hashlib.sha256(store.url.encode()).hexdigest()[:16]  # datasets have tars of equal names
    for item in found:
        copy = copies / item.name
        if copy.exists() and copy.stat().st_size == item.size:
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        # Renamed when it is complete: a training that is killed here must not leave half a tar under its name.
        spool = copy.with_name(f".{copy.name}{UNFINISHED}")
        with store.open(item.name) as stream, spool.open("wb") as written:
            shutil.copyfileobj(stream, written)
        spool.replace(copy)
    return str(copies / tar)


def _checked(reader: SourceReader, entry: DatasetRow) -> tuple[DatasetRow, bytes]:
    """Returns the row of a source and its bytes. Decodes the whole picture, to detect truncated files."""
    row: DatasetRow = {
        "key": entry["key"],
        "source_uri": entry["uri"],
        "bytes": entry["size"],
        "shard": entry["shard"],
    }
    try:
        data = reader.fetch(entry)
    except LostError as lost:
        return row | {"status": "failed", "reason": lost.reason, "error": str(lost.__cause__ or lost)}, b""
    row |= {"sha256": hashlib.sha256(data).hexdigest()}
    try:
        found, width, height = check_source(data)
    except ImageError as error:
        return row | {"status": "failed", "reason": "content", "error": str(error)}, b""
    return row | {"format": found, "width": width, "height": height, "status": "packed"}, data


def _plan(source: Source, store: Store, settings: ShardingSettings) -> ShardingJob:
    """Returns the existing plan of this dataset, or publishes a new one before anything is packed."""
    as_in_json = json.loads(json.dumps(asdict(settings)))  # with lists for tuples, to compare with the stored plan
    wanted = {"source": source.url, "settings": as_in_json}
    if not store.exists(layout.DATASET_PLAN):
        with tempfile.TemporaryDirectory() as scratch:
            plan, ranges = _planned(source, settings, Path(scratch))
            name = f"plan-{sha256_of(plan)[:16]}.parquet"
            store.publish(name, plan)
        document = wanted | {"plan": name, "shards": len(ranges), "images": ranges[-1][1]}
        text = json.dumps(document, indent=1)
        store.publish(layout.DATASET_PLAN, text.encode())  # the plan of the first process applies to all
    found = json.loads(store.read(layout.DATASET_PLAN))
    differing = [key for key in wanted if found[key] != wanted[key]]
    if differing:
        raise SettingsError(
            f"{store}: this dataset was started with another {differing[0]}: {found[differing[0]]}; "
            "use the same, or choose a new folder"
        )
    return ShardingJob(source.url, store.url, found["plan"], found["shards"], found["images"])


def _planned(source: Source, settings: ShardingSettings, scratch: Path) -> tuple[Path, list[tuple[int, int]]]:
    """Writes the plan to a local file, sorted by key. Returns it and the rows of each shard."""
    shards = sharding.Shards(sharding.Limits(settings.max_images_per_shard, settings.max_shard_bytes))
    found = write_found(source, scratch / "found.parquet")
    plan = scratch / "plan.parquet"
    # Sorted on disk: the keys of a large source do not fit into memory. A listing may name a key twice.
    sql = "SELECT DISTINCT ON (key) key, uri, size, stamp, fault FROM found ORDER BY key, stamp"
    with (
        parquet.database(found=pa.dataset.dataset(found)) as connection,
        pa.parquet.ParquetWriter(plan, PLANNED, compression="zstd") as writer,
    ):
        for batch in connection.sql(sql).to_arrow_reader(BATCH):
            rows = [row for row in batch.to_pylist() if not _excluded(row["key"], settings.exclude)]
            for row in rows:
                shards.take(row["size"])
                row["shard"] = len(shards.ranges) - 1
            writer.write_table(pa.Table.from_pylist(rows, PLANNED))
    if not shards.ranges:
        raise ArchiveError(f"{source}: no files to pack; check the folder and the patterns to exclude")
    return plan, shards.ranges


def _excluded(key: str, patterns: Iterable[str]) -> bool:
    last = key.rpartition("/")[2]
    return any(fnmatch.fnmatchcase(key, pattern) or fnmatch.fnmatchcase(last, pattern) for pattern in patterns)


def _commit(store: Store, shard: int, rows: list[DatasetRow], spool: Path) -> None:
    """Publishes the tar, then the part, whose presence tells that the shard is done."""
    packed = [row for row in rows if row["status"] == "packed"]
    if packed:
        tar = layout.dataset_tar(shard, sha256_of(spool))
        if not store.publish(tar, spool):
            raise StorageError(
                f"{store.uri(tar)}: the stored bytes differ from the packed ones; delete the file and run again"
            )
        for row in packed:
            row["tar"] = tar
    part = pa.BufferOutputStream()
    pa.parquet.write_table(pa.Table.from_pylist(rows, MANIFEST), part, compression="zstd")
    store.publish(_part(shard), part.getvalue().to_pybytes())


def _finish(store: Store, shards: int) -> None:
    """Joins the parts, marks duplicates across them, and publishes the manifest."""
    sql = """
        WITH firsts AS (
            SELECT sha256, min(key) AS first FROM parts WHERE sha256 IS NOT NULL GROUP BY sha256 HAVING count(*) > 1
        )
        SELECT parts.* REPLACE (nullif(first, key) AS duplicate_of)
        FROM parts LEFT JOIN firsts USING (sha256) ORDER BY key
    """
    parts = parquet.dataset(store, [_part(shard) for shard in range(shards)], MANIFEST)
    with tempfile.TemporaryDirectory() as scratch:
        joined = Path(scratch) / layout.DATASET_MANIFEST
        with (
            parquet.database(parts=parts) as connection,
            pa.parquet.ParquetWriter(joined, MANIFEST, compression="zstd") as writer,
        ):
            for batch in connection.sql(sql).to_arrow_reader(BATCH):
                writer.write_table(pa.Table.from_batches([batch]).cast(MANIFEST))
        store.publish(layout.DATASET_MANIFEST, joined)


def _part(shard: int) -> str:
    return f"parts/part-{shard:06d}.parquet"


def _query(store: Store, sql: str) -> list[DatasetRow]:
    """Answers an SQL query over the dataset's `manifest`."""
    with parquet.database(manifest=parquet.dataset(store, [layout.DATASET_MANIFEST], MANIFEST)) as connection:
        return list(connection.sql(sql).to_arrow_table().to_pylist())
