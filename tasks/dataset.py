"""Training datasets: photos packed into WebDataset tars that hold the original bytes, and a manifest of every source.

shards/000000-<hash16>.tar    named by content
parts/part-000000.parquet     the rows of a shard; its presence says that the shard is done
plan-<sha>.parquet, plan.json what is packed where, frozen at the first call
manifest.parquet              all rows; its presence says that the dataset is complete
"""

import fnmatch
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet

from codec.errors import ArchiveError, ImageError, SettingsError
from codec.images import read_image
from tasks import names
from tasks.progress import SILENT, Progress
from tasks.storage import NotFoundError, StorageError, Store, sha256_of
from tasks.tar import Tar

PLAN = "plan.json"
DECODERS = 2
READ_AHEAD = 64

PLANNED = pa.schema([("key", pa.string()), ("size", pa.int64()), ("shard", pa.int32())])

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
        pa.field("reason", pa.string(), True, {"description": "content: no picture; source_missing: gone meanwhile"}),
        pa.field("error", pa.string(), True, {"description": "one line on what failed"}),
        pa.field("duplicate_of", pa.string(), True, {"description": "first key whose source has the same bytes"}),
        pa.field("shard", pa.int32(), False, {"description": "number of the tar"}),
        pa.field("tar", pa.string(), True, {"description": "tar that holds the source, relative to the dataset"}),
        pa.field("member", pa.string(), True, {"description": "name in the tar"}),
        pa.field("offset", pa.int64(), True, {"description": "first byte in the tar", "unit": "byte"}),
        pa.field("length", pa.int64(), True, {"description": "bytes in the tar", "unit": "byte"}),
    ]
)

Row = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """How photos are packed."""

    max_images_per_shard: int = 1000
    max_shard_bytes: int = 500_000_000
    exclude: tuple[str, ...] = ()
    """Patterns of keys, or of their last parts, that are left out."""


@dataclass(frozen=True)
class Job:
    """A planned dataset, to be packed shard by shard."""

    source: str
    dataset: str
    plan: str
    shards: int
    images: int


ShardMap = Callable[[Job], Iterable[int]]
"""Calls pack_shard(job, shard) for every shard of the job."""


def pack(
    source: str,
    dataset: str,
    settings: Settings = Settings(),  # frozen
    *,
    shard_map: ShardMap | None = None,
    progress: Progress = SILENT,
) -> dict[str, int]:
    """Pack a folder or URL of photos; called again, it goes on where it stopped. Returns totals.

    Raises SettingsError when the dataset was begun from another source or with other settings.
    """
    store = Store(dataset)
    job = _plan(Store(source), store, settings)
    progress.begin(job.images)
    if not store.exists(names.DATASET_MANIFEST):
        store.remove_unfinished()
        for _ in (shard_map or (lambda job: (pack_shard(job, shard, progress) for shard in range(job.shards))))(job):
            pass
        _finish(store, job.shards)
    return totals(_read(store, names.DATASET_MANIFEST))


def pack_shard(job: Job, shard: int, progress: Progress = SILENT) -> int:
    """Pack one shard unless that is done; returns its number of photos.

    Raises StorageError when a source cannot be reached: nothing is committed then, and calling again is right.
    """
    store, source = Store(job.dataset), Store(job.source)
    planned = _read(store, job.plan).filter(pa.compute.field("shard") == shard).to_pylist()
    if store.exists(_part(shard)):
        progress.advance(len(planned))
        return len(planned)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        spool = Path(scratch) / "shard.tar"
        with Tar(spool) as tar, ThreadPoolExecutor(DECODERS) as decoders:
            for first in range(0, len(planned), READ_AHEAD):
                for row, data in decoders.map(lambda entry: _checked(source, entry), planned[first:][:READ_AHEAD]):
                    if row["status"] == "packed":
                        row["member"] = names.member(len(rows), row["key"], names.extension_of(row["key"]))
                        row |= {"offset": tar.add(row["member"], data), "length": len(data)}
                    rows.append(row)
                    progress.advance(1)
        _commit(store, shard, rows, spool)
    return len(rows)


def totals(manifest: pa.Table) -> dict[str, int]:
    """Counts of a finished manifest, and the bytes packed."""
    statuses = manifest.column("status").to_pylist()
    return {
        "photos": statuses.count("packed"),
        "failed": statuses.count("failed"),
        "duplicates": manifest.num_rows - manifest.column("duplicate_of").null_count,
        "tars": len({tar for tar in manifest.column("tar").to_pylist() if tar}),
        "bytes": sum(length or 0 for length in manifest.column("length").to_pylist()),
    }


def failures(dataset: str) -> list[tuple[str, str]]:
    """(key, error) of every failed row."""
    rows = _read(Store(dataset), names.DATASET_MANIFEST).to_pylist()
    return [(row["key"], row["error"]) for row in rows if row["status"] == "failed"]


def local_tars(place: str, cache: Path) -> str:
    """The folder or tar itself where it is local; tars at a URL are copied below the cache, those there already kept.

    Raises SettingsError for a dataset that is not complete, or a place without tars; StorageError.
    """
    folder, _, tar = place.rpartition("/") if place.endswith(".tar") else (place, "", "")
    store = Store(folder or ".")
    if not tar and store.exists(PLAN) and not store.exists(names.DATASET_MANIFEST):
        raise SettingsError(f"{store}: this dataset is not complete; run shard-images again, which goes on with it")
    found = [store.item(tar)] if tar else [item for item in store.list() if item.name.endswith(".tar")]
    if not found:
        raise SettingsError(f"{store}: no tars here; make some with shard-images")
    if store.folder is not None:
        return str(store.folder / tar)
    kept = cache / hashlib.sha256(store.url.encode()).hexdigest()[:16]
    for item in found:
        copy = kept / item.name
        if not copy.exists() or copy.stat().st_size != item.size:
            copy.parent.mkdir(parents=True, exist_ok=True)
            spool = copy.with_name(f".{copy.name}{names.UNFINISHED}")
            with store.open(item.name) as stream, spool.open("wb") as written:
                shutil.copyfileobj(stream, written)
            spool.replace(copy)
    return str(kept / tar)


def _checked(source: Store, entry: Row) -> tuple[Row, bytes]:
    """The row of one source, and its bytes; it is decoded whole, which is what finds a truncated file."""
    name = names.name_of(entry["key"])
    row: Row = {
        "key": entry["key"],
        "source_uri": source.uri(name),
        "bytes": entry["size"],
        "shard": entry["shard"],
    }
    try:
        data = source.read(name)
    except NotFoundError as error:
        return row | {"status": "failed", "reason": "source_missing", "error": str(error)}, b""
    row |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    try:
        picture = read_image(data)
    except ImageError as error:
        return row | {"status": "failed", "reason": "content", "error": str(error)}, b""
    about = {"format": picture.source_format, "width": picture.width, "height": picture.height}
    return row | about | {"status": "packed"}, data


def _plan(source: Store, store: Store, settings: Settings) -> Job:
    """The plan of this dataset: the one there is, or a new one, published before anything is packed."""
    wanted = {"source": str(source), "settings": json.loads(json.dumps(asdict(settings)))}
    if not store.exists(PLAN):
        plan, shards = _planned(source, settings)
        content = _parquet(plan)
        name = f"plan-{sha256_of(content)[:16]}.parquet"
        store.publish(name, content)
        text = json.dumps(wanted | {"plan": name, "shards": shards, "images": plan.num_rows}, indent=1)
        store.publish(PLAN, text.encode())  # whoever is first plans for all
    found = json.loads(store.read(PLAN))
    differing = [key for key in wanted if found[key] != wanted[key]]
    if differing:
        raise SettingsError(
            f"{store}: this dataset was begun with another {differing[0]}: {found[differing[0]]}; "
            "go on with that, or choose a new folder"
        )
    return Job(str(source), str(store), found["plan"], found["shards"], found["images"])


def _planned(source: Store, settings: Settings) -> tuple[pa.Table, int]:
    entries = sorted((names.key_of(item.name), item.size) for item in source.list())
    kept = [(key, size) for key, size in entries if not _excluded(key, settings.exclude)]
    if not kept:
        raise ArchiveError(f"{source}: no files to pack here; check the folder and the patterns to exclude")
    rows, shard, images, total = [], 0, 0, 0
    for key, size in kept:
        if images and (images == settings.max_images_per_shard or total + size > settings.max_shard_bytes):
            shard, images, total = shard + 1, 0, 0
        rows.append({"key": key, "size": size, "shard": shard})
        images, total = images + 1, total + size
    return pa.Table.from_pylist(rows, PLANNED), shard + 1


def _excluded(key: str, patterns: Iterable[str]) -> bool:
    last = key.rpartition("/")[2]
    return any(fnmatch.fnmatchcase(key, pattern) or fnmatch.fnmatchcase(last, pattern) for pattern in patterns)


def _commit(store: Store, shard: int, rows: list[Row], spool: Path) -> None:
    if any(row["status"] == "packed" for row in rows):
        tar = names.dataset_tar(shard, sha256_of(spool))
        if not store.publish(tar, spool):
            raise StorageError(f"{store.uri(tar)}: other bytes than its own are stored here; remove it and run again")
        rows = [row | ({"tar": tar} if row["status"] == "packed" else {}) for row in rows]
    store.publish(_part(shard), _parquet(pa.Table.from_pylist(rows, MANIFEST)))


def _finish(store: Store, shards: int) -> None:
    """Join the parts, name duplicates across them, and publish the manifest."""
    rows = [row for shard in range(shards) for row in _read(store, _part(shard)).to_pylist()]
    first: dict[str, str] = {}
    for row in rows:
        if row["sha256"] and first.setdefault(row["sha256"], row["key"]) != row["key"]:
            row["duplicate_of"] = first[row["sha256"]]
    store.publish(names.DATASET_MANIFEST, _parquet(pa.Table.from_pylist(rows, MANIFEST)))


def _part(shard: int) -> str:
    return f"parts/part-{shard:06d}.parquet"


def _read(store: Store, name: str) -> pa.Table:
    return pa.parquet.read_table(pa.BufferReader(store.read(name)))


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pa.parquet.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())
