"""Where pictures come from: a folder or URL, a file that lists them, or a dataset that shard-images made."""

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
"""So many of the stores that a listing names are asked, at most, whether one is there."""

FOUND = pa.schema(
    [
        pa.field("key", pa.string(), False),
        pa.field("uri", pa.string(), False),
        pa.field("size", pa.int64(), False),
        pa.field("stamp", pa.string(), False),
        pa.field("fault", pa.string()),
    ]
)
"""What there is; `fault` says why a place, whose key ends in a slash where it is a folder, could not be looked into."""


FILTERED = FOUND.append(pa.field("pattern", pa.string()))


class ChangedError(ArchiveError):
    """A source is no longer what was listed."""


class Source(ABC):
    """Pictures to be listed and read; `url` opens the same source again."""

    url: str
    stamps_tell_content: bool
    """Whether sources of equal content, and hardly any others, have equal stamps."""

    def __str__(self) -> str:
        return self.url

    @abstractmethod
    def check(self, archive: Store) -> None:
        """Raise ArchiveError when there is nothing to read pictures from, or the archive lies inside."""

    @abstractmethod
    def entries(self) -> Iterator[dict[str, Any]]:
        """One entry of FOUND for each picture, in no order; a key that is listed twice comes twice.

        A place that could not be looked into, and so all below it, is one entry with a `fault`.
        """

    @abstractmethod
    def lists(self) -> bool:
        """Whether there is still anything to be seen: where not, what cannot be read is not to blame for it."""

    @abstractmethod
    def fetch(self, entry: Mapping[str, Any]) -> bytes:
        """The bytes of a listed entry; raises NotFoundError, ChangedError, UnreadableError, else StorageError.

        Of what has grown, no more is read than one byte beyond what was listed.
        """

    def pieces(self, entry: Mapping[str, Any]) -> Iterator[bytes]:
        """The bytes of a listed entry piece by piece, for what does not fit into memory; raises as fetch does."""
        yield self.fetch(entry)

    @abstractmethod
    def tail(self, entry: Mapping[str, Any]) -> str:
        """A hash of an entry's last bytes, which differ between most pictures of one size; raises ArchiveError."""

    @abstractmethod
    def sha256(self, entry: Mapping[str, Any]) -> str:
        """The hash of an entry's bytes as they are now, read in pieces; raises ArchiveError."""


def open_source(url: str) -> Source:
    """The source at a path or URL: a listing file by its extension, a dataset by its plan, else a folder."""
    if listing_files.is_listing(url):
        return ListedSource(url)
    store = Store(url)
    if store.url.startswith(("http://", "https://")):
        raise SettingsError(
            f"{store}: a web server has no listing to rely on; name its files in the `url` column of a listing "
            "file (.csv, .tsv, .parquet)"
        )
    if store.exists(layout.ARCHIVE):
        raise ArchiveError(f"{store}: is an archive; what is lossy is not compressed again, name the originals")
    if not (store.exists(layout.DATASET_PLAN) and "shards" in store.children("")):
        return FolderSource(store)
    if not store.exists(layout.DATASET_MANIFEST):
        raise SettingsError(f"{store}: this dataset is not complete; run shard-images again, which goes on with it")
    return PackedSource(store)


def write_found(source: Source, path: Path) -> Path:
    """List a source into a Parquet file of FOUND, a row group at a time."""
    return _written(source.entries(), path, FOUND)


def write_filtered(source: Source, path: Path, chosen: Filter) -> Path:
    """List a source into a Parquet file of FILTERED: each entry with the pattern for which it is left aside."""
    places = replace(chosen, include=(), non_images=True)

    def pattern(entry: Mapping[str, Any]) -> str | None:
        return (places if entry.get("fault") else chosen).left_aside(entry["key"])

    return _written((entry | {"pattern": pattern(entry)} for entry in source.entries()), path, FILTERED)


def _written(entries: Iterable[dict[str, Any]], path: Path, schema: pa.Schema) -> Path:
    with pa.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in batched(entries, BATCH):
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema))
    return path


def batched(items: Iterable[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    """Lists of so many items, the last one shorter."""
    batch: list[dict[str, Any]] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


class _Stored(Source):
    """Pictures that are files of their own in some store."""

    @abstractmethod
    def _locate(self, entry: Mapping[str, Any]) -> tuple[Store, str]: ...

    def fetch(self, entry: Mapping[str, Any]) -> bytes:
        return b"".join(self._read(entry, entry["size"] + 1))

    def pieces(self, entry: Mapping[str, Any]) -> Iterator[bytes]:
        return self._read(entry, PIECE)

    def _read(self, entry: Mapping[str, Any], length: int) -> Iterator[bytes]:
        store, name = self._locate(entry)
        if store.folder is not None:
            store.item(name)  # what is no file may never end, or never begin
        read = 0
        for piece in store.pieces(name, entry["size"] + 1, length) if entry["size"] else ():
            read += len(piece)
            if read > entry["size"]:
                break
            yield piece
        now = store.item(name)
        if (now.size, now.stamp, read) != (entry["size"], entry["stamp"], entry["size"]):
            raise ChangedError(f"{entry['uri']}: changed after it was listed")

    def tail(self, entry: Mapping[str, Any]) -> str:
        store, name = self._locate(entry)
        length = min(entry["size"], TAIL)
        if store.folder is not None:
            store.item(name)
        data = store.read_range(name, entry["size"] - length, length) if length else b""
        return hashlib.sha256(data).hexdigest()

    def sha256(self, entry: Mapping[str, Any]) -> str:
        digest = hashlib.sha256()
        for piece in self.pieces(entry):
            digest.update(piece)
        return digest.hexdigest()


class FolderSource(_Stored):
    """All files below a folder or URL; keys are paths relative to it."""

    def __init__(self, store: Store) -> None:
        self._store, self.url, self.stamps_tell_content = store, store.url, store.has_etags

    def __str__(self) -> str:
        return str(self._store)

    def check(self, archive: Store) -> None:
        folder = self._store.folder
        if not (folder.is_dir() if folder is not None else self._store.children("")):
            raise ArchiveError(f"{self}: no such folder to read pictures from")
        _refuse_inside(archive, self._store)

    def entries(self) -> Iterator[dict[str, Any]]:
        places: list[tuple[str, OSError]] = []
        for item in self._store.list(closed=lambda name, error: places.append((name, error))):
            uri = self._store.uri(item.name)
            yield {"key": key_of(item.name), "uri": uri, "size": item.size, "stamp": item.stamp}
        for name, error in places:
            fault = error.strerror or type(error).__name__
            yield {"key": key_of(name), "uri": self._store.uri(name), "size": 0, "stamp": "", "fault": fault}

    def lists(self) -> bool:
        try:
            return next(self._store.list(closed=lambda name, error: None), None) is not None
        except ArchiveError:
            return False

    def _locate(self, entry: Mapping[str, Any]) -> tuple[Store, str]:
        return self._store, name_of(entry["key"])


class ListedSource(_Stored):
    """The files that a listing names, on one store or several.

    A path relative to the listing's folder is its own key; the key of a URL is what follows its scheme, so that
    listings of several buckets hold no key twice.
    """

    def __init__(self, url: str) -> None:
        folder, _, self._name = url.rpartition("/")
        self._home = Store(folder or "/")
        self.url = f"{self._home.url}/{self._name}"
        self.stamps_tell_content = listing_files.has_etags(self._home, self._name)
        self._stores: dict[str, Store] = {}

    def check(self, archive: Store) -> None:
        if not self._home.exists(self._name):
            raise ArchiveError(f"{self}: no such listing to read")

    def lists(self) -> bool:
        try:
            first = next(listing_files.read(self._home, self._name), [])
        except ArchiveError:
            return False
        for row in first:
            with suppress(UnreadableError):
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
        if "://" not in location:
            uri, key = self._home.uri(location), key_of(location)
        else:
            uri = key_of(location)
            key = key_of(location.partition("://")[2].lstrip("/"))
        return {"key": key, "uri": uri, "size": row.size, "stamp": row.etag}

    def _complete(self, entry: dict[str, Any]) -> dict[str, Any]:
        """The entry with size and stamp as its store says them, where the listing does not."""
        if entry["size"] is not None and entry["stamp"] is not None:
            return entry
        try:
            store, name = self._locate(entry)
            item = store.item(name)
        except StorageError as error:
            if not isinstance(error, UnreadableError) and not self.lists():
                raise
            return entry | {"size": 0, "stamp": ""}  # its row will say so
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
            except StorageError as error:  # of a kind that is not known here
                raise UnreadableError(str(error)) from error
        return self._stores[root], name


class PackedSource(Source):
    """The photos in the tars of a dataset, under the keys they had when they were packed; stamps are their hashes."""

    stamps_tell_content = True

    def __init__(self, store: Store) -> None:
        self._store, self.url = store, store.url

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
                    if row["status"] == "packed":
                        first = row["offset"]
                        uri = f"{self._store.uri(row['tar'])}#bytes={first}-{first + row['length'] - 1}"
                        yield {"key": row["key"], "uri": uri, "size": row["length"], "stamp": row["sha256"]}

    def fetch(self, entry: Mapping[str, Any]) -> bytes:
        address, start = part_of(entry["uri"])
        assert start is not None
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
    """Raise ArchiveError for an archive inside a source, through links too."""
    inner, outer = str(archive), str(source)
    if archive.folder is not None and source.folder is not None:
        inner, outer = str(archive.folder.resolve()), str(source.folder.resolve())
    if f"{inner}/".startswith(f"{outer.rstrip('/')}/"):
        raise ArchiveError(f"{archive}: lies inside the source {source}; keep the archive elsewhere")
