"""Compacts the rows of all sealed runs into one table; seals alone merge tables only partly."""

from dataclasses import replace

from tasks.archive import erasing, tables
from tasks.archive.log import ArchiveHead
from tasks.storage.store import Store


def compact(archive: Store, *, afresh: bool = False) -> ArchiveHead:
    """Puts one table of all sealed runs in force and returns the head; does nothing if there already is just one.

    `afresh` reads all parts instead of the existing tables. If it is killed, the previous tables stay in force.
    """
    while True:
        head = erasing.finish(archive)
        last = len(head.sealed)
        if not last or (not afresh and len(head.tables) == 1 and head.tabled == last):
            return head
        after = replace(head, tables=tables.whole(archive, head, afresh=afresh))
        compacted = tables.retire(archive, head, after, "compact")
        if compacted is not None:  # else another record came first, and the tables are built from the new head
            return compacted
