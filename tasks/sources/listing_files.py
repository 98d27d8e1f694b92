"""Reads listing files: Parquet or CSV with a column of locations, and S3 Inventory reports.

Column names ignore case and underscores. One of `uri`, `url`, `path` and `key` is the location; `bucket`, `size` and
`etag` are optional. Rows of noncurrent versions and delete markers are skipped. A CSV file (with commas, or tabs as
.tsv) has a header. The data files of an S3 Inventory have none, so an inventory is named by its manifest.json. Rows
count from 1, without the header.
"""

import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO, cast
from urllib.parse import unquote_to_bytes

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from codec.errors import ArchiveError, SettingsError
from tasks.storage.store import Store

_TABLES = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
EXTENSIONS = (".parquet", *_TABLES, "manifest.json")
LOCATIONS = ("uri", "url", "path", "key")
LARGEST = 2**63 - 1
BATCH = 10_000
HEADER = 1 << 16
"""Most bytes of a row of column names."""
CONNECTIONS = 16


@dataclass(frozen=True)
class ListedFile:
    """A listed file; size in bytes and ETag are None if not listed."""

    location: str
    size: int | None
    etag: str | None


def is_listing(url: str) -> bool:
    """Whether a path or URL has the extension of a listing file, in any case."""
    return url.lower().endswith(EXTENSIONS)


def read(store: Store, name: str) -> Iterator[list[ListedFile]]:
    """Yields the rows of a listing file in batches.

    Raises SettingsError for a file without locations, ArchiveError for an invalid row.
    """
    first = 1
    for batch in _batches(store, name):
        columns = _columns(batch.schema.names)
        location = next((column for column in LOCATIONS if column in columns), None)
        if location is None:
            raise SettingsError(
                f"{store.uri(name)}: has no locations; add a column {', '.join(LOCATIONS[:-1])} or {LOCATIONS[-1]}"
            )
        wanted = [column for column in (location, "bucket", "size", "etag", *_CURRENT) if column in columns]
        listed = batch.select([columns[column] for column in wanted]).rename_columns(wanted).to_pylist()
        rows = []
        for number, row in enumerate(listed, first):
            if not _is_current(row):
                continue
            try:
                rows.append(_row(row, location))
            except ValueError as error:
                raise ArchiveError(f"{store.uri(name)}, row {number}: {error}; correct the listing") from None
        yield [row for row in rows if not (row.location.endswith("/") and row.size == 0)]  # a folder marker
        first += len(listed)


def has_etags(store: Store, name: str) -> bool:
    """Whether a listing has the ETag and the size of its files, so that no file needs a request."""
    if not store.exists(name):
        return False
    first = next(_batches(store, name), None)
    return first is not None and {"size", "etag"} <= _columns(first.schema.names).keys()


def in_parallel(
    function: Callable[[dict[str, Any]], dict[str, Any]], items: Iterable[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Maps a function over items, in order, on as many threads as a store gets requests at once."""
    with ThreadPoolExecutor(CONNECTIONS) as threads:
        yield from threads.map(function, items)


_CURRENT = ("islatest", "isdeletemarker")


def _columns(names: Iterable[str]) -> dict[str, str]:
    return {name.strip().lower().replace("_", ""): name for name in names}


def _is_current(row: dict[str, Any]) -> bool:
    latest, deleted = (_text(row.get(name)).lower() for name in _CURRENT)
    return latest != "false" and deleted != "true"


def _row(row: dict[str, Any], location: str) -> ListedFile:
    """Parses a row. Raises ValueError with the fault."""
    where, bucket = _text(row[location]), _text(row.get("bucket"))
    if not where:
        raise ValueError(f"no {location}")
    return ListedFile(f"s3://{bucket}/{where}" if bucket else where, _size(row.get("size")), _etag(row.get("etag")))


def _size(value: Any) -> int | None:
    text = _text(value).strip()
    if not text:
        return None
    try:
        size = int(text) if text.isdecimal() else int(float(text))
        whole = text.isdecimal() or size == float(text)
    except (ValueError, OverflowError):  # not a number, or not finite
        whole = False
    if not whole or not 0 <= size <= LARGEST:
        raise ValueError(f"the size {text!r} is not a number of bytes")
    return size


def _etag(value: Any) -> str | None:
    return _text(value).strip('"') or None


def _text(value: Any) -> str:
    """Decodes a cell, empty for null; bytes that are not UTF-8 become surrogate escapes, as in file names."""
    if value is None:
        return ""
    return os.fsdecode(value) if isinstance(value, bytes) else str(value)


def _batches(store: Store, name: str) -> Iterator[pa.RecordBatch]:
    kind = name.lower()
    if kind.endswith("manifest.json"):
        yield from _inventory(store, name)
        return
    with store.open(name) as file:
        if kind.endswith(".parquet"):
            yield from pa.parquet.ParquetFile(file).iter_batches(BATCH)
        else:
            yield from _csv(file, name)


def _csv(file: BinaryIO, name: str, header: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Reads every cell as bytes: a number would lose leading zeros, and a name need not be UTF-8."""
    kind = name.lower()
    stream = cast(BinaryIO, gzip.GzipFile(fileobj=file)) if kind.endswith(".gz") else file
    parsing = pa.csv.ParseOptions(delimiter="\t" if ".tsv" in kind[-7:] else ",")
    reading = pa.csv.ReadOptions(column_names=header, block_size=1 << 20)
    try:
        columns = header or _header(stream, parsing)
        stream.seek(0)
        as_bytes = pa.csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.binary()))
        yield from pa.csv.open_csv(pa.PythonFile(stream, "r"), reading, parsing, as_bytes)
    except (pa.ArrowInvalid, UnicodeDecodeError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ArchiveError(f"{name}: not a CSV table: {str(error).partition(chr(10))[0]}") from error


def _header(stream: BinaryIO, parsing: pa.csv.ParseOptions) -> list[str]:
    """Reads the column names in the first row from a copy of the first bytes.

    A reader of the stream itself would keep reading ahead in its own thread while the rows are read.
    """
    first = stream.read(HEADER)
    whole = first[: first.rfind(b"\n") + 1] or first
    with pa.csv.open_csv(pa.BufferReader(whole), parse_options=parsing) as found:
        return list(found.schema.names)


def _inventory(store: Store, name: str) -> Iterator[pa.RecordBatch]:
    """Lists the data files in the manifest.json of an S3 Inventory, and their bucket."""
    where = store.uri(name)
    try:
        document = json.loads(store.read(name))
        bucket = Store(f"s3://{document['destinationBucket'].rpartition(':')[2]}")
        kind, columns = document["fileFormat"], [column.strip() for column in document["fileSchema"].split(",")]
        data, key_column = [file["key"] for file in document["files"]], columns.index("Key") if kind == "CSV" else 0
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArchiveError(f"{where}: not a manifest of an S3 Inventory") from error
    if kind not in ("CSV", "Parquet"):
        raise SettingsError(f"{where}: an inventory in {kind}; configure it as CSV or Parquet")
    for key in data:
        with bucket.open(key) as file:
            if kind == "Parquet":
                yield from pa.parquet.ParquetFile(file).iter_batches(BATCH)
                continue
            for batch in _csv(file, key, columns):
                quoted = batch.column(key_column).to_pylist()
                keys = pa.array([unquote_to_bytes(key.replace(b"+", b" ")) for key in quoted], pa.binary())
                yield batch.set_column(key_column, "Key", keys)
