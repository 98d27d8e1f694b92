"""Archives created and opened."""

import importlib.metadata

from codec.errors import ArchiveError
from tasks.archive import layout, log, manifest
from tasks.storage.store import NotFoundError, Store


def create(archive: Store) -> None:
    """Make an archive of an empty place, after showing that its store can hold one; an archive is left as it is."""
    if not archive.exists(layout.ARCHIVE):
        foreign = [name for name in archive.children("") if not name.startswith("probe-")]
        if foreign and not archive.exists(layout.ARCHIVE):  # another runner may have made it just now
            raise ArchiveError(f"{archive}: holds {foreign[0]!r} but is no archive; name an empty folder")
        document = {
            "format": manifest.FORMAT,
            "name": archive.url.rstrip("/").rpartition("/")[2],
            "probe": archive.probe(),
            "package_version": importlib.metadata.version("fdcodec"),
        }
        archive.publish(layout.ARCHIVE, manifest.to_json(document))
    log.writable(existing(archive.url))


def existing(url: str) -> Store:
    """The archive at a path or URL; raises ArchiveError where there is none, or one of another format."""
    archive = Store(url)
    try:
        document = archive.read(layout.ARCHIVE)
    except NotFoundError:
        raise ArchiveError(f"{archive}: no archive here; compress-archive makes one") from None
    manifest.from_json(document, archive.uri(layout.ARCHIVE))
    return archive
