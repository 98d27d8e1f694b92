"""Holds: protect keys from being forgotten, for example to comply with the law."""

from dataclasses import replace

from codec.errors import ArchiveError, SettingsError
from tasks.archive import erasing, log, report
from tasks.storage.store import Store


def hold(archive: Store, key: str, reason: str) -> None:
    """Puts a key on hold. Raises SettingsError without a reason, ArchiveError for a key that the archive does not keep.

    A second call replaces the reason.
    """
    if not reason.strip():
        raise SettingsError("a hold requires a reason, which the archive records; give one")
    while True:
        head = erasing.finish(archive)
        rows = report.lookup(archive, [key])
        if not set(rows.column("status").to_pylist()) & {"fallback", "compressed"}:
            raise ArchiveError(f"{archive}: has no picture under the key {key!r}; query the report for keys")
        after = replace(head, holds={**head.holds, key: reason.strip()})
        # fails if another record came first, such as the erasure of this key: then all is decided again
        if log.append(archive, head, "hold", after, key=key, reason=reason.strip()):
            return


def release(archive: Store, key: str) -> None:
    """Releases the hold of a key; raises ArchiveError if the key is not on hold."""
    while True:
        head = erasing.finish(archive)
        if key not in head.holds:
            raise ArchiveError(f"{archive}: {key!r} is not on hold; `status` lists the keys on hold")
        after = replace(head, holds={name: reason for name, reason in head.holds.items() if name != key})
        if log.append(archive, head, "release", after, key=key):
            return
