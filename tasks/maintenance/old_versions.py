"""Finds and deletes bucket versions of erased objects; erasure is complete only without them."""

from tasks.archive import layout, log, manifest
from tasks.storage.store import Store


def remaining(archive: Store) -> dict[str, list[str]]:
    """Returns, by name, the ids of versions that the store keeps of objects that erasures removed or replaced.

    Raises StorageError if the store does not list versions. Reads the whole log, unlike other commands.
    """
    if not archive.has_etags:  # no bucket, so no versions
        return {}
    found = {}
    for name in _removed(archive):
        versions = archive.old_versions(name)
        if versions:
            found[name] = versions
    return found


def purge(archive: Store, found: dict[str, list[str]]) -> None:
    """Deletes versions permanently; raises StorageError if the bucket must retain one."""
    for name, versions in found.items():
        for version in versions:
            archive.remove_version(name, version)


def _removed(archive: Store) -> list[str]:
    names: list[str] = []
    has_redacted = False
    head = log.read(archive)
    if not head.erasures:
        return []
    for number in range(1, head.record + 1):
        name = layout.record(number)
        document = manifest.from_json(archive.read(name), archive.uri(name))
        if document["kind"] == "rewritten":
            erasure = document["head"]["erasure"]
            names += erasure["remove"]
            if erasure.get("redacted", False):
                has_redacted = True
    # a redaction replaced records and findings of audits that had the key, under their old names
    if has_redacted:
        names += [layout.record(number) for number in range(1, head.record + 1)]
        names += [f"{layout.AUDITS}/{name}" for name in archive.children(layout.AUDITS)]
    return names
