"""tables/CURRENT.json: which files hold the compacted report of the sealed runs now, and the keys that each has."""

import dataclasses
from dataclasses import dataclass

from codec.errors import ArchiveError
from tasks.archive import erasures, layout, manifest
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
    """One generation of the compacted report, of all rows of runs 1 to `runs`; generation 0 has none.

    `erasures` is the number of the last erasure when it was made, None in format 1: after another one it says nothing.
    """

    generation: int = 0
    runs: int = 0
    files: tuple[File, ...] = ()
    erasures: int | None = None

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return sum(file.rows for file in self.files)

    def to_bytes(self) -> bytes:
        """The JSON document."""
        return manifest.to_json({"format": manifest.FORMAT, **dataclasses.asdict(self)})


def current(archive: Store) -> Table:
    """The generation that holds now, by two requests; generation 0 where nothing was compacted since the last erasure.

    A compaction that ran beside an erasure may be named later than the tables that the erasure made: it has rows as
    they were before, of tars that are no more.
    """
    table = named(archive)
    return table if table.erasures in (None, erasures.last(archive)) else Table()


def named(archive: Store) -> Table:
    """The generation that tables/CURRENT.json names, whether or not it still holds."""
    try:
        data = archive.read(layout.CURRENT)
    except NotFoundError:
        return Table()
    where = archive.uri(layout.CURRENT)
    remedy = "remove it and compact the archive again"
    document = manifest.from_json(data, where, remedy=remedy)
    try:
        files = tuple(File(**file) for file in document["files"])
        erased = document.get("erasures")
        return Table(int(document["generation"]), int(document["runs"]), files, None if erased is None else int(erased))
    except (TypeError, KeyError, ValueError) as error:
        raise ArchiveError(f"{where}: damaged; {remedy}") from error
