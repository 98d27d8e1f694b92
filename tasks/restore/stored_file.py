"""A stored file in a tar of an archive: where it lies, its bytes checked, and what it decodes to."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from codec.errors import ArchiveError
from tasks.processes.child import Child, ChildDied
from tasks.processes.requests import Decode
from tasks.storage.store import Store

SECONDS = 1800.0
LARGE = 1 << 28
"""Bytes above which a file that comes back as it is goes through a disk instead of memory."""
FILM = "MP4"
"""The source_format of a member that is a film."""


@dataclass(frozen=True)
class StoredFile:
    """A stored file and the name, relative to the target, that its picture, or its film, gets."""

    key: str
    target: str
    tar: str
    offset: int
    length: int
    sha256: str
    codec: str
    source_format: str | None
    width: int | None
    height: int | None
    bundle_id: str
    source_modified_at: int | None = None
    film_offset: int | None = None
    film_length: int | None = None
    film_sha256: str | None = None

    @property
    def film(self) -> "StoredFile | None":
        """The film beside a picture, as a file that comes back as it is, under the picture's target."""
        if self.film_offset is None or self.film_length is None or self.film_sha256 is None:
            return None
        return replace(
            self,
            codec="original",  # its bytes are the source's own, which nothing decodes
            source_format=FILM,
            offset=self.film_offset,
            length=self.film_length,
            sha256=self.film_sha256,
            film_offset=None,
            film_length=None,
            film_sha256=None,
            width=None,
            height=None,
        )


def read_member(archive: Store, member: StoredFile) -> bytes:
    """A stored file by one range request, checked against its hash; raises ArchiveError."""
    data = archive.read_range(member.tar, member.offset, member.length)
    if hashlib.sha256(data).hexdigest() != member.sha256:
        raise _damaged(archive, member)
    return data


def _damaged(archive: Store, member: StoredFile) -> ArchiveError:
    return ArchiveError(f"{archive.uri(member.tar)}: damaged at byte {member.offset}; restore it from a mirror")


def is_large(member: StoredFile) -> bool:
    """Whether a member's own bytes come back, and are too many to be read into memory."""
    return member.codec == "original" and member.source_format != FILM and member.length > LARGE


def copy_member(archive: Store, member: StoredFile, path: Path) -> None:
    """Write a stored file to a local one, checked against its hash; raises ArchiveError."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for piece in archive.pieces(member.tar, member.length, start=member.offset):
            digest.update(piece)
            file.write(piece)
    if digest.hexdigest() != member.sha256:
        raise _damaged(archive, member)


def playable(film: bytes) -> bytes:
    """A film from its first box on, without what a camera put before it."""
    name = film.find(b"ftyp", 0, 1 << 12)
    start = max(0, name - 4)  # a box begins with four bytes of length before its name
    return film[start:]


def decoded(decoder: Child, member: StoredFile, data: bytes, kind: str | None = None) -> tuple[bytes, list[str]]:
    """The file that a member's bytes decode to, of the size that was encoded; raises ArchiveError.

    With it comes what of the picture has no place in a file of that kind. `kind` is as `jpeg:90`; None is PNG, or what
    a JPEG XL file was made of.
    """
    try:
        answer, png = decoder.ask(Decode(kind), data, seconds=SECONDS)
    except ChildDied as death:
        raise ArchiveError(f"cannot be decoded: {death}") from death
    if "fallback" in answer:
        raise ArchiveError(f"cannot be decoded: {answer['error']}")
    if (answer["width"], answer["height"]) != (member.width, member.height):
        raise ArchiveError(f"decodes to {answer['width']}x{answer['height']}, not {member.width}x{member.height}")
    return png, answer.get("left_behind", [])
