"""Upgrades an archive of format 1 by adding a log."""

from codec.errors import ArchiveError
from tasks.archive import format1, layout, log, manifest
from tasks.archive.log import ArchiveHead
from tasks.storage.store import Store


def upgrade(archive: Store) -> ArchiveHead:
    """Sets format 2 in archive.json, then writes the first record, and returns the head. Idempotent.

    Nothing else is changed; after a kill, another call completes the upgrade. Older releases, which do not support the
    log, refuse the archive after the first step; end their running commands before. Raises ArchiveError while an
    erasure is unfinished; only the release that began it can finish it.
    """
    head = log.read(archive)
    if head.record:
        return head
    unfinished = format1.unfinished_erasure(archive)
    if unfinished:
        raise ArchiveError(f"{archive.uri(unfinished)}: unfinished erasure; finish it with the release that began it")
    where = archive.uri(layout.ARCHIVE)
    document = manifest.from_json(archive.read(layout.ARCHIVE), where)
    # first, so that no older release writes next to the log; a call after a kill finds it done
    if document["format"] != manifest.FORMAT:
        archive.replace(layout.ARCHIVE, manifest.to_json(document | {"format": manifest.FORMAT}))
    log.append(archive, head, "upgrade", head)
    return log.read(archive)
