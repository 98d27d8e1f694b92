"""Boxes of the ISO base media file format (ISO/IEC 14496-12): the walk shared by HEIF, AVIF, JPEG XL and JPEG 2000."""

from collections.abc import Iterator
from dataclasses import dataclass

from codec.containers.builder import Broken, unpack

MOST_BOXES = 10_000
"""Upper bound on boxes in one range: real files have few, and a hostile one could consist of empty boxes."""


@dataclass(frozen=True)
class Box:
    """A box: `offset` is its first byte, `body` the first byte of its content, `end` the byte after it."""

    kind: bytes
    offset: int
    body: int
    end: int

    @property
    def name(self) -> str:
        return self.kind.decode("latin-1")


def boxes(data: bytes, start: int, stop: int) -> Iterator[Box]:
    """Yields the boxes between two offsets. Raises Broken for a box that exceeds the range."""
    position = start
    for _ in range(MOST_BOXES):
        if position >= stop:
            return
        if stop - position < 8:
            raise Broken(f"{stop - position} bytes at byte {position} are not a box")
        size, kind = unpack(">I4s", data, position)
        body = position + 8
        if size == 1:  # a 64-bit size follows the type (4.2.2)
            (size,) = unpack(">Q", data, body)
            body += 8
        if size == 0:  # the box extends to the end
            end = stop
        else:
            end = position + size
        # A size below that of the header itself would make the walk stand still or go back.
        if end > stop or end < body:
            raise Broken(f"box {kind!r} at byte {position} does not fit")
        yield Box(kind, position, body, end)
        position = end
    raise Broken(f"more than {MOST_BOXES} boxes")


def children(data: bytes, box: Box, *, full: bool = False) -> Iterator[Box]:
    """Yields the boxes inside a box; a full box starts with a version and flags."""
    start = box.body
    if full:
        start += 4
    return boxes(data, start, box.end)
