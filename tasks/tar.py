"""Tars that WebDataset reads and whose bytes depend on their members alone."""

import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from tasks.storage import StorageError


class Tar:
    """A tar being written to a local file: owner, mode and time fixed, members in the order they are added."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115  # closed by __exit__

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._naming_errors():
            self._writer.close()

    def add(self, name: str, data: bytes) -> int:
        """Append a member (a name of at most 100 ASCII characters); returns the offset of its first byte.

        Raises StorageError when the disk is full.
        """
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(data), 0o444
        with self._naming_errors():
            self._writer.addfile(member, io.BytesIO(data))
        blocks = -(-len(data) // tarfile.BLOCKSIZE)
        return self._writer.offset - blocks * tarfile.BLOCKSIZE

    @contextmanager
    def _naming_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"{self._path}: cannot spool a tar: {error.strerror}; make room there, or set TMPDIR"
            ) from error
