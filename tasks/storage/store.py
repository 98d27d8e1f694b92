"""The one place that opens storage: local folders and every fsspec URL behind the same few calls.

`Store.publish` is the one commit function of an archive. Everything else reads, lists or removes.
"""

import builtins
import errno
import hashlib
import logging
import os
import re
import secrets
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec
import pyarrow.fs

from codec.errors import ArchiveError
from tasks.storage import http, local, s3
from tasks.storage.keys import UNFINISHED, key_of

CHUNK = 4 << 20
PIECE = 8 << 20
"""Bytes that are read at a time of what does not fit into memory."""
LARGEST_UNSAID = 10**9
"""What is read, at most, to learn the size of a file whose server does not say it."""
CONFLICT_WAITS = (0.1, 0.3, 1.0, 3.0)
_OWN = (
    *(errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG),
    *(errno.EIO, errno.EBADMSG, errno.ENXIO, errno.EINVAL, errno.EFBIG),
)
"""What the system says when a file itself cannot be read."""
_SECRET_VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID")


LOGGER = logging.getLogger(__name__)


class StorageError(ArchiveError):
    """Storage did not do what was asked; the same request may succeed later."""


class UnreadableError(StorageError):
    """This one object cannot be read: denied, damaged, no file, or to be restored from its storage class first."""


class NotFoundError(ArchiveError):
    """Nothing is stored under this name."""


@dataclass(frozen=True)
class Item:
    """A stored object: name relative to the store, size in bytes, and what tells one content from the next.

    `stamp` is the ETag, or the modification time in nanoseconds where a store has no ETag.
    """

    name: str
    size: int
    stamp: str


class Store:
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
            s3.take_keys_literally(self._fs)
        self.url = cast(str, self._fs.unstrip_protocol(self._root or root))

    def __str__(self) -> str:
        return self.url if self.folder is None else str(self.folder)

    def uri(self, name: str) -> str:
        """The address of a name, valid UTF-8 for any name and without credentials."""
        return key_of(f"{self.url}/{name}")

    # --- committing

    def publish(self, name: str, content: bytes | Path) -> bool:
        """Put bytes, or a local file, under a name that nothing has; the commit function.

        True when exactly these bytes now stand there, whoever put them; False when others do, which stay untouched.
        Atomic against any other publisher and against being killed. Raises StorageError when it cannot be told.
        """
        for wait in (*CONFLICT_WAITS, None):
            try:
                self._create(name, content)
                return True
            except Exception as error:  # any client's failure: the store itself is asked what holds
                stands = self._holds(name, content)
                if stands:
                    return True
                refused = isinstance(error, FileExistsError) or _http_status(error) == 412
                if refused and stands is False:
                    return False
                # a conflict: by 409, refused for a name that has gone since, or a sealing runner took our spool away
                conflict = refused or _http_status(error) == 409 or isinstance(error, FileNotFoundError)
                if not conflict or wait is None:
                    raise self._named(error, "write", name) from error
                LOGGER.info("%s: a conflict, tried again in %g s", self.uri(name), wait)
                time.sleep(wait)
        raise AssertionError("unreachable")

    def _create(self, name: str, content: bytes | Path) -> None:
        if self.folder is not None:
            self._link(self.folder / name, content)
        elif isinstance(content, bytes):
            self._fs.pipe_file(self._path(name), content, mode="create")
        else:
            self._fs.put_file(str(content), self._path(name), mode="create")

    def _link(self, path: Path, content: bytes | Path) -> None:
        with local.spooled(path, content) as spooled:
            local.claim(spooled, path)
        local.sync(path.parent)

    def _holds(self, name: str, content: bytes | Path) -> bool | None:
        """Whether exactly this content stands under a name; None where nothing does."""
        try:
            size = content.stat().st_size if isinstance(content, Path) else len(content)
            return self.size(name) == size and self.sha256(name) == sha256_of(content)
        except NotFoundError:
            return None

    def probe(self, rounds: int = 5) -> str:
        """Show that when two writers create one key exactly one wins, and say how; raises ArchiveError otherwise."""
        for _ in range(rounds):
            name, contents, together = f"probe-{secrets.token_hex(8)}", (b"first", b"second"), threading.Barrier(2)

            def create(content: bytes, name: str = name, together: threading.Barrier = together) -> bool:
                together.wait()
                return self.publish(name, content)

            try:
                with ThreadPoolExecutor(2) as writers:
                    won = list(writers.map(create, contents))
                exclusive = sum(won) == 1 and self.read(name) == contents[won.index(True)]
            finally:
                self.remove(name)
            if not exclusive:
                raise ArchiveError(
                    f"{self}: two writers can both create one name in this store; keep the archive in another"
                )
        return "exclusive creation by link" if self.folder is not None else "exclusive creation by If-None-Match"

    def replace(self, name: str, content: bytes | Path) -> None:
        """Put bytes, or a local file, in place of what a name had, without a moment in which it is half-written."""
        with self._naming_errors("write", name):
            if self.folder is None:
                if isinstance(content, Path):
                    self._fs.put_file(str(content), self._path(name))
                else:
                    self._fs.pipe_file(self._path(name), content)
                return
            path = self.folder / name
            with local.spooled(path, content) as spooled:
                spooled.replace(path)
            local.sync(path.parent)

    def remove(self, name: str) -> None:
        """Delete a name; deleting what is not there is no error."""
        with self._naming_errors("remove", name):
            try:
                self._fs.rm_file(self._path(name))
            except FileNotFoundError:
                return

    def remove_folder(self, name: str) -> None:
        """Delete a folder and all in it; deleting what is not there is no error."""
        with self._naming_errors("remove", name):
            try:
                self._fs.rm(self._path(name), recursive=True)
            except FileNotFoundError:
                return

    def remove_unfinished(self, prefix: str = "") -> None:
        """Delete the temporary files that killed writers left under a prefix; remote stores have none."""
        if self.folder is not None:
            local.remove_unfinished(self.folder / prefix)

    def abort_uploads(self, prefix: str = "", *, older_than: float = 0.0) -> builtins.list[str]:
        """Abort the multipart uploads that killed writers left under a folder; returns the names they were for.

        An S3 store keeps and bills their bytes, and no listing shows them; other stores have none. Those begun within
        the last `older_than` seconds are spared: their writers may be at work.
        """
        if not self.has_etags:
            return []
        with self._naming_errors("abort uploads", prefix):
            return [self._name(path) for path in s3.abort_uploads(self._fs, self._place(prefix), older_than)]

    # --- reading

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

    def range_pieces(self, name: str, offset: int, length: int) -> Iterator[bytes]:
        """The same bytes a piece at a time, for what does not fit into memory; raises StorageError as they come."""
        with self._naming_errors("read", name), self.open(name) as file:
            file.seek(offset)
            while length:
                data = file.read(min(PIECE, length))
                if not data:
                    raise OSError(errno.EIO, f"{length} bytes fewer than there should be")
                length -= len(data)
                yield data

    def pieces(self, name: str, most: int, length: int = PIECE) -> Iterator[bytes]:
        """The first `most` bytes of a name, in pieces of `length`, each one request.

        Raises NotFoundError, UnreadableError, else StorageError. A store is never asked for what begins beyond an end,
        as some refuse that: the piece before is a byte longer instead.
        """
        with self._naming_errors("read", name):
            if self._is_web:
                yield from http.pieces(self._fs, self._path(name), most, length)
                return
            read = 0
            while read < most:
                asked = most - read if most - read <= length + 1 else length
                piece = cast(bytes, self._fs.cat_file(self._path(name), start=read, end=read + asked))
                read += len(piece)
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

    def item(self, name: str) -> Item:
        """Size and stamp of a name as they are now; raises NotFoundError, StorageError."""
        with self._naming_errors("read", name):
            if self.folder is not None:
                return _local_item(name, (self.folder / name).stat())
            if self.has_etags:
                return Item(name, *s3.head(self._fs, self._path(name)))
            if self._is_web:
                size, stamp = http.head(self._fs, self._path(name))
                return Item(name, self._counted(name) if size is None else size, stamp)
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

    def age(self, name: str) -> float:
        """Seconds since a name was written, by the clock of the store itself; raises NotFoundError, StorageError."""
        probe = f"probe-{secrets.token_hex(8)}"
        self.publish(probe, b"")
        try:
            return self._modified(probe) - self._modified(name)
        finally:
            self.remove(probe)

    def _modified(self, name: str) -> float:
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

    def children(self, prefix: str) -> builtins.list[str]:
        """The names directly in a folder, without its path, sorted; none where there is no such folder."""
        with self._naming_errors("list", prefix):
            try:
                if self.has_etags:
                    found = s3.children(self._fs, self._place(prefix))
                else:
                    paths = self._fs.ls(self._place(prefix), detail=False)
                    found = [path.rstrip("/").rpartition("/")[2] for path in paths]
            except FileNotFoundError:
                return []
        return sorted(name for name in found if not name.endswith(UNFINISHED))

    def arrow(self) -> pyarrow.fs.FileSystem:
        """This store as pyarrow sees it, with the same names."""
        return pyarrow.fs.SubTreeFileSystem(self._root, pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(self._fs)))

    def list(self, prefix: str = "", closed: local.Closed | None = None) -> Iterator[Item]:
        """All objects under a folder, in no order; temporary files of writers are left out. A missing folder is empty.

        Local: links to files and folders are followed, loops and broken links left out, as are sockets and the like.
        What below the folder cannot be looked into is told to `closed`; without that it raises StorageError.
        """
        with self._naming_errors("list", prefix):
            for item in self._find(prefix, closed):
                if not item.name.endswith(UNFINISHED):
                    yield item

    def _find(self, prefix: str, closed: local.Closed | None) -> Iterator[Item]:
        if self.folder is not None:
            for name, status in local.walk(self.folder, prefix, closed):
                yield _local_item(name, status)
        elif self.has_etags:
            for path, size, etag in s3.objects(self._fs, self._place(prefix)):
                yield Item(self._name(path), size, etag)
        else:
            with suppress(FileNotFoundError):
                yield from self._below(self._place(prefix), closed)

    def _below(self, folder: str, closed: local.Closed | None) -> Iterator[Item]:
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

    def _place(self, folder: str) -> str:
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
        where = _without_secrets(key_of(f"{self._given.rstrip('/')}/{name}" if name else self._given))
        if isinstance(error, FileNotFoundError) and verb == "read":
            return NotFoundError(f"{where}: nothing is stored here")
        why = getattr(error, "strerror", None) or str(error).partition("\n")[0] or type(error).__name__
        kind = UnreadableError if verb == "read" and self._is_own(error) else StorageError
        return kind(f"{where}: cannot {verb}: {_without_secrets(why)}")

    def _is_own(self, error: Exception) -> bool:
        """Whether a failure to read is that of the object, not of its store."""
        if self.has_etags and (denied := s3.denied(error)) is not None:
            return denied
        if self.folder is not None or self._is_web:
            return isinstance(error, OSError) and error.errno in _OWN
        return isinstance(error, (PermissionError, IsADirectoryError, NotADirectoryError))


def sha256_of(content: bytes | Path) -> str:
    """The SHA-256, in hexadecimal, of bytes or of a local file."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _local_item(name: str, status: os.stat_result) -> Item:
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "no file")
    return Item(name, status.st_size, str(status.st_mtime_ns))


def _item(name: str, info: dict[str, Any]) -> Item:
    stamps = (info.get(field) for field in ("ETag", "etag", "mtime", "LastModified", "updated", "created"))
    return Item(name, int(info["size"]), next((str(stamp).strip('"') for stamp in stamps if stamp), ""))


def _http_status(error: BaseException) -> int | None:
    response = getattr(error.__cause__, "response", None) or getattr(error, "response", None)
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None
    return cast(int | None, status)


def _without_secrets(text: str) -> str:
    text = re.sub(r"://[^/@\s]*@", "://", text)
    for variable in _SECRET_VARIABLES:
        if value := os.environ.get(variable):
            text = text.replace(value, "***")
    return text
