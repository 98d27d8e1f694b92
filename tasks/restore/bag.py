"""Restores into a BagIt bag (RFC 8493): pictures in data/, and manifests with the SHA-256 of every file.

A bag has one selection, stated in its `fdcodec-restore.json`. After a kill, the same call continues with the same
selection, even if runs were added since; a different call is refused. The manifest lists the final files in data/, each
read back. bagit.txt is written last: a folder without it is not a bag.
"""

import dataclasses
import datetime
import hashlib
import importlib.metadata
import itertools
import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from codec.errors import ArchiveError
from tasks.archive import layout, log, manifest
from tasks.archive.log import ArchiveHead
from tasks.restore.stored_file import StoredFile
from tasks.storage.keys import key_of
from tasks.storage.store import NotFoundError, Store, StoredObject, sha256_of

DATA = "data"
BEGUN = "fdcodec-restore.json"
# names from RFC 8493, section 2
DECLARATION = "bagit.txt"
INFO = "bag-info.txt"
MANIFEST = "manifest-sha256.txt"
TAG_MANIFEST = "tagmanifest-sha256.txt"
READERS = 8
"""Number of files read back in parallel."""
_AT_ONCE = 256
"""Number of files whose hashes wait in memory."""


def encoded(path: str) -> str:
    """Encodes a path for a manifest: percent-encodes CR, LF and %, and nothing else (RFC 8493, section 2.1.3)."""
    return path.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


class Bag:
    """A new or continued bag in a folder or at a URL; `as_of` is the last run that it includes."""

    def __init__(
        self,
        archive: Store,
        target: str,
        keys: Sequence[str] | None,
        *,
        as_of: int | None,
        as_listed: bool,
        kind: str | None,
        groups: bool,
    ) -> None:
        """Raises ArchiveError if the target has other files, or if pictures were forgotten meanwhile."""
        self._target = Store(target)
        head = log.read(archive)
        self.data = Store(f"{self._target.url}/{DATA}").url
        about = manifest.from_json(archive.read(layout.ARCHIVE), archive.uri(layout.ARCHIVE))
        self._asked: dict[str, Any] = {
            "format": manifest.FORMAT,
            "archive": about.get("name", ""),
            "as_of": as_of,
            "as_listed": as_listed,
            "kind": kind or "png",
            "groups": groups,
            "keys_sha256": None if keys is None else _hash_of(keys),
            "erasures": head.erasures,
        }
        where = self._target.uri(BEGUN)
        try:
            begun = manifest.from_json(self._target.read(BEGUN), where, remedy="choose an empty folder for the bag")
        except NotFoundError:
            self._start(archive, head)
        else:
            self._go_on(begun, as_of)
        self.as_of: int = self._asked["as_of"]

    def _start(self, archive: Store, head: ArchiveHead) -> None:
        """Sets the last run of a new bag. It is stated, so that runs added later do not change the bag."""
        other = self._target.children("")
        if other:
            raise ArchiveError(f"{self._target}: not empty ({other[0]!r}); choose an empty folder for a bag") from None
        if self._asked["as_of"] is not None:
            return
        if not head.sealed:
            raise ArchiveError(
                f"{archive}: no run is complete yet; a bag needs a complete run; run compress-archive first"
            ) from None
        self._asked["as_of"] = head.sealed[-1]

    def _go_on(self, begun: dict[str, Any], as_of: int | None) -> None:
        """Adopts the run of an unfinished bag, if everything else is unchanged."""
        # the bag may have files of pictures that were forgotten
        if begun.get("erasures") != self._asked["erasures"]:
            raise ArchiveError(
                f"{self._target}: pictures were forgotten since this bag was begun; restore into an empty folder"
            )
        if as_of is None:  # not asked for, so the run that was the last one then
            self._asked["as_of"] = begun.get("as_of")
        other = [name for name, value in self._asked.items() if begun.get(name) != value]
        if other:
            names = ", ".join(other)
            raise ArchiveError(f"{self._target}: this bag was begun with another {names}; choose an empty folder")

    def begin(self) -> None:
        """Marks the target as an unfinished bag."""
        # first: from here on, and until `finish` writes it again, this is no bag
        self._target.remove(DECLARATION)
        self._target.replace(BEGUN, manifest.to_json(self._asked))
        self._target.remove_unfinished()
        if self._target.folder is not None:
            (self._target.folder / DATA).mkdir(exist_ok=True)

    @staticmethod
    def members(members: Iterable[StoredFile]) -> tuple[StoredFile, ...]:
        """Returns members with UTF-8 names, as manifests require; escapes other bytes, and what looks escaped."""
        return tuple(dataclasses.replace(member, target=key_of(member.target)) for member in members)

    def finish(self, not_restored: Sequence[str]) -> None:
        """Writes the tag files. Each line of `not_restored` names a picture missing from the bag, and the reason."""
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / MANIFEST
            files = 0
            octets = 0
            with path.open("w", encoding="utf-8", newline="\n") as lines:
                for item, digest in self._read_back():
                    lines.write(f"{digest}  {encoded(item.name)}\n")
                    files += 1
                    octets += item.size
            self._target.replace(MANIFEST, path)
        info = {
            "Bagging-Date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "Bag-Software-Agent": f"fdcodec {importlib.metadata.version('fdcodec')}",
            "External-Identifier": self._asked["archive"],
            "External-Description": f"pictures of an fdcodec archive as of run {self.as_of}, as {self._asked['kind']}",
            "Payload-Oxum": f"{octets}.{files}",
        }
        fields = list(info.items())
        fields += [("Not-Restored", line) for line in not_restored]
        text = "".join(f"{label}: {encoded(value)}\n" for label, value in fields)
        self._target.replace(INFO, text.encode())
        declaration = b"BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"
        tags = {name: self._target.sha256(name) for name in (INFO, BEGUN, MANIFEST)}
        tags[DECLARATION] = sha256_of(declaration)
        listed = "".join(f"{digest}  {name}\n" for name, digest in sorted(tags.items()))
        self._target.replace(TAG_MANIFEST, listed.encode())
        # last: it makes the folder a bag
        self._target.replace(DECLARATION, declaration)

    def _read_back(self) -> Iterator[tuple[StoredObject, str]]:
        """Yields every file in data/ with the SHA-256 of its stored content."""
        items = self._target.list(DATA)
        with ThreadPoolExecutor(READERS) as pool:
            while some := list(itertools.islice(items, _AT_ONCE)):
                names = [item.name for item in some]
                digests = pool.map(self._target.sha256, names)
                yield from zip(some, digests, strict=True)


def _hash_of(keys: Sequence[str]) -> str:
    """Identifies a selection of keys, in any order."""
    return hashlib.sha256(json.dumps(sorted(set(keys))).encode()).hexdigest()
