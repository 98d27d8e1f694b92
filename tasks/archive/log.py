"""The log of an archive, and its head: the current state, which each record states completely.

Each change of state appends a record. Its number is the highest record number plus one, and it is created exclusively,
so each append is a compare-and-swap on the head that it was computed from. A command that loses reads the new head and
decides again. There are no leases and no clocks. An archive of format 1 has no log: its head is derived from its
objects, and `upgrade` writes the first record.
"""

import dataclasses
import importlib.metadata
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from codec.errors import ArchiveError
from tasks.archive import format1, layout, manifest
from tasks.archive.index_files import IndexFile
from tasks.archive.manifest import Manifest
from tasks.storage.store import Store

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TableFile(IndexFile):
    """A table file. Its rows are sorted by key and run, from key `first` to key `last`."""

    rows: int
    first: str
    last: str


@dataclass(frozen=True)
class Table:
    """The rows of the consecutive runs `first_run` to `last_run`, and listing entries (see tasks.archive.tables).

    A table of format 1 has no `listed`.
    """

    first_run: int
    last_run: int
    files: tuple[TableFile, ...] = ()
    listed: tuple[TableFile, ...] = ()

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(file.rows for file in self.files)


@dataclass(frozen=True)
class Erasure:
    """An unfinished erasure.

    Before the rewritten objects are in force, `tars` has the offsets of the members to cut from each tar, and `parts`
    the parts with rows to change. Afterwards, `remove` has the replaced names. `number` is the record that began the
    erasure; `rows` counts the rows that become tombstones. If `redacted`, `keys` are pseudonyms of the keys, and
    `listings` are the runs whose listings name them.
    """

    number: int
    rows: int
    keys: tuple[str, ...] = ()
    tars: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    parts: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    redacted: bool = False
    listings: tuple[int, ...] = ()


@dataclass(frozen=True)
class ArchiveHead:
    """The state of an archive after record number `record` (0 without a log).

    Runs 1 to `runs` were opened; `opened` names the manifest of the last run while it is open. `seals` names rewritten
    seals. `tables` cover the rows of runs 1 to `tabled` without a gap. `retired` are table files that this record
    replaced; readers may still use them, so the next change of tables removes them. `erasures` counts all erasures.
    """

    record: int = 0
    runs: int = 0
    opened: str = ""
    seals: Mapping[int, str] = field(default_factory=dict)
    tables: tuple[Table, ...] = ()
    retired: tuple[str, ...] = ()
    erasures: int = 0
    erasure: Erasure | None = None
    holds: Mapping[str, str] = field(default_factory=dict)

    @property
    def open_run(self) -> int | None:
        """The open run."""
        return self.runs if self.opened else None

    @property
    def sealed(self) -> range:
        """The sealed runs."""
        last = self.runs - 1 if self.opened else self.runs
        return range(1, last + 1)

    @property
    def tabled(self) -> int:
        """The last run with its rows in a table."""
        if not self.tables:
            return 0
        return self.tables[-1].last_run

    def seal(self, run: int) -> str:
        """The name of the seal of a run."""
        return self.seals.get(run, layout.seal(run))


def read(archive: Store) -> ArchiveHead:
    """Reads the current head; raises ArchiveError for a damaged record."""
    last = number(archive)
    if not last:
        return without_log(archive)
    name = layout.record(last)
    document = manifest.from_json(archive.read(name), archive.uri(name), remedy=REMEDY)
    try:
        # The document's own hash does not cover its name: a copy of an older record would bring back an older state.
        if document["record"] != last:
            raise ValueError(f"is record {document['record']}")
        return _head(document["head"], last)
    except (TypeError, KeyError, ValueError) as error:
        raise ArchiveError(f"{archive.uri(name)}: damaged: {error}; {REMEDY}") from error


REMEDY = "audit the archive with --repair-from a mirror"


def number(archive: Store) -> int:
    """Returns the number of the last record, or 0 without records, with two requests."""
    folders = [int(name) for name in archive.children(layout.LOG) if name.isdecimal()]
    if not folders:
        return 0
    names = archive.children(layout.records(max(folders)))
    stems = [name.removesuffix(".json") for name in names]
    numbers = [int(stem) for stem in stems if stem.isdecimal()]  # foreign files are passed over
    return max(numbers, default=0)


def writable(archive: Store) -> ArchiveHead:
    """Returns the head for a command that will change it; creates the first record of an empty archive.

    Raises ArchiveError for an archive of format 1.
    """
    while True:
        head = read(archive)
        if head.record:
            return head
        if head.runs:
            raise ArchiveError(f"{archive}: format 1 is read-only; run `python -m flows.archive upgrade`")
        # The result does not matter: if another command wrote the first record, the next round reads that one.
        append(archive, head, "create", head)


def append(archive: Store, head: ArchiveHead, kind: str, after: ArchiveHead, **about: Any) -> bool:
    """Puts a state in force unless the head has changed since; returns whether it did."""
    after = replace(after, record=head.record + 1)
    document = {
        "format": manifest.FORMAT,
        "record": after.record,
        "kind": kind,
        "about": about,
        "head": _document(after),
        "package_version": importlib.metadata.version("fdcodec"),
    }
    stands = archive.publish(layout.record(after.record), manifest.to_json(document))
    if not stands:
        LOGGER.info("%s: another command wrote record %d first; reading the new head", archive, after.record)
    return stands


def plan(archive: Store, head: ArchiveHead, run: int) -> Manifest:
    """Reads the manifest of a run; raises NotFoundError, ArchiveError."""
    if run == head.open_run:
        name = head.opened
    else:
        name = manifest_of(seal(archive, head, run), run)
    return Manifest.from_bytes(archive.read(name), archive.uri(name))


def seal(archive: Store, head: ArchiveHead, run: int) -> dict[str, Any]:
    """Reads the seal of a run; raises NotFoundError, ArchiveError."""
    name = head.seal(run)
    return manifest.from_json(archive.read(name), archive.uri(name), remedy=REMEDY)


def manifest_of(seal: Mapping[str, Any], run: int) -> str:
    """Returns the name of the manifest in a seal; format 1 has one fixed name."""
    return str(seal["manifest"].get("name", layout.manifest_of_format_1(run)))


def without_log(archive: Store) -> ArchiveHead:
    """Derives the head of an archive without a log from its objects; empty for a new archive."""
    found = format1.state(archive)
    tables = tuple(_table(table) for table in found.pop("tables"))
    return ArchiveHead(tables=tables, **found)


def _document(head: ArchiveHead) -> dict[str, Any]:
    document = dataclasses.asdict(head)
    document["seals"] = {str(run): name for run, name in head.seals.items()}  # keys of JSON are strings
    del document["record"]
    return document


def _head(document: dict[str, Any], record: int) -> ArchiveHead:
    document = dict(document)
    erasure = document.pop("erasure")
    if erasure is not None:
        erasure = Erasure(
            number=int(erasure["number"]),
            rows=int(erasure["rows"]),
            keys=tuple(erasure["keys"]),
            tars={tar: tuple(offsets) for tar, offsets in erasure["tars"].items()},
            parts=tuple(erasure["parts"]),
            remove=tuple(erasure["remove"]),
            redacted=bool(erasure.get("redacted", False)),
            listings=tuple(erasure.get("listings", ())),
        )
    return ArchiveHead(
        record=record,
        seals={int(run): name for run, name in document.pop("seals").items()},
        tables=tuple(_table(table) for table in document.pop("tables")),
        retired=tuple(document.pop("retired")),
        erasure=erasure,
        **document,
    )


def _table(document: Mapping[str, Any]) -> Table:
    files = tuple(TableFile(**file) for file in document.get("files", ()))
    listed = tuple(TableFile(**file) for file in document.get("listed", ()))
    return Table(int(document["first_run"]), int(document["last_run"]), files, listed)
