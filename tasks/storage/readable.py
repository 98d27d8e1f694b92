"""Read access to storage: one interface for local folders and every fsspec URL. Nothing here writes."""

import builtins
import errno
import hashlib
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec
import pyarrow.fs

from codec.errors import ArchiveError
from tasks.storage import errors, http, local, s3
from tasks.storage.errors import NotFoundError, ReadOnlyError, StorageError, UnreadableError
from tasks.storage.keys import UNFINISHED, key_of

CHUNK = 4 << 20
"""Bytes per read of an open file."""
PIECE = 8 << 20
"""Bytes per request for an object that does not fit into memory."""
LARGEST_UNSAID = 10**9
"""Most bytes read to find the size of a file whose server does not state it."""


@dataclass(frozen=True)
class StoredObject:
    """A stored object: name relative to the store, size in bytes, and a stamp that changes with the content.

    `stamp` is the ETag, or the modification time in nanoseconds where a store has no ETag.
    """

    name: str
    size: int
    stamp: str


class ReadableStore:
    """A folder: local (a path or file://) or remote (s3:// and every other fsspec URL).

    Names are relative to it and use `/`. Every failure is an ArchiveError of one line without credentials. `has_etags`:
    the stamps of its items depend on content, not on time.
    """

    def __init__(self, url: str) -> None:
        self._given = url
        with self._naming_errors("open", ""):
            options = http.options() if url.startswith(("http://", "https://")) else {}
            self._fs, root = fsspec.url_to_fs(url, use_listings_cache=False, **options)
        self._root: str = root.rstrip("/")
        protocols = self._fs.protocol
        if isinstance(protocols, str):  # fsspec: a name or a tuple of names
            protocols = (protocols,)
        self.folder = Path(root) if "file" in protocols else None
        self.has_etags = "s3" in protocols
        self._is_web = "http" in protocols
        if self.has_etags:
            s3.settle(self._fs)
        self.url = cast(str, self._fs.unstrip_protocol(self._root or root))

    def __str__(self) -> str:
        if self.folder is None:
            return self.url
        return str(self.folder)

    def uri(self, name: str) -> str:
        """The URI of a name: valid UTF-8 for any name, without credentials."""
        return key_of(f"{self.url}/{name}")

    def identity(self) -> str:
        """Identifies this location among copies: its URL and, on S3, the endpoint and the server."""
        with self._naming_errors("open", ""):
            if not self.has_etags:
                return self.url
            # one URL may mean different servers by the environment, and a server's behavior may change with a release
            return f"{s3.server(self._fs, self._root)} {self.url}"

    def read(self, name: str) -> bytes:
        """Reads all bytes of a name in one request. Raises NotFoundError, StorageError."""
        path = self._path(name)
        with self._naming_errors("read", name):
            if self._is_web:
                return b"".join(http.pieces(self._fs, path, sys.maxsize, PIECE))
            if self.has_etags:  # with more than one at a time s3fs requests the size first
                return cast(bytes, self._fs.cat_file(path, max_concurrency=1))
            return cast(bytes, self._fs.cat_file(path))

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        """Reads `length` bytes from `offset` in one request. Raises StorageError if there are fewer."""
        with self._naming_errors("read", name):
            data = cast(bytes, self._fs.cat_file(self._path(name), start=offset, end=offset + length))
            if self._is_web and len(data) > length:  # the server does not support ranges
                data = data[offset:][:length]
            if len(data) != length:
                raise OSError(errno.EIO, f"{len(data)} of {length} bytes at {offset}")
            return data

    def pieces(self, name: str, most: int, length: int = PIECE, *, start: int = 0) -> Iterator[bytes]:
        """Yields at most `most` bytes of a name from `start` on, in pieces of `length`, one request each.

        Raises NotFoundError, UnreadableError, else StorageError. Some stores refuse a range that begins at the end of
        an object, so none is requested: the piece before it asks for one byte more instead.
        """
        with self._naming_errors("read", name):
            if self._is_web:
                yield from http.pieces(self._fs, self._path(name), most, length, start)
                return
            end = start + most
            while start < end:
                remaining = end - start
                # the last request may ask for one byte more, so that none begins at the end of the object
                asked = remaining if remaining <= length + 1 else length
                piece = cast(bytes, self._fs.cat_file(self._path(name), start=start, end=start + asked))
                start += len(piece)
                yield piece
                if len(piece) < asked:
                    return

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """Opens a seekable file that requests only the ranges read; a file on a web server is copied first."""
        if self._is_web:
            with tempfile.TemporaryFile() as copy:
                copy.writelines(self.pieces(name, sys.maxsize))
                copy.seek(0)
                yield cast(BinaryIO, copy)
            return
        with self._naming_errors("read", name), self._fs.open(self._path(name), "rb") as file:
            yield cast(BinaryIO, file)

    def item(self, name: str) -> StoredObject:
        """Returns the current size and stamp of a name. Raises NotFoundError, StorageError."""
        with self._naming_errors("read", name):
            if self.folder is not None:
                return _local_item(name, (self.folder / name).stat())
            if self.has_etags:
                return StoredObject(name, *s3.head(self._fs, self._path(name)))
            if self._is_web:
                size, stamp = http.head(self._fs, self._path(name))
                if size is None:
                    size = self._counted(name)
                return StoredObject(name, size, stamp)
            return _item(name, self._fs.info(self._path(name)))

    def _counted(self, name: str) -> int:
        size = 0
        for piece in self.pieces(name, LARGEST_UNSAID + 1):
            size += len(piece)
        if size > LARGEST_UNSAID:
            raise OSError(errno.EFBIG, f"has no stated size and is larger than {LARGEST_UNSAID} bytes")
        return size

    def answers(self) -> bool:
        """Whether the store answers and accepts the credentials, even if it denies access to this folder."""
        if self._is_web:
            return http.answers(self._fs, self._root)
        if self.has_etags:
            return s3.answers(self._fs, self._root)
        try:
            self._fs.ls(self._root or "/", detail=False)
        except PermissionError:  # an answer, about this folder alone
            return True
        except Exception:  # each client library has its own base exception
            return False
        return True

    def size(self, name: str) -> int:
        """Returns the size of an object in bytes. Raises NotFoundError, StorageError."""
        return self.item(name).size

    def modified(self, name: str) -> float:
        """Returns when a name was written: Unix time by the store's clock. Raises NotFoundError."""
        with self._naming_errors("read", name):
            if self.folder is not None:
                return (self.folder / name).stat().st_mtime
            return cast(float, self._fs.modified(self._path(name)).timestamp())

    def exists(self, name: str) -> bool:
        """Whether a name exists. Raises StorageError."""
        try:
            self.item(name)
        except NotFoundError:
            return False
        return True

    def sha256(self, name: str) -> str:
        """Returns the SHA-256 of a stored object, read back in pieces."""
        digest = hashlib.sha256()
        with self.open(name) as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
        return digest.hexdigest()

    def fetch(self, name: str, path: Path) -> str:
        """Copies an object into a local file in pieces and returns the SHA-256 of the copied bytes."""
        digest = hashlib.sha256()
        # a web server may not know the size; elsewhere one byte more than the size shows a file that grew
        most = sys.maxsize if self._is_web else self.size(name) + 1
        with path.open("wb") as copy:
            for piece in self.pieces(name, most):
                digest.update(piece)
                copy.write(piece)
        return digest.hexdigest()

    def children(self, prefix: str) -> builtins.list[str]:
        """Lists the names directly in a folder, sorted, without its path. A missing folder is empty."""
        with self._naming_errors("list", prefix):
            if self.has_etags:
                found = s3.children(self._fs, self._prefixed(prefix))
            else:
                found = self._names_in(self._prefixed(prefix))
        return sorted(name for name in found if not name.endswith(UNFINISHED))

    def _names_in(self, folder: str) -> builtins.list[str]:
        try:
            paths = self._fs.ls(folder, detail=False)
        except FileNotFoundError:
            return []
        return [path.rstrip("/").rpartition("/")[2] for path in paths]

    def arrow(self) -> pyarrow.fs.FileSystem:
        """This store as a pyarrow file system with the same names."""
        return pyarrow.fs.SubTreeFileSystem(self._root, pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(self._fs)))

    def list(self, prefix: str = "", closed: local.Closed | None = None) -> Iterator[StoredObject]:
        """Lists all objects under a folder in no order, without temporary files of writers. A missing folder is empty.

        In local folders, links are followed; loops, broken links, sockets and devices are skipped. A subfolder that
        cannot be read is reported to `closed`; without `closed` it raises StorageError.
        """
        with self._naming_errors("list", prefix):
            for item in self._find(prefix, closed):
                if not item.name.endswith(UNFINISHED):
                    yield item

    def _find(self, prefix: str, closed: local.Closed | None) -> Iterator[StoredObject]:
        if self.folder is not None:
            for name, status in local.walk(self.folder, prefix, closed):
                yield _local_item(name, status)
        elif self.has_etags:
            for path, size, etag in s3.objects(self._fs, self._prefixed(prefix)):
                yield StoredObject(self._name(path), size, etag)
        else:
            with suppress(FileNotFoundError):
                yield from self._below(self._prefixed(prefix), closed)

    def _below(self, folder: str, closed: local.Closed | None) -> Iterator[StoredObject]:
        for info in self._fs.ls(folder, detail=True):
            name = self._name(info["name"])
            if info["type"] != "directory":
                yield _item(name, info)
            elif closed is None:
                yield from self._below(info["name"], closed)
            else:
                try:
                    yield from self._below(info["name"], closed)
                except OSError as error:  # one closed folder does not end the listing
                    closed(f"{name.rstrip('/')}/", error)

    def _name(self, path: str) -> str:
        inside = path.removeprefix(f"{self._root}/")
        if inside != path:
            return inside
        # a file system whose listings write the root otherwise than its URL
        return path.removeprefix(self._root).lstrip("/")

    def _prefixed(self, folder: str) -> str:
        if not folder:
            return self._root
        return self._path(folder)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextmanager
    def _naming_errors(self, verb: str, name: str) -> Iterator[None]:
        try:
            yield
        except ArchiveError:  # names its location already
            raise
        except Exception as error:  # each client library has its own base exception
            raise self._named(error, verb, name) from error

    def _named(self, error: Exception, verb: str, name: str) -> ArchiveError:
        if errors.code(error) == "NoSuchBucket":  # clients report a missing bucket like a missing object
            bucket = errors.without_secrets(self.url.removesuffix(self._root) + self._root.partition("/")[0])
            return StorageError(f"{bucket}: this bucket does not exist; create it, or correct the name")
        where = self._given
        if name:
            where = f"{where.rstrip('/')}/{name}"
        where = errors.without_secrets(key_of(where))
        if isinstance(error, FileNotFoundError) and verb == "read":
            return NotFoundError(f"{where}: not found")
        kind = StorageError
        if verb == "read" and self._is_own(error):
            kind = UnreadableError
        elif verb != "read" and errors.denies_writing(error):
            kind = ReadOnlyError
        return kind(f"{where}: cannot {verb}: {errors.reason(error)}")

    def _is_own(self, error: Exception) -> bool:
        """Whether the object, and not its store, caused a read failure."""
        if self.has_etags:
            denied = s3.denied(error)
            if denied is not None:
                return denied
        if self.folder is not None or self._is_web:
            return isinstance(error, OSError) and error.errno in errors.UNREADABLE
        return isinstance(error, (PermissionError, IsADirectoryError, NotADirectoryError))


def _local_item(name: str, status: os.stat_result) -> StoredObject:
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "no file")  # a folder, a socket or a device
    return StoredObject(name, status.st_size, str(status.st_mtime_ns))


def _item(name: str, info: dict[str, Any]) -> StoredObject:
    # each fsspec file system calls it otherwise; what depends on content is best, a time of creation worst
    for field in ("ETag", "etag", "mtime", "LastModified", "updated", "created"):
        stamp = info.get(field)
        if stamp:
            return StoredObject(name, int(info["size"]), str(stamp).strip('"'))
    return StoredObject(name, int(info["size"]), "")
