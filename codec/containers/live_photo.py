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
ASCII = 2
KEY = b"com.apple.quicktime.content.identifier"
LONGEST = 128
"""Upper bound on an identifier, in characters; Apple's are UUIDs."""


def identifier(data: bytes, structure: Structure | None) -> str | None:
    """The identifier in a picture with this structure, or in a video (structure None); None if there is none."""
    try:
        if structure is None:
            found = _in_film(data)
        else:
            found = _in_picture(structure)
    except (Broken, struct.error, ValueError):
        return None  # without an identifier, a picture is merely not grouped with its video
    if not found:
        return None
    text = found.rstrip(b"\0").decode("ascii", "replace")
    # The identifier goes into rows and messages, so no control characters and no long texts.
    if 0 < len(text) <= LONGEST and text.isprintable() and text.isascii():
        return text
    return None


def _in_picture(structure: Structure) -> bytes | None:
    for block in structure.blocks:
        if block.tag != "exIf":
            continue
        note = exif.maker_note(block.content)
        if note and note.startswith(SIGN):
            return _in_note(note)
    return None


def _in_note(note: bytes) -> bytes | None:
    """Offsets are relative to the note's first byte."""
    (count,) = struct.unpack_from(">H", note, len(SIGN))
    for number in range(count):
        tag, kind, length, position = struct.unpack_from(">HHII", note, len(SIGN) + 2 + 12 * number)
        if tag == IDENTIFIER and kind == ASCII:
            return note[position : position + length]
    return None


def _in_film(data: bytes) -> bytes | None:
    if data[4:8] not in (b"ftyp", b"wide", b"moov", b"mdat"):  # what a QuickTime file may begin with
        return None
    meta = _inner(data, boxes(data, 0, len(data)), b"moov", b"meta")
    if meta is None:
        return None
    inner = {box.kind: box for box in children(data, meta)}
    if b"keys" not in inner or b"ilst" not in inner:
        return None
    # The items of ilst are named by the number of their key, counted from 1.
    number = _keys(data, inner[b"keys"]).index(KEY) + 1  # ValueError if it is missing
    for item in children(data, inner[b"ilst"]):
        if item.kind == struct.pack(">I", number):
            value = next(children(data, item))
            return data[value.body + 8 : value.end]  # after the type and the language
    return None


def _keys(data: bytes, box: Box) -> list[bytes]:
    """The names in a keys box: after version, flags and count, each with its size and namespace before it."""
    names = []
    position = box.body + 8
    while position < box.end:
        (size,) = unpack(">I", data, position)
        names.append(data[position + 8 : position + size])
        position += max(size, 8)  # a size of 0 would never end
    return names


def _inner(data: bytes, found: Iterator[Box], *path: bytes) -> Box | None:
    """The first box at a path of types, or None."""
    box: Box | None = None
    for kind in path:
        box = _first(found, kind)
        if box is None:
            return None
        found = children(data, box)
    return box


def _first(found: Iterator[Box], kind: bytes) -> Box | None:
    for box in found:
        if box.kind == kind:
            return box
    return None
