"""Tars that WebDataset reads and whose bytes depend on their members alone."""

import io
import tarfile
from pathlib import Path
from typing import Self


class Tar:
    """A tar being written to a local file: owner, mode and time fixed, members in the order they are added."""

    def __init__(self, path: Path) -> None:
        self._tar = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115  # closed by __exit__

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._tar.close()

    def add(self, name: str, data: bytes) -> int:
        """Append a member (a name of at most 100 ASCII characters); returns the offset of its first byte."""
        member = tarfile.TarInfo(name)
        member.size = len(data)
        member.mode = 0o444
        offset = self._tar.offset + tarfile.BLOCKSIZE
        self._tar.addfile(member, io.BytesIO(data))
        return offset
