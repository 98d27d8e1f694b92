"""Classifies unreferenced objects, such as leftovers of killed and late commands."""

import enum
import re
from contextlib import suppress

from tasks.archive import format1, layout, report
from tasks.archive.log import ArchiveHead
from tasks.storage.store import ReadOnlyError, Store

SWEPT_AFTER = 7 * 86_400.0
"""Age in seconds, by the store's clock, at which the audit removes leftovers."""
_LEFT_OVER = re.compile(
    r"runs/\d{6}/(shards/\d{6}-[0-9a-f]{16}(-\d+)?\.tar|report/part-\d{6}(-[0-9a-f]{16})?\.parquet"
    r"|complete(-[0-9a-f]{16})?\.json|manifest-[0-9a-f]{16}\.json|listing-[0-9a-f]{64}\.parquet)"
    r"|tables/(CURRENT\.json|\d+/(claim\.json|rows-\d{6}-[0-9a-f]{16}\.parquet))"
)
"""Names of objects that commands write and that may remain unreferenced."""


class Disposition(enum.Enum):
    """What an audit does with an unreferenced object."""

    FOREIGN = "not part of the archive; remove it if you do not need it"
    AT_WORK = "may be work in progress"
    YOUNG = "left over; an audit with write access removes it after seven days"
    HELD = "left over; kept because a key of its shard is on hold"
    OLD = "removed"


def disposition(archive: Store, head: ArchiveHead, name: str) -> Disposition:
    """Decides what an audit does with an object that the head does not name."""
    if not _LEFT_OVER.fullmatch(name):
        return Disposition.FOREIGN
    if _may_be_at_work(head, name):
        return Disposition.AT_WORK
    if _age(archive, name) < SWEPT_AFTER:
        return Disposition.YOUNG
    return Disposition.HELD if _is_held(archive, head, name) else Disposition.OLD


def _may_be_at_work(head: ArchiveHead, name: str) -> bool:
    """Whether a running command may still refer to an object: one of an open run, or of an unfinished erasure."""
    if name.startswith(f"{layout.TABLES}/"):
        return name != format1.CURRENT and int(name.split("/")[1]) > head.record
    return head.erasure is not None or layout.run_of(name) not in head.sealed


def _age(archive: Store, name: str) -> float:
    """Returns the age of an object in seconds; 0 without write access, which reading the store's clock needs."""
    with suppress(ReadOnlyError):
        return archive.age(name)
    return 0.0


def _is_held(archive: Store, head: ArchiveHead, name: str) -> bool:
    """Whether a key on hold has a row in the shard of an object."""
    if not head.holds or not re.search(r"^runs/.*/(shards|report)/", name):
        return False
    rows = report.lookup(archive, head.holds)
    shards = set(zip(rows.column("run").to_pylist(), rows.column("shard").to_pylist(), strict=True))
    return (layout.run_of(name), layout.shard_of(name)) in shards
