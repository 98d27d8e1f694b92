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
    "|".join(
        (
            r"runs/\d{6}/shards/\d{6}-[0-9a-f]{16}(-\d+)?\.tar",
            r"runs/\d{6}/report/part-\d{6}(-[0-9a-f]{16})?\.parquet",
            r"runs/\d{6}/complete(-[0-9a-f]{16})?\.json",
            r"runs/\d{6}/manifest-[0-9a-f]{16}\.json",
            r"runs/\d{6}/listing-[0-9a-f]{64}\.parquet",
            r"tables/\d+/rows-\d{6}-[0-9a-f]{16}\.parquet",
            # of format 1
            r"tables/CURRENT\.json",
            r"tables/\d+/claim\.json",
        )
    )
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
    if _is_held(archive, head, name):
        return Disposition.HELD
    return Disposition.OLD


def _may_be_at_work(head: ArchiveHead, name: str) -> bool:
    """Whether a running command may still refer to an object: one of an open run, or of an unfinished erasure."""
    if name.startswith(f"{layout.TABLES}/"):
        if name == format1.CURRENT:
            return False
        # a table is written before the record of its number
        record = int(name.split("/")[1])
        return record > head.record
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
    wanted = {"run": layout.run_of(name), "shard": layout.shard_of(name)}
    return wanted in rows.select(["run", "shard"]).to_pylist()
