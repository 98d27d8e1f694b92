"""Reads and writes the Parquet files of an archive's index (parts and tables), and verifies every file before use.

A file named by a seal or by the head is checked against the hash stated there. A part of the open run is not named by
any object yet; it carries the hash of its own rows.
"""

import json
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet

from codec.errors import ArchiveError
from tasks.archive import schema
from tasks.storage.store import NotFoundError, Store, sha256_of

Made = TypeVar("Made")
FILES_AT_ONCE = 64
PIECE = 64 << 20
ROWS_SHA256 = b"rows_sha256"
"""Metadata field with the hash of a part's rows; absent in parts of releases before 0.2."""
REMEDY = "run `audit-archive ARCHIVE --repair-from MIRROR`"


class DamagedError(ArchiveError):
    """A file of the index is missing or does not match its hash."""


@dataclass(frozen=True)
class IndexFile:
    """A part or table file with its expected SHA-256 and size; a part of an open run has neither."""

    name: str
    sha256: str = ""
    size: int = 0


def encoded(rows: Sequence[schema.Row], metadata: dict[str, str]) -> bytes:
    """Serializes rows as a Parquet file of the report schema."""
    table = schema.table(rows, metadata)
    return written(table.replace_schema_metadata({**table.schema.metadata, ROWS_SHA256: _digest(table)}))


def written(table: pa.Table) -> bytes:
    """Serializes a table as a Parquet file with page checksums."""
    content = pa.BufferOutputStream()
    pa.parquet.write_table(table, content, compression="zstd", write_page_checksum=True)
    return bytes(content.getvalue().to_pybytes())


def decoded(archive: Store, file: IndexFile, data: bytes) -> pa.Table:
    """Parses the bytes of a file as a table; raises DamagedError."""
    if file.sha256 and sha256_of(data) != file.sha256:
        raise _damaged(archive, file)
    try:
        table = pa.parquet.ParquetFile(pa.BufferReader(data), page_checksum_verification=True).read()
        is_whole = bool(file.sha256) or _matches_own_hash(table)
    # The last two come from values that pyarrow cannot make Python objects of, such as a time zone UTE or a year 70000.
    except (pa.ArrowException, OSError, ValueError, ArithmeticError, LookupError) as error:
        raise _damaged(archive, file) from error
    if not is_whole:
        raise _damaged(archive, file)
    return table


def _matches_own_hash(table: pa.Table) -> bool:
    """Whether the rows have the hash in the table's metadata, if it states one."""
    stated = (table.schema.metadata or {}).get(ROWS_SHA256)
    return stated is None or stated == _digest(table)


def read(archive: Store, file: IndexFile) -> pa.Table:
    """Reads a file into memory with one request; raises DamagedError, StorageError."""
    try:
        data = archive.read(file.name)
    except NotFoundError as error:
        raise _missing(archive, file) from error
    return decoded(archive, file, data)


class Scratch:
    """A temporary folder for copies of remote files, kept as long as the object that reads them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_owned = False

    def owned_by(self, made: Made) -> Made:
        """Keeps the folder until this object is garbage-collected."""
        weakref.finalize(made, shutil.rmtree, self.path, ignore_errors=True)
        self.is_owned = True
        return made


@contextmanager
def scratch() -> Iterator[Scratch]:
    """Yields a temporary folder and removes it on exit, unless an object owns it."""
    folder = Scratch(Path(tempfile.mkdtemp()))
    try:
        yield folder
    finally:
        if not folder.is_owned:
            shutil.rmtree(folder.path, ignore_errors=True)


def dataset(paths: Sequence[Path], schema: pa.Schema) -> pyarrow.dataset.Dataset:
    """Opens local Parquet files as a dataset of one schema; missing fields are null."""
    if not paths:
        return pyarrow.dataset.dataset(schema.empty_table())
    return pyarrow.dataset.dataset([str(path) for path in paths], schema=schema, format="parquet")


def reader(paths: Sequence[Path], schema: pa.Schema, columns: Sequence[str]) -> pa.RecordBatchReader:
    """Streams columns of local Parquet files of one schema, in constant memory for any number of files.

    A pyarrow dataset is not used: it caches metadata of each file, and reads two million rows ahead of DuckDB.
    """

    def batches() -> Iterator[pa.RecordBatch]:
        for first in range(0, len(paths), FILES_AT_ONCE):
            some = dataset(paths[first : first + FILES_AT_ONCE], schema)
            yield from some.scanner(columns=list(columns), batch_size=10_000, batch_readahead=2).to_batches()

    selected = pa.schema([schema.field(name) for name in columns])
    return pa.RecordBatchReader.from_batches(selected, batches())


def fetch(archive: Store, file: IndexFile, scratch: Path) -> Path:
    """Returns a local path with the verified content of a file; raises DamagedError, StorageError.

    Files of remote stores are copied into the folder.
    """
    path = _local_path(archive, file, scratch)
    if file.sha256:
        if sha256_of(path) != file.sha256:
            raise _damaged(archive, file)
    else:
        decoded(archive, file, path.read_bytes())
    return path


def _local_path(archive: Store, file: IndexFile, scratch: Path) -> Path:
    if archive.folder is not None:
        path = archive.folder / file.name
        if not path.is_file():
            raise _missing(archive, file)
        return path
    path = scratch / file.name.replace("/", "-")
    try:
        if file.size:
            # With a known size one request is enough. It asks for one byte more, so that a longer file shows.
            with path.open("wb") as copy:
                copy.writelines(archive.pieces(file.name, file.size + 1, PIECE))
        else:
            archive.fetch(file.name, path)
    except NotFoundError as error:
        raise _missing(archive, file) from error
    return path


def _digest(table: pa.Table) -> bytes:
    # Of the values: a file cannot state the hash of its own bytes.
    rows = json.dumps(table.to_pylist(), default=str, sort_keys=True, ensure_ascii=False)
    return sha256_of(rows.encode()).encode()


def _missing(archive: Store, file: IndexFile) -> DamagedError:
    return DamagedError(f"{archive.uri(file.name)}: missing; {REMEDY}")


def _damaged(archive: Store, file: IndexFile) -> DamagedError:
    return DamagedError(f"{archive.uri(file.name)}: damaged; {REMEDY}")
