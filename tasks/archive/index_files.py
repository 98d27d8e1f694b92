"""Parquet files of an archive's index, parts and tables, written with checksums and never read without a look at them.

A file that a seal or the head names is held against the hash that they have. A part of the open run, which nothing
names yet, carries the hash of its own rows.
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
"""The metadata field of a part with the hash of its rows; parts of releases before 0.2 have none."""
REMEDY = "run `audit-archive ARCHIVE --repair-from MIRROR`"


class DamagedError(ArchiveError):
    """A file of the index is missing, or is not what the archive says it is."""


@dataclass(frozen=True)
class IndexFile:
    """A part or a file of a table, with SHA-256 and size that it must have; without them a part of an open run."""

    name: str
    sha256: str = ""
    size: int = 0


def encoded(rows: Sequence[schema.Row], metadata: dict[str, str]) -> bytes:
    """Rows as a Parquet file of the one schema."""
    table = schema.table(rows, metadata)
    return written(table.replace_schema_metadata({**table.schema.metadata, ROWS_SHA256: _digest(table)}))


def written(table: pa.Table) -> bytes:
    """A table as a Parquet file with a checksum of each page."""
    content = pa.BufferOutputStream()
    pa.parquet.write_table(table, content, compression="zstd", write_page_checksum=True)
    return bytes(content.getvalue().to_pybytes())


def decoded(archive: Store, file: IndexFile, data: bytes) -> pa.Table:
    """The table in the bytes of a file; raises DamagedError."""
    if file.sha256 and sha256_of(data) != file.sha256:
        raise _damaged(archive, file)
    try:
        table = pa.parquet.ParquetFile(pa.BufferReader(data), page_checksum_verification=True).read()
        stated = (table.schema.metadata or {}).get(ROWS_SHA256)
        whole = bool(file.sha256) or stated is None or stated == _digest(table)
    except (pa.ArrowException, OSError, ValueError, ArithmeticError, LookupError) as error:  # a zone UTE, a year 70000
        raise _damaged(archive, file) from error
    if not whole:
        raise _damaged(archive, file)
    return table


def read(archive: Store, file: IndexFile) -> pa.Table:
    """A file that fits into memory, by one request; raises DamagedError, StorageError."""
    try:
        data = archive.read(file.name)
    except NotFoundError as error:
        raise _missing(archive, file) from error
    return decoded(archive, file, data)


class Scratch:
    """A temporary folder for copies of remote files, which goes with what is made of them."""

    def __init__(self, path: Path) -> None:
        self.path, self.is_owned = path, False

    def owned_by(self, made: Made) -> Made:
        """Leave the folder until this is collected."""
        weakref.finalize(made, shutil.rmtree, self.path, ignore_errors=True)
        self.is_owned = True
        return made


@contextmanager
def scratch() -> Iterator[Scratch]:
    """A temporary folder, removed at the end unless something keeps it."""
    folder = Scratch(Path(tempfile.mkdtemp()))
    try:
        yield folder
    finally:
        if not folder.is_owned:
            shutil.rmtree(folder.path, ignore_errors=True)


def dataset(paths: Sequence[Path], schema: pa.Schema) -> pyarrow.dataset.Dataset:
    """Local Parquet files of one schema; fields that they lack are null."""
    if not paths:
        return pyarrow.dataset.dataset(schema.empty_table())
    return pyarrow.dataset.dataset([str(path) for path in paths], schema=schema, format="parquet")


def reader(paths: Sequence[Path], schema: pa.Schema, columns: Sequence[str]) -> pa.RecordBatchReader:
    """Columns of local Parquet files of one schema as a stream, in the same memory for any number of files.

    A dataset keeps what it learned of each file that it has read, and reads two million rows ahead of DuckDB.
    """

    def batches() -> Iterator[pa.RecordBatch]:
        for first in range(0, len(paths), FILES_AT_ONCE):
            some = dataset(paths[first : first + FILES_AT_ONCE], schema)
            yield from some.scanner(columns=list(columns), batch_size=10_000, batch_readahead=2).to_batches()

    return pa.RecordBatchReader.from_batches(pa.schema([schema.field(name) for name in columns]), batches())


def fetch(archive: Store, file: IndexFile, scratch: Path) -> Path:
    """A local file of the same bytes, hashed; raises DamagedError, StorageError.

    What comes from a store that is not local is copied into the folder.
    """
    path = scratch / file.name.replace("/", "-")
    if archive.folder is not None:
        path = archive.folder / file.name
        if not path.is_file():
            raise _missing(archive, file)
    else:
        try:
            if file.size:  # then one request will do
                with path.open("wb") as copy:
                    copy.writelines(archive.pieces(file.name, file.size + 1, PIECE))
            else:
                archive.fetch(file.name, path)
        except NotFoundError as error:
            raise _missing(archive, file) from error
    if file.sha256:
        if sha256_of(path) != file.sha256:
            raise _damaged(archive, file)
    else:
        decoded(archive, file, path.read_bytes())
    return path


def _digest(table: pa.Table) -> bytes:
    rows = json.dumps(table.to_pylist(), default=str, sort_keys=True, ensure_ascii=False)
    return sha256_of(rows.encode()).encode()


def _missing(archive: Store, file: IndexFile) -> DamagedError:
    return DamagedError(f"{archive.uri(file.name)}: missing; {REMEDY}")


def _damaged(archive: Store, file: IndexFile) -> DamagedError:
    return DamagedError(f"{archive.uri(file.name)}: damaged; {REMEDY}")
