"""The objects of an archive that is audited: each held against what it should be, and put right from a mirror."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tasks.archive import erasing, layout, log
from tasks.archive.log import ArchiveHead
from tasks.maintenance.findings import Findings
from tasks.storage.store import NotFoundError, StorageError, Store

Wrong = Callable[[Path], str]
"""What is wrong with a file, in one line; empty if nothing is."""


@dataclass(kw_only=True)
class Objects:
    """`objects` has the sizes of those that there are, `named` the names that something leads to.

    `head` is that of the archive when the audit began. What is damaged or missing is replaced by the mirror's object,
    if there is a mirror and that object is in order.
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
        """Note whether an object is in order, and whether it was put in order; False if it is not."""
        self.named.add(name)
        problem = self.problem(self.archive, name, wrong)
        if problem is None or self.was_replaced(name):
            self.notes.add(name)
            return problem is None
        repaired = self.repair(name, wrong)
        self.notes.add(name, *problem, repaired=repaired)
        return repaired

    def was_replaced(self, name: str) -> bool:
        """Whether an object went out of force since the audit began, by an erasure or a compaction beside it."""
        if log.number(self.archive) == self.head.record or not self.head.record:
            return False
        return not self.is_in_force(log.read(self.archive), name)

    def problem(self, store: Store, name: str, wrong: Wrong) -> tuple[str, str] | None:
        try:
            detail = wrong(self.local(store, name))
        except (NotFoundError, FileNotFoundError):
            return "missing", "nothing is stored here"
        return ("damaged", detail) if detail else None

    def repair(self, name: str, wrong: Wrong) -> bool:
        """Put the mirror's object in place of a missing or damaged one, if that is in order."""
        if self.mirror is None or self.problem(self.mirror, name, wrong) is not None:
            return False
        copy = self.local(self.mirror, name)
        try:
            self.archive.replace(name, copy)  # in one step: what is left of a damaged tar stays until the copy stands
            now = log.read(self.archive)
            if now.erasures != self.head.erasures and not self.is_in_force(now, name):
                self.archive.remove(name)  # an erasure replaced it meanwhile: it must not come back
                return True
        except StorageError as error:
            self.notes.add(name, "damaged", f"cannot be repaired: {error}")
            return False
        self.fetched = ("", "")
        self.objects[name] = copy.stat().st_size
        return True

    def is_in_force(self, head: ArchiveHead, name: str) -> bool:
        """Whether a head still has an object; others than those of runs and tables are not erased."""
        return not name.startswith((f"{layout.RUNS}/", f"{layout.TABLES}/")) or erasing.in_force(
            self.archive, head, name
        )

    def local(self, store: Store, name: str) -> Path:
        """A local file with the content of an object, fetched once until the next object is asked for."""
        if store.folder is not None:
            return store.folder / name
        path = self.scratch / "object"
        if self.fetched != (store.url, name):
            self.fetched = ("", "")
            with store.open(name) as source, path.open("wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
            self.fetched = (store.url, name)
        return path
