"""Listing files: Parquet or CSV with a column of locations, and the inventories that S3 writes of its buckets.

Of the columns, in any case and with or without underscores, one of `uri`, `url`, `path` and `key` is the location;
`bucket`, `size` and `etag` complete it; rows that are no latest version, or mark a deletion, are left out. A CSV file
has a header; the data files of an S3 Inventory have none, so it is given by its manifest.json.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO
from urllib.parse import unquote_plus

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from codec.errors import ArchiveError, SettingsError
from tasks.storage.store import Store

EXTENSIONS = (".parquet", ".csv", ".csv.gz", "manifest.json")
LOCATIONS = ("uri", "url", "path", "key")
BATCH = 10_000
CONNECTIONS = 16


@dataclass(frozen=True)
class Row:
    """One listed file; size in bytes and ETag are None where the listing does not say."""

    location: str
    size: int | None
    etag: str | None


def read(store: Store, name: str) -> Iterator[list[Row]]:
    """The rows of a listing file, a batch at a time; raises SettingsError for a file without locations."""
    for batch in _batches(store, name):
        columns = _columns(batch.schema.names)
        location = next((column for column in LOCATIONS if column in columns), None)
        if location is None:
            raise SettingsError(
                f"{store.uri(name)}: lists no files; give it a column {', '.join(LOCATIONS[:-1])} or {LOCATIONS[-1]}"
            )
        wanted = [column for column in (location, "bucket", "size", "etag", *_CURRENT) if column in columns]
        rows = batch.select([columns[column] for column in wanted]).rename_columns(wanted).to_pylist()
        yield [_row(row, location) for row in rows if _is_current(row) and not str(row[location]).endswith("/")]


def has_etags(store: Store, name: str) -> bool:
    """Whether a listing says the ETag and the size of its files, so that none of them needs to be asked for."""
    if not store.exists(name):
        return False
    first = next(_batches(store, name), None)
    return first is not None and {"size", "etag"} <= _columns(first.schema.names).keys()


def in_parallel(
    function: Callable[[dict[str, Any]], dict[str, Any]], items: Iterable[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """The function of each item, in order, on as many threads as a store is asked by at once."""
    with ThreadPoolExecutor(CONNECTIONS) as threads:
        yield from threads.map(function, items)


_CURRENT = ("islatest", "isdeletemarker")
_ETAG = ("etag", "ETag", "e_tag", "E_TAG", "ETAG")


def _columns(names: Iterable[str]) -> dict[str, str]:
    return {name.strip().lower().replace("_", ""): name for name in names}


def _is_current(row: dict[str, Any]) -> bool:
    latest, deleted = (str(row.get(name, "")).lower() for name in _CURRENT)
    return latest != "false" and deleted != "true"


def _row(row: dict[str, Any], location: str) -> Row:
    where = f"s3://{row['bucket']}/{row[location]}" if row.get("bucket") else str(row[location])
    size, etag = row.get("size"), row.get("etag")
    return Row(where, None if size in (None, "") else int(size), str(etag).strip('"') if etag else None)


def _batches(store: Store, name: str) -> Iterator[pa.RecordBatch]:
    if name.endswith("manifest.json"):
        yield from _inventory(store, name)
        return
    with store.open(name) as file:
        if name.endswith(".parquet"):
            yield from pa.parquet.ParquetFile(file).iter_batches(BATCH)
        else:
            yield from _csv(file, name)


def _csv(file: BinaryIO, name: str, header: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    stream = pa.PythonFile(file)
    if name.endswith(".gz"):
        stream = pa.CompressedInputStream(stream, "gzip")
    known = header or [*LOCATIONS, *map(str.upper, LOCATIONS), *map(str.title, LOCATIONS), *_ETAG]
    strings = pa.csv.ConvertOptions(column_types=dict.fromkeys(known, pa.string()))  # a number would lose its zeros
    reading = pa.csv.ReadOptions(column_names=header, block_size=1 << 20)
    try:
        yield from pa.csv.open_csv(stream, reading, convert_options=strings)
    except pa.ArrowInvalid as error:
        raise ArchiveError(f"{name}: no CSV table: {str(error).partition(chr(10))[0]}") from error


def _inventory(store: Store, name: str) -> Iterator[pa.RecordBatch]:
    """The data files that the manifest.json of an S3 Inventory names, in the bucket it names."""
    where = store.uri(name)
    try:
        document = json.loads(store.read(name))
        bucket = Store(f"s3://{document['destinationBucket'].rpartition(':')[2]}")
        kind, columns = document["fileFormat"], [column.strip() for column in document["fileSchema"].split(",")]
        data = [file["key"] for file in document["files"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArchiveError(f"{where}: no manifest of an S3 Inventory") from error
    if kind not in ("CSV", "Parquet"):
        raise SettingsError(f"{where}: an inventory in {kind}; have it written as CSV or Parquet")
    for key in data:
        with bucket.open(key) as file:
            if kind == "Parquet":
                yield from pa.parquet.ParquetFile(file).iter_batches(BATCH)
                continue
            for batch in _csv(file, key, columns):
                place = columns.index("Key")
                keys = pa.array([unquote_plus(key) for key in batch.column(place).to_pylist()], pa.string())
                yield batch.set_column(place, "Key", keys)
