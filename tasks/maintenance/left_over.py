"""What killed and late commands leave in an archive: objects that nothing names, and that nothing can come to name."""

import enum
import re
from contextlib import suppress

from tasks.archive import format1, layout, report
from tasks.archive.log import ArchiveHead
from tasks.storage.store import ReadOnlyError, Store

SWEPT_AFTER = 7 * 86_400.0
"""Seconds, by the store's clock."""
_LEFT_OVER = re.compile(
    r"runs/\d{6}/(shards/\d{6}-[0-9a-f]{16}(-\d+)?\.tar|report/part-\d{6}(-[0-9a-f]{16})?\.parquet"
    r"|complete(-[0-9a-f]{16})?\.json|manifest-[0-9a-f]{16}\.json|listing-[0-9a-f]{64}\.parquet)"
    r"|tables/(CURRENT\.json|\d+/(claim\.json|rows-\d{6}-[0-9a-f]{16}\.parquet))"
)
"""Names that commands give to what may end as nobody's."""


class Disposition(enum.Enum):
    """What becomes of an object that nothing names."""

    FOREIGN = "nothing names it; remove it if it is not yours"
    AT_WORK = "may be work in progress"
    YOUNG = "left over; an audit that may write removes it when it is seven days old"
    HELD = "left over; kept for the hold on a key of its shard"
    OLD = "removed"


def disposition(archive: Store, head: ArchiveHead, name: str) -> Disposition:
    """What an audit does with an object that a head does not name."""
    if not _LEFT_OVER.fullmatch(name):
        return Disposition.FOREIGN
    if _may_be_at_work(head, name):
        return Disposition.AT_WORK
    if _age(archive, name) < SWEPT_AFTER:
        return Disposition.YOUNG
    return Disposition.HELD if _is_held(archive, head, name) else Disposition.OLD


def _may_be_at_work(head: ArchiveHead, name: str) -> bool:
    """Whether a command that is at work may come to name an object: that of an open run, or of an erasure."""
    if name.startswith(f"{layout.TABLES}/"):
        return name != format1.CURRENT and int(name.split("/")[1]) > head.record
    return head.erasure is not None or layout.run_of(name) not in head.sealed


def _age(archive: Store, name: str) -> float:
    """Seconds since an object was written; none for who has no right to ask the store's clock, by writing to it."""
    with suppress(ReadOnlyError):
        return archive.age(name)
    return 0.0


def _is_held(archive: Store, head: ArchiveHead, name: str) -> bool:
    """Whether a key on hold has a row of the shard that an object was made for."""
    if not head.holds or not re.search(r"^runs/.*/(shards|report)/", name):
        return False
    rows = report.lookup(archive, head.holds)
    shards = set(zip(rows.column("run").to_pylist(), rows.column("shard").to_pylist(), strict=True))
    return (layout.run_of(name), layout.shard_of(name)) in shards
