"""Creates and opens archives. Readers never write; writers first check that the store supports exclusive creation.

The probe result of a store is kept in places/<hash>.json, by the hash of the archive's address, endpoint and server.
A copy of the archive has a different address, and an updated store may report a different release: both are probed
again. archive.json cannot hold the result: it is never replaced, and is equal in all copies. A probe takes twenty
requests; reading its result takes two.
"""

import hashlib
import importlib.metadata
import logging
import secrets
from typing import Any

from codec.errors import ArchiveError
from tasks.archive import layout, manifest
from tasks.storage import errors, probe
from tasks.storage.probe import NotExclusiveError
from tasks.storage.store import NotFoundError, Store

LOGGER = logging.getLogger(__name__)


def create(archive: Store, *, single_writer: bool = False) -> None:
    """Creates an archive in an empty location, after probing its store. Leaves an existing archive unchanged.

    Either way, the archive is then ready for writing (see `prepare`).
    """
    try:
        existing(archive.url)
    except NoArchiveError:
        pass
    else:
        prepare(archive, single_writer=single_writer)
        return
    _check_empty(archive)
    about = _tried(archive, probe.FIRST, single_writer=single_writer)
    document = {
        "format": manifest.FORMAT,
        "digest": manifest.DIGEST,
        "name": archive.url.rstrip("/").rpartition("/")[2],
        "probe": about["probe"],
        "package_version": importlib.metadata.version("fdcodec"),
    }
    if about["single_writer"]:
        _claim(archive)
    archive.publish(layout.ARCHIVE, manifest.to_json(document))
    existing(archive.url)  # raises if another runner, of another release, created it first
    if archive.folder is None:
        archive.publish(_about_store(archive), manifest.to_json(about))


def _check_empty(archive: Store) -> None:
    """Raises ArchiveError if the location has files that no runner of this package puts there."""
    # A killed runner may leave objects of its probe, and the claim is written before archive.json.
    names = archive.children("")
    foreign = [name for name in names if not name.startswith("probe-") and name != layout.PLACES]
    if foreign and not archive.exists(layout.ARCHIVE):  # another runner may have created it just now
        raise ArchiveError(f"{archive}: is not an fdcodec archive (it contains {foreign[0]!r}); choose an empty folder")


class NoArchiveError(ArchiveError):
    """There is no archive at a location."""


def existing(url: str) -> Store:
    """Opens the archive at a path or URL.

    Raises ArchiveError if there is none, or if its format or hash algorithm is unsupported. Archives that do not state
    the algorithm use SHA-256.
    """
    archive = Store(url)
    where = archive.uri(layout.ARCHIVE)
    try:
        document = manifest.from_json(archive.read(layout.ARCHIVE), where)
    except NotFoundError:
        raise NoArchiveError(f"{archive}: no archive here; compress-archive creates one") from None
    digest = document.get("digest", manifest.DIGEST)
    if digest != manifest.DIGEST:
        raise ArchiveError(
            f"{where}: digest {digest!r}, but this release knows {manifest.DIGEST!r} alone; use a newer release of "
            "fdcodec"
        )
    return archive


def writable(url: str) -> Store:
    """Opens an archive for writing."""
    archive = existing(url)
    prepare(archive)
    return archive


def prepare(archive: Store, *, single_writer: bool = False) -> None:
    """Checks, before anything is written, that the store supports exclusive creation; raises NotExclusiveError.

    If it does not, and the owner once set `single_writer`, this writer leaves a claim and reads it back before each
    commit. Local folders are not probed: there each creation fails unless it is exclusive.
    """
    if archive.folder is not None:
        return
    name = _about_store(archive)
    try:
        about = manifest.from_json(archive.read(name), archive.uri(name), remedy="remove it")
    except NotFoundError:
        about = _tried(archive, probe.AGAIN, single_writer=single_writer)
        if about["single_writer"]:
            _claim(archive)
        archive.publish(name, manifest.to_json(about))
    else:
        if about["single_writer"]:
            _claim(archive)


def _about_store(archive: Store) -> str:
    identity = archive.identity().encode()
    return layout.store_record(hashlib.sha256(identity).hexdigest())


def _tried(archive: Store, rounds: int, *, single_writer: bool) -> dict[str, Any]:
    """Probes a store; returns the document for its probe result. Raises NotExclusiveError."""
    about: dict[str, Any] = {"format": manifest.FORMAT, "place": errors.without_secrets(archive.identity())}
    try:
        return about | {"probe": probe.probe(archive, rounds), "single_writer": False}
    except NotExclusiveError:
        if not single_writer:
            raise
        return about | {"probe": "one writer at a time, as declared by the owner", "single_writer": True}


def _claim(archive: Store) -> None:
    LOGGER.warning(
        "%s: this store cannot keep two writers apart. A second writer is detected before the next commit, but not "
        "kept out, and what both wrote until then may be damaged: run one command at a time.",
        archive,
    )
    # Random, so that a second process of the same host or user is told apart too.
    token = secrets.token_hex(16)
    archive.replace(layout.CLAIM, token.encode())
    archive.claim(layout.CLAIM, token)
