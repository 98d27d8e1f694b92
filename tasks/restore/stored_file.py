"""Stored files in the tars of an archive: location, verified bytes, and decoding."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from codec.errors import ArchiveError
from tasks.processes.child import Child, ChildDied
from tasks.processes.requests import Decode
from tasks.storage.store import Store

SECONDS = 1800.0
"""How long one file may take to decode."""
LARGE = 1 << 28
"""Size in bytes above which an unchanged file is spooled to disk instead of read into memory."""
FILM = "MP4"
"""The source_format of a member that is a video."""


@dataclass(frozen=True)
class StoredFile:
    """A stored file, and the name, relative to the target, of its picture or video."""

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
        """Returns the video next to a picture as an unchanged file with the picture's target."""
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
    """Reads a stored file with one range request and checks its hash; raises ArchiveError."""
    data = archive.read_range(member.tar, member.offset, member.length)
    if hashlib.sha256(data).hexdigest() != member.sha256:
        raise _damaged(archive, member)
    return data


def _damaged(archive: Store, member: StoredFile) -> ArchiveError:
    return ArchiveError(f"{archive.uri(member.tar)}: damaged at byte {member.offset}; restore it from a mirror")


def is_large(member: StoredFile) -> bool:
    """Whether a member is restored unchanged and is too large for memory."""
    return member.codec == "original" and member.source_format != FILM and member.length > LARGE


def copy_member(archive: Store, member: StoredFile, path: Path) -> None:
    """Copies a stored file to a local file and checks its hash; raises ArchiveError."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for piece in archive.pieces(member.tar, member.length, start=member.offset):
            digest.update(piece)
            file.write(piece)
    if digest.hexdigest() != member.sha256:
        raise _damaged(archive, member)


def playable(film: bytes) -> bytes:
    """Returns a video from its first box on, without bytes that a camera put before it."""
    # ISO/IEC 14496-12: a file begins with the box `ftyp`, and a box with four bytes of length before its name
    name = film.find(b"ftyp", 0, 1 << 12)
    start = max(0, name - 4)
    return film[start:]


def decoded(decoder: Child, member: StoredFile, data: bytes, kind: str | None = None) -> tuple[bytes, list[str]]:
    """Decodes a member and checks its width and height; raises ArchiveError.

    Returns the file, and the parts that its format cannot contain. `kind` is a format such as `jpeg:90`; None means
    PNG, or the original format of a JPEG XL file.
    """
    try:
        answer, png = decoder.ask(Decode(kind), data, seconds=SECONDS)
    except ChildDied as death:
        raise ArchiveError(f"cannot be decoded: {death}") from death
    if "fallback" in answer:
        raise ArchiveError(f"cannot be decoded: {answer['error']}")
    # a decoder that gives another picture must not pass for a success
    if (answer["width"], answer["height"]) != (member.width, member.height):
        raise ArchiveError(f"decodes to {answer['width']}x{answer['height']}, not {member.width}x{member.height}")
    return png, answer.get("left_behind", [])
