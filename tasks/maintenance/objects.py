"""Checks the objects of an archive, and repairs them from a mirror."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from tasks.archive import erasing, layout, log
from tasks.archive.log import ArchiveHead
from tasks.maintenance.checks import Wrong
from tasks.maintenance.findings import Findings
from tasks.storage.store import NotFoundError, StorageError, Store


@dataclass(kw_only=True)
class Objects:
    """`objects` has the sizes of existing objects by name, `named` the referenced names.

    `head` is the head at the start of the audit. A damaged or missing object is replaced by the mirror's object, if
    there is a mirror and its object is valid.
    """

    archive: Store
    mirror: Store | None
    scratch: Path
    notes: Findings
    objects: dict[str, int] = field(default_factory=dict)
    named: set[str] = field(default_factory=set)
    head: ArchiveHead = field(default_factory=ArchiveHead)
    fetched: tuple[str, str] = ("", "")

    def check(self, name: str, wrong: Wrong) -> bool:
        """Records whether an object is valid or was repaired; returns False if it is neither."""
        self.named.add(name)
        problem = self.problem(self.archive, name, wrong)
        if problem is None or self.was_replaced(name):
            self.notes.add(name)
            return problem is None
        repaired = self.repair(name, wrong)
        self.notes.add(name, *problem, repaired=repaired)
        return repaired

    def was_replaced(self, name: str) -> bool:
        """Whether an erasure or a compaction replaced an object since the audit began."""
        if log.number(self.archive) == self.head.record or not self.head.record:
            return False
        return not self.is_in_force(log.read(self.archive), name)

    def problem(self, store: Store, name: str, wrong: Wrong) -> tuple[str, str] | None:
        try:
            detail = wrong(self.local(store, name))
        except (NotFoundError, FileNotFoundError):
            return "missing", "nothing is stored here"
        if not detail:
            return None
        return "damaged", detail

    def repair(self, name: str, wrong: Wrong) -> bool:
        """Replaces a missing or damaged object by the mirror's, if that is valid."""
        if self.mirror is None or self.problem(self.mirror, name, wrong) is not None:
            return False
        copy = self.local(self.mirror, name)
        try:
            self.archive.replace(name, copy)  # in one step: the rest of a damaged tar stays until the copy is complete
            now = log.read(self.archive)
            if now.erasures != self.head.erasures and not self.is_in_force(now, name):
                self.archive.remove(name)  # an erasure replaced it meanwhile; it must not reappear
                return True
        except StorageError as error:
            self.notes.add(name, "damaged", f"cannot be repaired: {error}")
            return False
        self.fetched = ("", "")
        self.objects[name] = copy.stat().st_size
        return True

    def is_in_force(self, head: ArchiveHead, name: str) -> bool:
        """Whether a head still names an object; only objects of runs and tables are ever erased."""
        if not name.startswith((f"{layout.RUNS}/", f"{layout.TABLES}/")):
            return True
        return erasing.in_force(self.archive, head, name)

    def local(self, store: Store, name: str) -> Path:
        """Returns a local file with the content of an object, cached until the next object is requested."""
        if store.folder is not None:
            return store.folder / name
        path = self.scratch / "object"
        if self.fetched != (store.url, name):
            self.fetched = ("", "")  # in case the copy fails half-way
            with store.open(name) as source, path.open("wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
            self.fetched = (store.url, name)
        return path
