"""Sources of pictures: a folder or URL, a listing file, or a dataset made by shard-images."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from codec.errors import ArchiveError, SettingsError
from tasks.archive import layout
from tasks.sources import listing_files
from tasks.sources.filters import Filter
from tasks.storage.keys import key_of, name_of, part_of, root_and_name
from tasks.storage.store import PIECE, NotFoundError, StorageError, Store, UnreadableError

BATCH = 10_000
TAIL = 4096
SERVERS = 8
"""Most stores of a listing that are checked for availability."""

FOUND = pa.schema(
    [
        pa.field("key", pa.string(), False),
        pa.field("uri", pa.string(), False),
        pa.field("size", pa.int64(), False),
        pa.field("stamp", pa.string(), False),
        pa.field("fault", pa.string()),
    ]
)
"""Columns of a source listing. `fault`: why a file or folder could not be read; the key of a folder ends in a slash."""


FILTERED = FOUND.append(pa.field("pattern", pa.string()))


class ChangedError(ArchiveError):
    """A source changed after it was listed."""


class Source(ABC):
    """A collection of pictures to list and read; `url` opens the same source again."""

    url: str
    stamps_tell_content: bool
    """Whether stamps identify content: equal for equal content, and hardly ever for different content."""

    def __str__(self) -> str:
        return self.url

    @abstractmethod
    def check(self, archive: Store) -> None:
        """Raises ArchiveError if the source does not exist or contains the archive."""

    @abstractmethod
    def entries(self) -> Iterator[dict[str, Any]]:
        """Yields one entry of FOUND per picture in no order; a key that is listed twice is yielded twice.

        A folder that could not be read is one entry with a `fault`, which covers everything below it.
        """

    @abstractmethod
    def lists(self) -> bool:
        """Whether the source is still available. If not, failed reads are not the fault of single pictures."""

    @abstractmethod
    def fetch(self, entry: Mapping[str, Any]) -> bytes:
        """Reads a listed entry. Raises NotFoundError, ChangedError, UnreadableError, else StorageError.

        If the file has grown, only one byte more than its listed size is read.
        """

    def pieces(self, entry: Mapping[str, Any]) -> Iterator[bytes]:
        """Yields a listed entry in pieces, for files that do not fit into memory. Raises as fetch does."""
        yield self.fetch(entry)

    @abstractmethod
    def tail(self, entry: Mapping[str, Any]) -> str:
        """Hashes an entry's last bytes, which differ between most pictures of equal size. Raises ArchiveError."""

    @abstractmethod
    def sha256(self, entry: Mapping[str, Any]) -> str:
        """Hashes an entry's current bytes, read in pieces. Raises ArchiveError."""


def open_source(url: str) -> Source:
    """Opens the source at a path or URL: a listing file by extension, a dataset by its plan, else a folder."""
    if listing_files.is_listing(url):
        return ListedSource(url)
    store = Store(url)
    if store.url.startswith(("http://", "https://")):
        raise SettingsError(
            f"{store}: a web server has no reliable listing; name its files in the `url` column of a listing "
            "file (.csv, .tsv, .parquet)"
        )
    if store.exists(layout.ARCHIVE):
        raise ArchiveError(f"{store}: is an archive; lossy files are not compressed again, so name the originals")
    is_dataset = store.exists(layout.DATASET_PLAN) and "shards" in store.children("")
    if not is_dataset:
        return FolderSource(store)
    if not store.exists(layout.DATASET_MANIFEST):
        raise SettingsError(f"{store}: this dataset is incomplete; run shard-images again to finish it")
    return PackedSource(store)


def write_found(source: Source, path: Path) -> Path:
    """Writes the listing of a source to a Parquet file of FOUND, one row group at a time."""
    return _written(source.entries(), path, FOUND)


def write_filtered(source: Source, path: Path, chosen: Filter) -> Path:
    """Writes the listing of a source to a Parquet file of FILTERED: entries with the pattern that excludes them."""
    # A folder that cannot be listed may have files that `include` names, whatever its own name is.
    chosen_faults = replace(chosen, include=(), non_images=True)

    def filtered() -> Iterator[dict[str, Any]]:
        for entry in source.entries():
            selection = chosen_faults if entry.get("fault") else chosen
            yield entry | {"pattern": selection.left_aside(entry["key"])}

    return _written(filtered(), path, FILTERED)


def _written(entries: Iterable[dict[str, Any]], path: Path, schema: pa.Schema) -> Path:
    with pa.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in batched(entries, BATCH):
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema))
    return path


def batched(items: Iterable[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    """Yields lists of `size` items; the last one may be shorter."""
    batch: list[dict[str, Any]] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


class _Stored(Source):
    """Pictures that are single files in a store."""

    @abstractmethod
    def _locate(self, entry: Mapping[str, Any]) -> tuple[Store, str]: ...

    def fetch(self, entry: Mapping[str, Any]) -> bytes:
        # One byte more than listed, in one request: so a file that has grown shows.
        return b"".join(self._read(entry, entry["size"] + 1))

    def pieces(self, entry: Mapping[str, Any]) -> Iterator[bytes]:
        return self._read(entry, PIECE)

    def _read(self, entry: Mapping[str, Any], length: int) -> Iterator[bytes]:
        store, name = self._locate(entry)
        if store.folder is not None:
            store.item(name)  # reading a pipe or device may block forever
        read = 0
        if entry["size"]:  # some stores refuse a range of an empty object
            for piece in store.pieces(name, entry["size"] + 1, length):
                read += len(piece)
                if read > entry["size"]:
                    break
                yield piece
        # After the last byte: a file may have changed while it was read.
        now = store.item(name)
        is_as_listed = now.size == entry["size"] and now.stamp == entry["stamp"]
        if not is_as_listed or read != entry["size"]:
            raise ChangedError(f"{entry['uri']}: changed after it was listed")

    def tail(self, entry: Mapping[str, Any]) -> str:
        store, name = self._locate(entry)
        length = min(entry["size"], TAIL)
        if store.folder is not None:
            store.item(name)  # as in _read
        data = b""
        if length:
            data = store.read_range(name, entry["size"] - length, length)
        return hashlib.sha256(data).hexdigest()

    def sha256(self, entry: Mapping[str, Any]) -> str:
        digest = hashlib.sha256()
        for piece in self.pieces(entry):
            digest.update(piece)
        return digest.hexdigest()


class FolderSource(_Stored):
    """All files below a folder or URL. Keys are paths relative to it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.url = store.url
        self.stamps_tell_content = store.has_etags

    def __str__(self) -> str:
        return str(self._store)

    def check(self, archive: Store) -> None:
        folder = self._store.folder
        if folder is not None:
            exists = folder.is_dir()
        else:  # a prefix exists as long as something is below it
            exists = bool(self._store.children(""))
        if not exists:
            raise ArchiveError(f"{self}: source folder does not exist")
        _refuse_inside(archive, self._store)

    def entries(self) -> Iterator[dict[str, Any]]:
        unlisted: list[tuple[str, OSError]] = []

        def note(name: str, error: OSError) -> None:
            unlisted.append((name, error))

        for item in self._store.list(closed=note):
            uri = self._store.uri(item.name)
            yield {"key": key_of(item.name), "uri": uri, "size": item.size, "stamp": item.stamp}
        for name, error in unlisted:
            fault = error.strerror or type(error).__name__
            yield {"key": key_of(name), "uri": self._store.uri(name), "size": 0, "stamp": "", "fault": fault}

    def lists(self) -> bool:
        def ignore(name: str, error: OSError) -> None:
            """One folder that cannot be listed does not make the source unavailable."""

        try:
            first = next(self._store.list(closed=ignore), None)
        except ArchiveError:
            return False
        return first is not None  # an unmounted disk leaves an empty folder

    def _locate(self, entry: Mapping[str, Any]) -> tuple[Store, str]:
        return self._store, name_of(entry["key"])


class ListedSource(_Stored):
    """The files named by a listing, in one store or several.

    A path relative to the listing's folder is its own key. The key of a URL is the URL without its scheme, so that keys
    of several buckets do not collide.
    """

    def __init__(self, url: str) -> None:
        folder, _, self._name = url.rpartition("/")
        self._home = Store(folder or "/")
        self.url = f"{self._home.url}/{self._name}"
        self.stamps_tell_content = listing_files.has_etags(self._home, self._name)
        self._stores: dict[str, Store] = {}

    def check(self, archive: Store) -> None:
        if not self._home.exists(self._name):
            raise ArchiveError(f"{self}: listing file does not exist")

    def lists(self) -> bool:
        try:
            first = next(listing_files.read(self._home, self._name), [])
        except ArchiveError:
            return False
        for row in first:
            with suppress(UnreadableError):  # of one row; the others may name stores that answer
                self._located(self._entry(row)["uri"])
        return any(store.answers() for store in islice(self._stores.values(), SERVERS))

    def entries(self) -> Iterator[dict[str, Any]]:
        for batch in listing_files.read(self._home, self._name):
            entries = [self._entry(row) for row in batch]
            yield from listing_files.in_parallel(self._complete, entries)

    def _entry(self, row: listing_files.ListedFile) -> dict[str, Any]:
        location = row.location
        if location.startswith("/"):
            location = f"file://{location}"
        if "://" in location:
            uri = key_of(location)
            key = key_of(location.partition("://")[2].lstrip("/"))
        else:
            uri = self._home.uri(location)
            key = key_of(location)
        return {"key": key, "uri": uri, "size": row.size, "stamp": row.etag}

    def _complete(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Completes an entry with size and stamp from its store if the listing has none."""
        if entry["size"] is not None and entry["stamp"] is not None:
            return entry
        try:
            store, name = self._locate(entry)
            item = store.item(name)
        except StorageError as error:
            # Only a store that does not answer stops the listing: all that follow would fail too.
            if not isinstance(error, UnreadableError) and not self.lists():
                raise
            return entry | {"size": 0, "stamp": ""}  # its row will report the error
        except NotFoundError:
            return entry | {"size": 0, "stamp": ""}
        return entry | {"size": item.size, "stamp": item.stamp}

    def _locate(self, entry: Mapping[str, Any]) -> tuple[Store, str]:
        return self._located(entry["uri"])

    def _located(self, uri: str) -> tuple[Store, str]:
        root, name = root_and_name(name_of(uri))
        if root not in self._stores:
            try:
                self._stores[root] = Store(root)
            except StorageError as error:  # an unsupported kind of URL
                raise UnreadableError(str(error)) from error
        return self._stores[root], name


class PackedSource(Source):
    """The photos in the tars of a dataset, under their keys at packing time; stamps are their hashes."""

    stamps_tell_content = True

    def __init__(self, store: Store) -> None:
        self._store = store
        self.url = store.url

    def check(self, archive: Store) -> None:
        _refuse_inside(archive, self._store)

    def lists(self) -> bool:
        try:
            return self._store.exists(layout.DATASET_MANIFEST) and "shards" in self._store.children("")
        except ArchiveError:
            return False

    def entries(self) -> Iterator[dict[str, Any]]:
        columns = ["key", "sha256", "status", "tar", "offset", "length"]
        with self._store.open(layout.DATASET_MANIFEST) as file:
            for batch in pa.parquet.ParquetFile(file).iter_batches(BATCH, columns=columns):
                for row in batch.to_pylist():
                    if row["status"] != "packed":
                        continue
                    first = row["offset"]
                    last = first + row["length"] - 1
                    uri = f"{self._store.uri(row['tar'])}#bytes={first}-{last}"
                    yield {"key": row["key"], "uri": uri, "size": row["length"], "stamp": row["sha256"]}

    def fetch(self, entry: Mapping[str, Any]) -> bytes:
        address, start = part_of(entry["uri"])
        assert start is not None, "every URI of this source names a range of bytes"
        name = name_of(address)[len(self._store.url) + 1 :]
        data = self._store.read_range(name, start, entry["size"])
        if hashlib.sha256(data).hexdigest() != entry["stamp"]:
            raise UnreadableError(f"{entry['uri']}: damaged; pack the dataset again")
        return data

    def tail(self, entry: Mapping[str, Any]) -> str:
        return str(entry["stamp"])

    def sha256(self, entry: Mapping[str, Any]) -> str:
        return str(entry["stamp"])


def _refuse_inside(archive: Store, source: Store) -> None:
    """Raises ArchiveError if the archive is inside the source, also through links."""
    inner = str(archive)
    outer = str(source)
    if archive.folder is not None and source.folder is not None:
        inner = str(archive.folder.resolve())
        outer = str(source.folder.resolve())
    if f"{inner}/".startswith(f"{outer.rstrip('/')}/"):  # with slashes: /photos2 is not inside /photos
        raise ArchiveError(f"{archive}: is inside the source {source}; keep the archive elsewhere")
