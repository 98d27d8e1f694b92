"""Writes tars that WebDataset reads, and whose bytes depend only on their members.

Training shards use WebDataset's own writer. Archives get the same bytes from the standard library: importing
webdataset imports torch, which costs seconds and memory.
"""

import hashlib
import io
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Self, cast

from tasks.storage.store import StorageError

SPARE = 64 << 20
"""Bytes of free disk space to preserve."""


def padded(size: int) -> int:
    """Returns the bytes that a member's content takes in a tar: whole blocks."""
    blocks = -(-size // tarfile.BLOCKSIZE)
    return blocks * tarfile.BLOCKSIZE


class Tar:
    """Writes a tar to a local file, with fixed owner, mode and time, and members in the order of addition."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._before = 0
        self._open()

    def _open(self) -> None:
        self._writer = tarfile.open(self._path, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115  # closed by _close

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._naming_errors():
            self._close()

    def add(self, name: str, data: bytes) -> int:
        """Appends a member (a name of at most 100 ASCII characters); returns the offset of its first byte.

        Raises StorageError if the disk is full.
        """
        with self._naming_errors():
            end = self._append(name, data)
        return end - padded(len(data))

    def add_pieces(self, name: str, size: int, pieces: Iterable[bytes]) -> tuple[int, str]:
        """Appends a member that does not fit into memory; returns its offset and the SHA-256 of its bytes.

        If the pieces raise an error, the tar is unchanged; `drop` also undoes the call. Raises StorageError before
        anything is written if there is too little disk space.
        """
        free = shutil.disk_usage(self._path.parent).free
        if free < size + SPARE:
            raise StorageError(
                f"{self._path}: {size} bytes exceed the {free} free bytes here; set TMPDIR to a larger disk"
            )
        member = tarfile.TarInfo(name)
        member.size = size
        member.mode = 0o444
        self._before = self._writer.offset
        stream = _Pieces(pieces)
        try:
            with self._naming_errors():
                self._writer.addfile(member, cast(BinaryIO, stream))
            stream.finish()
        except BaseException:  # also an interrupt: a half member would shift all that follow
            self.drop()
            raise
        offset = self._writer.offset - padded(size)
        return offset, stream.digest.hexdigest()

    def drop(self) -> None:
        """Removes the member that add_pieces appended last."""
        file = cast(BinaryIO, self._writer.fileobj)
        file.seek(self._before)
        file.truncate()
        self._writer.offset = self._before

    def _append(self, name: str, data: bytes) -> int:
        """Writes a member; returns the length of the tar so far."""
        member = tarfile.TarInfo(name)
        member.size = len(data)
        member.mode = 0o444
        self._writer.addfile(member, io.BytesIO(data))
        return self._writer.offset

    def _close(self) -> None:
        self._writer.close()

    @contextmanager
    def _naming_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"{self._path}: cannot spool a tar: {error.strerror}; free disk space there, or set TMPDIR"
            ) from error


class _Pieces:
    """A file object over pieces, readable once, that hashes its content."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._rest = b""
        self.digest = hashlib.sha256()

    def read(self, count: int) -> bytes:
        while len(self._rest) < count:
            piece = next(self._pieces, None)
            if piece is None:
                break
            self.digest.update(piece)
            self._rest += piece
        taken = self._rest[:count]
        self._rest = self._rest[count:]
        return taken

    def finish(self) -> None:
        """Exhausts the pieces, so that their generator can make its final checks."""
        for _ in self._pieces:
            raise StorageError("a source is longer than its listed size")


class TrainingTar(Tar):
    """A Tar written by WebDataset's own writer."""

    def _open(self) -> None:
        import webdataset  # imports torch, which archives do without

        self._file = self._path.open("wb")
        self._shard = webdataset.TarWriter(
            self._file, user="", group="", mode=0o444, mtime=0, compress=False, encoder=False
        )

    def _append(self, name: str, data: bytes) -> int:
        key, _, extension = name.partition(".")
        self._shard.write({"__key__": key, extension: data})
        return int(self._shard.tarstream.offset)

    def _close(self) -> None:
        try:
            self._shard.close()
        finally:
            self._file.close()
