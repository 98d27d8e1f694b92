"""Shared by all structural readers: bounds-checked reading, and a builder that collects the parts of a file."""

import struct
from typing import Any

from codec.containers.reasons import Reason
from codec.containers.structure import Part, Role, Structure, covered
from codec.errors import ImageError
from codec.format.tags import REPEATABLE, MetadataBlock

MOST_UNKNOWN = 1 << 20
"""Upper bound on unknown metadata, in bytes over the whole file."""

MOST_BLOCKS = 1000
"""Upper bound on collected blocks; an .fdc file holds fewer."""


class Broken(Exception):
    """The file is truncated or contradicts itself in a way its format does not allow."""


class Builder:
    """Collects the parts of one file."""

    def __init__(self, data: bytes, container: str, media_type: str) -> None:
        self.data = data
        self.container = container
        self.media_type = media_type
        self.parts: list[Part] = []
        self.blocks: list[MetadataBlock] = []
        self.keep: list[tuple[str, str]] = []
        self.damage: list[str] = []
        self.irregular: list[str] = []
        self.notes: list[str] = []
        self.fields: dict[str, Any] = {"width": 0, "height": 0}
        self._unknown = 0
        self._above = False

    def part(self, offset: int, length: int, name: str, role: Role) -> None:
        """Adds a named part, clipped to the file."""
        # A truncated file states lengths beyond its end.
        length = max(0, min(length, len(self.data) - offset))
        if length > 0:
            self.parts.append(Part(offset, length, name, role))

    def carry(self, tag: str, content: bytes) -> None:
        """Carries metadata as a block. Most kinds may occur once; an empty block is carried as unknown metadata."""
        if not content:
            # Dropping it would lose the fact that the source had it.
            self.unknown(f"{self.container} empty {tag}", b"")
            return
        if tag not in REPEATABLE:
            repeated = any(block.tag == tag for block in self.blocks)
            if repeated:
                self.keep_for(Reason.METADATA, f"several blocks {tag}")
                return
        if len(self.blocks) >= MOST_BLOCKS:
            self._too_much()
            return
        self.blocks.append(MetadataBlock(tag, content))

    def unknown(self, name: str, content: bytes) -> None:
        """Carries metadata of an unknown kind, up to MOST_UNKNOWN bytes in total."""
        self._unknown += len(content)
        if self._unknown > MOST_UNKNOWN or len(self.blocks) >= MOST_BLOCKS:
            self._too_much()
        else:
            self.blocks.append(MetadataBlock("unKn", name.encode() + b"\0" + content))

    def _too_much(self) -> None:
        # Once is enough: a hostile file may have a hundred thousand such blocks.
        if not self._above:
            self.keep_for(
                Reason.METADATA, f"more than {MOST_BLOCKS} blocks, or {MOST_UNKNOWN} bytes of unknown metadata"
            )
        self._above = True

    def keep_for(self, reason: Reason, why: str) -> None:
        """Records why the file must be kept whole."""
        self.keep.append((str(reason), why))

    def behind(self, start: int) -> None:
        """Names the bytes from `start` to the end of the file that have no part yet: padding or a trailer."""
        taken = sorted((part.offset, part.offset + part.length) for part in self.parts)
        taken.append((len(self.data), len(self.data)))  # so that the gap before the end of the file is seen too
        position = start
        for offset, end in taken:
            if offset > position:
                self._gap(position, offset)
            position = max(position, end)

    def _gap(self, start: int, stop: int) -> None:
        """Names bytes without a part: padding if all are 00 or all are FF, otherwise a trailer."""
        rest = self.data[start:stop]
        # One of these bytes repeated carries no information.
        if rest.count(0) == len(rest) or rest.count(0xFF) == len(rest):
            self.part(start, len(rest), "padding", Role.SILENT)
        else:
            self.part(start, len(rest), "bytes behind", Role.TRAILER)

    def build(self) -> Structure:
        """Returns the structure. Bytes without a part become padding if they are zero and `unaccounted` otherwise."""
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
        raise Broken(f"the file ends early, at byte {len(data)}") from None


def size_of(width: int, height: int) -> dict[str, int]:
    """Sets width and height. Raises ImageError if either is zero."""
    if width < 1 or height < 1:
        raise ImageError(f"a picture of {width} x {height} pixels has no pixels")
    return {"width": width, "height": height}


def resolution(unit: int, horizontal: tuple[int, int], vertical: tuple[int, int]) -> bytes:
    """The content of a phYs block."""
    return struct.pack("<B4I", unit, *horizontal, *vertical)
