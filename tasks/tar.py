"""Tars that WebDataset reads and whose bytes depend on their members alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tarfile import BLOCKSIZE
from typing import Self

from tasks.storage import StorageError


class Tar:
    """A tar being written to a local file: owner, mode and time fixed, members in the order they are added."""

    def __init__(self, path: Path) -> None:
        import webdataset  # takes a second, which readers of this package's reports need not spend

        self._file = path.open("wb")
        self._writer = webdataset.TarWriter(
            self._file, user="", group="", mode=0o444, mtime=0, compress=False, encoder=False
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._naming_errors():
            try:
                self._writer.close()
            finally:
                self._file.close()

    def add(self, name: str, data: bytes) -> int:
        """Append a member (a name of at most 100 ASCII characters); returns the offset of its first byte.

        Raises StorageError when the disk is full.
        """
        key, _, extension = name.partition(".")
        with self._naming_errors():
            self._writer.write({"__key__": key, extension: data})
        blocks = -(-len(data) // BLOCKSIZE)
        return int(self._writer.tarstream.offset) - blocks * BLOCKSIZE

    @contextmanager
    def _naming_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"{self._file.name}: cannot spool a tar: {error.strerror}; make room there, or set TMPDIR"
            ) from error
