"""Finds and deletes bucket versions of erased objects; erasure is complete only without them."""

from tasks.archive import layout, log, manifest
from tasks.storage.store import Store


def remaining(archive: Store) -> dict[str, list[str]]:
    """Returns, by name, the ids of versions that the store keeps of objects that erasures removed or replaced.

    Raises StorageError if the store does not list versions. Reads the whole log, unlike other commands.
    """
    old = {name: archive.old_versions(name) for name in _removed(archive)} if archive.has_etags else {}
    return {name: versions for name, versions in old.items() if versions}


def purge(archive: Store, found: dict[str, list[str]]) -> None:
    """Deletes versions permanently; raises StorageError if the bucket must retain one."""
    for name, versions in found.items():
        for version in versions:
            archive.remove_version(name, version)


def _removed(archive: Store) -> list[str]:
    names: list[str] = []
    has_redacted = False
    head = log.read(archive)
    for number in range(1, head.record + 1) if head.erasures else ():
        name = layout.record(number)
        document = manifest.from_json(archive.read(name), archive.uri(name))
        if document["kind"] == "rewritten":
            names += document["head"]["erasure"]["remove"]
            has_redacted = has_redacted or document["head"]["erasure"].get("redacted", False)
    if has_redacted:
        names += map(layout.record, range(1, head.record + 1))
        names += [f"{layout.AUDITS}/{name}" for name in archive.children(layout.AUDITS)]
    return names
