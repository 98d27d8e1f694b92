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
        locations = [column for column in LOCATIONS if column in columns]
        if not locations:
            raise SettingsError(
                f"{store.uri(name)}: has no locations; add a column {', '.join(LOCATIONS[:-1])} or {LOCATIONS[-1]}"
            )
        location = locations[0]
        wanted = [column for column in (location, "bucket", "size", "etag", *_CURRENT) if column in columns]
        own_names = [columns[column] for column in wanted]
        listed = batch.select(own_names).rename_columns(wanted).to_pylist()
        files = []
        for number, row in enumerate(listed, first):
            if not _is_current(row):
                continue
            try:
                file = _row(row, location)
            except ValueError as error:
                raise ArchiveError(f"{store.uri(name)}, row {number}: {error}; correct the listing") from None
            # Consoles of object stores mark a folder by an empty object whose name ends in a slash.
            is_folder = file.location.endswith("/") and file.size == 0
            if not is_folder:
                files.append(file)
        yield files
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
    is_latest = _text(row.get("islatest")).lower() != "false"  # also without the column: no versions are listed
    is_deleted = _text(row.get("isdeletemarker")).lower() == "true"
    return is_latest and not is_deleted


def _row(row: dict[str, Any], location: str) -> ListedFile:
    """Parses a row. Raises ValueError with the fault."""
    where = _text(row[location])
    bucket = _text(row.get("bucket"))
    if not where:
        raise ValueError(f"no {location}")
    if bucket:
        where = f"s3://{bucket}/{where}"
    return ListedFile(where, _size(row.get("size")), _etag(row.get("etag")))


def _size(value: Any) -> int | None:
    text = _text(value).strip()
    if not text:
        return None
    try:
        size = _whole_number(text)
    except (ValueError, OverflowError):  # not a number, or not finite
        size = -1
    if not 0 <= size <= LARGEST:
        raise ValueError(f"the size {text!r} is not a number of bytes")
    return size


def _whole_number(text: str) -> int:
    """Parses 12, or 12.0 as tools write integers of a column with gaps. Raises ValueError, OverflowError."""
    if text.isdecimal():
        return int(text)  # not by way of a float, which is exact only up to 2**53
    number = int(float(text))
    if number != float(text):
        raise ValueError(f"{text!r} has a fraction")
    return number


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
    stream = file
    if kind.endswith(".gz"):
        stream = cast(BinaryIO, gzip.GzipFile(fileobj=file))
    delimiter = "\t" if kind.endswith((".tsv", ".tsv.gz")) else ","
    parsing = pa.csv.ParseOptions(delimiter=delimiter)
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
    # Whole rows only: a row cut in the middle has too few columns, which is an error.
    whole_rows = first[: first.rfind(b"\n") + 1] or first
    with pa.csv.open_csv(pa.BufferReader(whole_rows), parse_options=parsing) as found:
        return list(found.schema.names)


def _inventory(store: Store, name: str) -> Iterator[pa.RecordBatch]:
    """Lists the data files in the manifest.json of an S3 Inventory, and their bucket."""
    where = store.uri(name)
    try:
        document = json.loads(store.read(name))
        resource = document["destinationBucket"]  # arn:aws:s3:::BUCKET
        bucket = Store(f"s3://{resource.rpartition(':')[2]}")
        kind = document["fileFormat"]
        columns = [column.strip() for column in document["fileSchema"].split(",")]  # of Parquet: its schema
        data_files = [file["key"] for file in document["files"]]
        key_column = columns.index("Key") if kind == "CSV" else 0
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArchiveError(f"{where}: not a manifest of an S3 Inventory") from error
    if kind not in ("CSV", "Parquet"):
        raise SettingsError(f"{where}: an inventory in {kind}; configure it as CSV or Parquet")
    for data_file in data_files:
        with bucket.open(data_file) as file:
            if kind == "Parquet":
                yield from pa.parquet.ParquetFile(file).iter_batches(BATCH)
                continue
            for batch in _csv(file, data_file, columns):
                yield batch.set_column(key_column, "Key", _unquoted(batch.column(key_column)))


def _unquoted(column: pa.Array) -> pa.Array:
    """Decodes keys, which an inventory has as URLs do in CSV, but as they are in Parquet."""
    keys = [unquote_to_bytes(key.replace(b"+", b" ")) for key in column.to_pylist()]
    return pa.array(keys, pa.binary())
