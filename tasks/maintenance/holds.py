"""Holds: keys that are not to be forgotten, as a law may ask too."""

from dataclasses import replace

from codec.errors import ArchiveError, SettingsError
from tasks.archive import erasing, log, report
from tasks.storage.store import Store


def hold(archive: Store, key: str, reason: str) -> None:
    """Put a key on hold; raises SettingsError without a reason, ArchiveError for a key that the archive does not keep.

    Holding it again gives it the new reason.
    """
    if not reason.strip():
        raise SettingsError("a key is put on hold for a reason: give one, it is kept in the archive")
    while True:
        head = erasing.finish(archive)
        rows = report.lookup(archive, [key])
        if not set(rows.column("status").to_pylist()) & {"fallback", "compressed"}:
            raise ArchiveError(f"{archive}: keeps no picture under the key {key!r}; query the report for keys")
        after = replace(head, holds={**head.holds, key: reason.strip()})
        if log.append(archive, head, "hold", after, key=key, reason=reason.strip()):
            return


def release(archive: Store, key: str) -> None:
    """End the hold of a key; raises ArchiveError for one that is not on hold."""
    while True:
        head = erasing.finish(archive)
        if key not in head.holds:
            raise ArchiveError(f"{archive}: {key!r} is not on hold; `status` lists the keys that are")
        after = replace(head, holds={name: reason for name, reason in head.holds.items() if name != key})
        if log.append(archive, head, "release", after, key=key):
            return
