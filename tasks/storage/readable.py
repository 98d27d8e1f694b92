"""A store as its readers see it: local folders and every fsspec URL behind the same few calls. Nothing here writes."""

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
PIECE = 8 << 20
"""Bytes that are read at a time of what does not fit into memory."""
LARGEST_UNSAID = 10**9
"""What is read, at most, to learn the size of a file whose server does not say it."""


@dataclass(frozen=True)
class StoredObject:
    """A stored object: name relative to the store, size in bytes, and what tells one content from the next.

    `stamp` is the ETag, or the modification time in nanoseconds where a store has no ETag.
    """

    name: str
    size: int
    stamp: str


class ReadableStore:
    """A folder: local (a path or file://) or remote (s3:// and every other fsspec URL).

    Names are relative to it and use `/`. Every failure is an ArchiveError of one line that holds no credentials.
    `has_etags` says that the stamps of its items follow content, not time.
    """

    def __init__(self, url: str) -> None:
        self._given = url
        with self._naming_errors("open", ""):
            options = http.options() if url.startswith(("http://", "https://")) else {}
            self._fs, root = fsspec.url_to_fs(url, use_listings_cache=False, **options)
        self._root = root.rstrip("/")
        protocols = (self._fs.protocol,) if isinstance(self._fs.protocol, str) else self._fs.protocol
        self.folder = Path(root) if "file" in protocols else None
        self.has_etags, self._is_web = "s3" in protocols, "http" in protocols
        if self.has_etags:
            s3.settle(self._fs)
        self.url = cast(str, self._fs.unstrip_protocol(self._root or root))

    def __str__(self) -> str:
        return self.url if self.folder is None else str(self.folder)

    def uri(self, name: str) -> str:
        """The address of a name, valid UTF-8 for any name and without credentials."""
        return key_of(f"{self.url}/{name}")

    def identity(self) -> str:
        """What tells this place from others that a copy may lie in: its address, and on S3 endpoint and server."""
        with self._naming_errors("open", ""):
            return f"{s3.server(self._fs, self._root)} {self.url}" if self.has_etags else self.url

    def read(self, name: str) -> bytes:
        """All bytes of a name, in one request; raises NotFoundError, StorageError."""
        one_request = {"max_concurrency": 1} if self.has_etags else {}  # s3fs asks for the size otherwise
        with self._naming_errors("read", name):
            if self._is_web:
                return b"".join(http.pieces(self._fs, self._path(name), sys.maxsize, PIECE))
            return cast(bytes, self._fs.cat_file(self._path(name), **one_request))

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`, in one request; raises StorageError when there are fewer."""
        with self._naming_errors("read", name):
            data = cast(bytes, self._fs.cat_file(self._path(name), start=offset, end=offset + length))
            if self._is_web and len(data) > length:  # the server knows no ranges
                data = data[offset:][:length]
            if len(data) != length:
                raise OSError(errno.EIO, f"{len(data)} of {length} bytes at {offset}")
            return data

    def pieces(self, name: str, most: int, length: int = PIECE, *, start: int = 0) -> Iterator[bytes]:
        """At most so many bytes of a name from `start` on, in pieces of `length`, each one request.

        Raises NotFoundError, UnreadableError, else StorageError. A store is never asked for what begins beyond an end,
        as some refuse that: the piece before is a byte longer instead.
        """
        with self._naming_errors("read", name):
            if self._is_web:
                yield from http.pieces(self._fs, self._path(name), most, length, start)
                return
            end = start + most
            while start < end:
                asked = end - start if end - start <= length + 1 else length
                piece = cast(bytes, self._fs.cat_file(self._path(name), start=start, end=start + asked))
                start += len(piece)
                yield piece
                if len(piece) < asked:
                    return

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """A seekable file for reading that asks for no more than is read; of a web server's file, a copy."""
        if self._is_web:
            with tempfile.TemporaryFile() as copy:
                copy.writelines(self.pieces(name, sys.maxsize))
                copy.seek(0)
                yield cast(BinaryIO, copy)
            return
        with self._naming_errors("read", name), self._fs.open(self._path(name), "rb") as file:
            yield cast(BinaryIO, file)

    def item(self, name: str) -> StoredObject:
        """Size and stamp of a name as they are now; raises NotFoundError, StorageError."""
        with self._naming_errors("read", name):
            if self.folder is not None:
                return _local_item(name, (self.folder / name).stat())
            if self.has_etags:
                return StoredObject(name, *s3.head(self._fs, self._path(name)))
            if self._is_web:
                size, stamp = http.head(self._fs, self._path(name))
                return StoredObject(name, self._counted(name) if size is None else size, stamp)
            return _item(name, self._fs.info(self._path(name)))

    def _counted(self, name: str) -> int:
        size = sum(map(len, self.pieces(name, LARGEST_UNSAID + 1)))
        if size > LARGEST_UNSAID:
            raise OSError(errno.EFBIG, f"says no size, and sends more than {LARGEST_UNSAID} bytes")
        return size

    def answers(self) -> bool:
        """Whether the store is there and takes our credentials, whether or not it shows this folder to us."""
        if self._is_web:
            return http.answers(self._fs, self._root)
        if self.has_etags:
            return s3.answers(self._fs, self._root)
        try:
            self._fs.ls(self._root or "/", detail=False)
        except PermissionError:
            return True
        except Exception:  # each client library has its own base class
            return False
        return True

    def size(self, name: str) -> int:
        """Bytes under a name; raises NotFoundError, StorageError."""
        return self.item(name).size

    def modified(self, name: str) -> float:
        """Seconds since 1970 at which a name was written, by the clock of the store; raises NotFoundError."""
        with self._naming_errors("read", name):
            if self.folder is not None:
                return (self.folder / name).stat().st_mtime
            return cast(float, self._fs.modified(self._path(name)).timestamp())

    def exists(self, name: str) -> bool:
        """Whether a name has bytes; raises StorageError."""
        try:
            self.item(name)
        except NotFoundError:
            return False
        return True

    def sha256(self, name: str) -> str:
        """The SHA-256 of what is stored, read back in pieces."""
        digest = hashlib.sha256()
        with self.open(name) as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
        return digest.hexdigest()

    def fetch(self, name: str, path: Path) -> str:
        """Copy a name into a local file, in pieces; the SHA-256 of what was copied."""
        digest, most = hashlib.sha256(), sys.maxsize if self._is_web else self.size(name) + 1
        with path.open("wb") as copy:
            for piece in self.pieces(name, most):
                digest.update(piece)
                copy.write(piece)
        return digest.hexdigest()

    def children(self, prefix: str) -> builtins.list[str]:
        """The names directly in a folder, without its path, sorted; none where there is no such folder."""
        with self._naming_errors("list", prefix):
            if self.has_etags:
                found = s3.children(self._fs, self._prefixed(prefix))
            else:
                try:
                    paths = self._fs.ls(self._prefixed(prefix), detail=False)
                except FileNotFoundError:
                    return []
                found = [path.rstrip("/").rpartition("/")[2] for path in paths]
        return sorted(name for name in found if not name.endswith(UNFINISHED))

    def arrow(self) -> pyarrow.fs.FileSystem:
        """This store as pyarrow sees it, with the same names."""
        return pyarrow.fs.SubTreeFileSystem(self._root, pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(self._fs)))

    def list(self, prefix: str = "", closed: local.Closed | None = None) -> Iterator[StoredObject]:
        """All objects under a folder, in no order; temporary files of writers are left out. A missing folder is empty.

        Local: links to files and folders are followed, loops and broken links left out, as are sockets and the like.
        What below the folder cannot be looked into is told to `closed`; without that it raises StorageError.
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
                except OSError as error:
                    closed(f"{name.rstrip('/')}/", error)

    def _name(self, path: str) -> str:
        inside = path.removeprefix(f"{self._root}/")
        return inside if inside != path else path.removeprefix(self._root).lstrip("/")

    def _prefixed(self, folder: str) -> str:
        return self._path(folder) if folder else self._root

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextmanager
    def _naming_errors(self, verb: str, name: str) -> Iterator[None]:
        try:
            yield
        except (ArchiveError, GeneratorExit):
            raise
        except Exception as error:  # each client library has its own base class
            raise self._named(error, verb, name) from error

    def _named(self, error: Exception, verb: str, name: str) -> ArchiveError:
        if errors.code(error) == "NoSuchBucket":  # as clients see it, nothing is stored there
            bucket = errors.without_secrets(self.url.removesuffix(self._root) + self._root.partition("/")[0])
            return StorageError(f"{bucket}: this bucket does not exist; make it, or correct the name")
        where = errors.without_secrets(key_of(f"{self._given.rstrip('/')}/{name}" if name else self._given))
        if isinstance(error, FileNotFoundError) and verb == "read":
            return NotFoundError(f"{where}: nothing is stored here")
        kind = StorageError
        if verb == "read" and self._is_own(error):
            kind = UnreadableError
        elif verb != "read" and errors.denies_writing(error):
            kind = ReadOnlyError
        return kind(f"{where}: cannot {verb}: {errors.reason(error)}")

    def _is_own(self, error: Exception) -> bool:
        """Whether a failure to read is that of the object, not of its store."""
        if self.has_etags and (denied := s3.denied(error)) is not None:
            return denied
        if self.folder is not None or self._is_web:
            return isinstance(error, OSError) and error.errno in errors.UNREADABLE
        return isinstance(error, (PermissionError, IsADirectoryError, NotADirectoryError))


def _local_item(name: str, status: os.stat_result) -> StoredObject:
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "no file")
    return StoredObject(name, status.st_size, str(status.st_mtime_ns))


def _item(name: str, info: dict[str, Any]) -> StoredObject:
    stamps = (info.get(field) for field in ("ETag", "etag", "mtime", "LastModified", "updated", "created"))
    return StoredObject(name, int(info["size"]), next((str(stamp).strip('"') for stamp in stamps if stamp), ""))
