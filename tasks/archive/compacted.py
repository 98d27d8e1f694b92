"""tables/CURRENT.json: which files hold the compacted report of the sealed runs now, and the keys that each has."""

import dataclasses
from dataclasses import dataclass

from codec.errors import ArchiveError
from tasks.archive import layout, manifest
from tasks.storage.store import NotFoundError, Store


@dataclass(frozen=True)
class File:
    """A file of a compacted report: its rows are sorted by key and run, from key `first` to key `last`."""

    name: str
    size: int
    sha256: str
    rows: int
    first: str
    last: str


@dataclass(frozen=True)
class Table:
    """One generation of the compacted report, of all rows of runs 1 to `runs`; generation 0 has none."""

    generation: int = 0
    runs: int = 0
    files: tuple[File, ...] = ()

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return sum(file.rows for file in self.files)

    def to_bytes(self) -> bytes:
        """The JSON document."""
        return manifest.to_json({"format": manifest.FORMAT, **dataclasses.asdict(self)})


def current(archive: Store) -> Table:
    """The generation that holds now, by one request; generation 0 where nothing was compacted."""
    try:
        data = archive.read(layout.CURRENT)
    except NotFoundError:
        return Table()
    where = archive.uri(layout.CURRENT)
    remedy = "remove it and compact the archive again"
    document = manifest.from_json(data, where, remedy=remedy)
    try:
        files = tuple(File(**file) for file in document["files"])
        return Table(int(document["generation"]), int(document["runs"]), files)
    except (TypeError, KeyError, ValueError) as error:
        raise ArchiveError(f"{where}: damaged; {remedy}") from error
