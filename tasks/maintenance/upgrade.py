"""An archive of format 1 gets its log."""

from codec.errors import ArchiveError
from tasks.archive import format1, layout, log, manifest
from tasks.archive.log import ArchiveHead
from tasks.storage.store import Store


def upgrade(archive: Store) -> ArchiveHead:
    """Say format 2 in archive.json, then write the first record, and return the head; again, it does nothing.

    Nothing else is changed, and killed in between it goes on when it is called again. Commands of releases that know
    no log refuse the archive from the first step on; one that is still at work must be ended before. Raises
    ArchiveError while an erasure is unfinished, which only the release that began it can end.
    """
    head = log.read(archive)
    if head.record:
        return head
    if unfinished := format1.unfinished_erasure(archive):
        raise ArchiveError(f"{archive.uri(unfinished)}: not carried out; finish it with the release that began it")
    where = archive.uri(layout.ARCHIVE)
    document = manifest.from_json(archive.read(layout.ARCHIVE), where)
    if document["format"] != manifest.FORMAT:
        archive.replace(layout.ARCHIVE, manifest.to_json(document | {"format": manifest.FORMAT}))
    log.append(archive, head, "upgrade", head)
    return log.read(archive)
