"""The rows of all sealed runs gathered in one table, which seals do only as it pays."""

from dataclasses import replace

from tasks.archive import erasing, tables
from tasks.archive.log import ArchiveHead
from tasks.storage.store import Store


def compact(archive: Store, *, afresh: bool = False) -> ArchiveHead:
    """Put one table of all sealed runs in force and return the head; an archive that has just that is left as it is.

    `afresh` reads every part instead of the tables that there are. Killed anywhere, what was in force stays.
    """
    while True:
        head = erasing.finish(archive)
        last = len(head.sealed)
        if not last or (not afresh and len(head.tables) == 1 and head.tabled == last):
            return head
        after = replace(head, tables=tables.whole(archive, head, afresh=afresh))
        if (compacted := tables.retire(archive, head, after, "compact")) is not None:
            return compacted
