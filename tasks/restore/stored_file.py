"""A stored file in a tar of an archive: where it lies, its bytes checked, and what it decodes to."""

import hashlib
from dataclasses import dataclass

from codec.errors import ArchiveError
from tasks.processes.child import Child, ChildDied
from tasks.storage.store import Store

SECONDS = 1800.0


@dataclass(frozen=True)
class Member:
    """A stored file and the name, relative to the target, that its picture gets."""

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


def read_member(archive: Store, member: Member) -> bytes:
    """A stored file by one range request, checked against its hash; raises ArchiveError."""
    data = archive.read_range(member.tar, member.offset, member.length)
    if hashlib.sha256(data).hexdigest() != member.sha256:
        raise ArchiveError(f"{archive.uri(member.tar)}: damaged at byte {member.offset}; restore it from a mirror")
    return data


def decoded(decoder: Child, member: Member, data: bytes, kind: str | None = None) -> bytes:
    """The file that a member's bytes decode to, of the size that was encoded; raises ArchiveError.

    `kind` is a kind of picture as `jpeg:90`; None is PNG, or what a JPEG XL file was made of.
    """
    try:
        answer, png = decoder.ask({"do": "decode", "kind": kind}, data, seconds=SECONDS)
    except ChildDied as death:
        raise ArchiveError(f"cannot be decoded: {death}") from death
    if "fallback" in answer:
        raise ArchiveError(f"cannot be decoded: {answer['error']}")
    if (answer["width"], answer["height"]) != (member.width, member.height):
        raise ArchiveError(f"decodes to {answer['width']}x{answer['height']}, not {member.width}x{member.height}")
    return png
