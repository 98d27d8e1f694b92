"""What all structural readers share: bounded reading, and the collection of parts and of what they say."""

import struct
from typing import Any

from codec.containers.reasons import Reason
from codec.containers.structure import Part, Role, Structure, covered
from codec.errors import ImageError
from codec.format.tags import Block

MOST_UNKNOWN = 1 << 20
"""Bytes of unknown metadata that a file may carry, in all."""


class Broken(Exception):
    """A file ends, or contradicts itself, where its format allows no such thing."""


class Builder:
    """Collects the parts of one file."""

    def __init__(self, data: bytes, container: str, media_type: str) -> None:
        self.data, self.container, self.media_type = data, container, media_type
        self.parts: list[Part] = []
        self.blocks: list[Block] = []
        self.keep: list[tuple[str, str]] = []
        self.damage: list[str] = []
        self.irregular: list[str] = []
        self.notes: list[str] = []
        self.fields: dict[str, Any] = {"width": 0, "height": 0}
        self._unknown = 0

    def part(self, offset: int, length: int, name: str, role: Role) -> None:
        """Name some bytes; what lies outside the file is cut off."""
        length = max(0, min(length, len(self.data) - offset))
        if length:
            self.parts.append(Part(offset, length, name, role))

    def carry(self, tag: str, content: bytes) -> None:
        """Carry metadata as a block."""
        if content:
            self.blocks.append(Block(tag, content))

    def unknown(self, name: str, content: bytes) -> None:
        """Carry metadata of an unknown kind, as long as all of it stays below MOST_UNKNOWN."""
        self._unknown += len(content)
        if self._unknown > MOST_UNKNOWN:
            self.keep_for(Reason.METADATA, f"{self._unknown} bytes of unknown metadata, more than {MOST_UNKNOWN}")
        else:
            self.blocks.append(Block("unKn", name.encode() + b"\0" + content))

    def keep_for(self, reason: Reason, why: str) -> None:
        """Say why the file must be kept whole."""
        self.keep.append((str(reason), why))

    def build(self) -> Structure:
        """The structure; what no part names is padding if it is zero, and unaccounted otherwise."""
        return Structure(
            self.container,
            self.media_type,
            covered(self.data, self.parts),
            blocks=tuple(self.blocks),
            keep=tuple(self.keep),
            damage=tuple(self.damage),
            irregular=tuple(self.irregular),
            notes=tuple(self.notes),
            **self.fields,
        )


def unpack(form: str, data: bytes, offset: int) -> tuple[Any, ...]:
    """struct.unpack_from that raises Broken past the end."""
    try:
        return struct.unpack_from(form, data, offset)
    except struct.error:
        raise Broken(f"the file ends at byte {len(data)}, where more is due") from None


def size_of(width: int, height: int) -> dict[str, int]:
    """Both sides. Raises ImageError for a picture without pixels."""
    if width < 1 or height < 1:
        raise ImageError(f"a picture of {width} x {height} pixels is none")
    return {"width": width, "height": height}


def resolution(unit: int, horizontal: tuple[int, int], vertical: tuple[int, int]) -> bytes:
    """The content of a phYs block."""
    return struct.pack("<B4I", unit, *horizontal, *vertical)
