"""The content identifier that an Apple camera writes into a live photo and its video.

In the picture it is entry 17 of Apple's MakerNote, in the video the metadata item
com.apple.quicktime.content.identifier (QuickTime File Format, Metadata).
"""

import struct
from collections.abc import Iterator

from codec.containers import exif
from codec.containers.bmff import Box, boxes, children
from codec.containers.builder import Broken, unpack
from codec.containers.structure import Structure

SIGN = b"Apple iOS\0\0\1MM"
IDENTIFIER = 17
KEY = b"com.apple.quicktime.content.identifier"
LONGEST = 128


def identifier(data: bytes, structure: Structure | None) -> str | None:
    """The identifier in a picture with this structure, or in a video (structure None); None if there is none."""
    try:
        found = _in_film(data) if structure is None else _in_picture(structure)
    except (Broken, struct.error, ValueError):
        return None
    text = found.rstrip(b"\0").decode("ascii", "replace") if found else ""
    return text if 0 < len(text) <= LONGEST and text.isprintable() and text.isascii() else None


def _in_picture(structure: Structure) -> bytes | None:
    for block in structure.blocks:
        if block.tag == "exIf" and (note := exif.maker_note(block.content)) and note.startswith(SIGN):
            return _in_note(note)
    return None


def _in_note(note: bytes) -> bytes | None:
    """Offsets are relative to the note's first byte."""
    (count,) = struct.unpack_from(">H", note, len(SIGN))
    for number in range(count):
        tag, kind, length, position = struct.unpack_from(">HHII", note, len(SIGN) + 2 + 12 * number)
        if tag == IDENTIFIER and kind == 2:
            return note[position : position + length]
    return None


def _in_film(data: bytes) -> bytes | None:
    if data[4:8] not in (b"ftyp", b"wide", b"moov", b"mdat"):
        return None
    meta = _inner(data, boxes(data, 0, len(data)), b"moov", b"meta")
    if meta is None:
        return None
    inner = {box.kind: box for box in children(data, meta)}
    if b"keys" not in inner or b"ilst" not in inner:
        return None
    position = inner[b"keys"].body + 8
    names = []
    while position < inner[b"keys"].end:
        (size,) = unpack(">I", data, position)
        names.append(data[position + 8 : position + size])
        position += max(size, 8)
    number = names.index(KEY) + 1  # ValueError if it is missing
    for item in children(data, inner[b"ilst"]):
        if item.kind == struct.pack(">I", number):
            value = next(children(data, item))
            return data[value.body + 8 : value.end]
    return None


def _inner(data: bytes, found: Iterator[Box], *path: bytes) -> Box | None:
    box: Box | None = None
    for kind in path:
        box = next((inner for inner in found if inner.kind == kind), None)
        if box is None:
            return None
        found = children(data, box)
    return box
