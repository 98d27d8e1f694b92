"""Minimal reading of EXIF blocks, and patches that move no byte (EXIF 3.0, TIFF 6.0)."""

import struct

ORIENTATION = 0x0112
GPS_DIRECTORY = 0x8825
EXIF_DIRECTORY = 0x8769
MAKER_NOTE = 0x927C
SHORT = 3
LONG = 4
IFD = 13
"""A 32-bit offset of a directory, in place of LONG (Adobe's TIFF technical notes)."""
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, IFD: 4}
"""Bytes of a value by its type (TIFF 6.0, section 2)."""


def orientation(block: bytes) -> int:
    """The orientation in IFD0; 1 if it is absent or not in 1..8."""
    position = _entry(block, ORIENTATION)
    if position is None:
        return 1
    kind, form = _integer_form(block, position)
    (value,) = struct.unpack_from(form, block, position + 8)
    if kind not in (SHORT, LONG) or not 1 <= value <= 8:
        return 1  # not a value that EXIF defines
    return int(value)


def upright(block: bytes) -> bytes:
    """Returns the block with orientation 1. Two or four bytes change; none moves."""
    position = _entry(block, ORIENTATION)
    if position is None or orientation(block) == 1:
        return block
    _, form = _integer_form(block, position)
    value = struct.pack(form, 1)
    return block[: position + 8] + value + block[position + 8 + len(value) :]


def _integer_form(block: bytes, position: int) -> tuple[int, str]:
    """The type of the entry at `position`, and the struct format of its value as an integer."""
    order = _order(block)
    (kind,) = struct.unpack_from(f"{order}H", block, position + 2)
    if kind == SHORT:
        return kind, f"{order}H"
    return kind, f"{order}I"


def of_resolution(content: bytes) -> bytes:
    """Returns an EXIF block with the same resolution as a phYs block."""
    unit, across, across_of, down, down_of = struct.unpack("<B4I", content)
    if unit == 3:  # EXIF has no meters: per centimeter instead
        unit = 2
        across_of *= 100
        down_of *= 100
    # XResolution and YResolution are RATIONAL, at bytes 50 and 58, behind the directory; ResolutionUnit is SHORT.
    fields = struct.pack("<HHII", 0x011A, 5, 1, 50)
    fields += struct.pack("<HHII", 0x011B, 5, 1, 58)
    fields += struct.pack("<HHIHH", 0x0128, SHORT, 1, unit + 1, 0)
    # The factor above may exceed 32 bits.
    values = [min(value, 0xFFFFFFFF) for value in (across, across_of, down, down_of)]
    return b"II*\0" + struct.pack("<IH", 8, 3) + fields + bytes(4) + struct.pack("<4I", *values)


def maker_note(block: bytes) -> bytes | None:
    """The content of the MakerNote, or None."""
    order = _order(block)
    position = _entry(block, EXIF_DIRECTORY)
    if position is None:
        return None
    try:
        (directory,) = struct.unpack_from(f"{order}I", block, position + 8)
        for inner in _entries(block, order, directory):
            tag, _, count, value = struct.unpack_from(f"{order}HHII", block, inner)
            if tag == MAKER_NOTE:
                return block[value : value + count]
    except struct.error:
        return None  # the note only serves to find a photo's video: a broken block has none
    return None


def without_location(block: bytes) -> bytes | None:
    """Returns the block with an empty GPS directory and an empty MakerNote; None if it cannot be read.

    No byte moves: values are overwritten with zeros, and the entries of GPS and MakerNote get count 0.
    """
    order = _order(block)
    if not order:
        return None
    out = bytearray(block)
    try:
        (first,) = struct.unpack_from(f"{order}I", block, 4)
        for position in _entries(block, order, first):
            tag, kind, _, value = struct.unpack_from(f"{order}HHII", block, position)
            if tag == GPS_DIRECTORY:
                _blank_directory(out, block, order, value)
            elif tag == EXIF_DIRECTORY and kind in (LONG, IFD):
                _blank_maker_note(out, block, order, value)
    except (struct.error, ValueError):
        # What cannot be parsed cannot be searched for a place either: the caller drops the block.
        return None
    return bytes(out)


def _blank_maker_note(out: bytearray, block: bytes, order: str, directory: int) -> None:
    """Blanks the MakerNote of an EXIF directory: its format is the camera's own, and it may hold a place."""
    for position in _entries(block, order, directory):
        (tag,) = struct.unpack_from(f"{order}H", block, position)
        if tag == MAKER_NOTE:
            _blank_value(out, block, order, position)


def _blank_directory(out: bytearray, block: bytes, order: str, start: int) -> None:
    for position in _entries(block, order, start):
        _blank_value(out, block, order, position)
    struct.pack_into(f"{order}H", out, start, 0)


def _blank_value(out: bytearray, block: bytes, order: str, position: int) -> None:
    _, kind, count, value = struct.unpack_from(f"{order}HHII", block, position)
    size = SIZES.get(kind, 1) * count
    if size <= 4:  # the value stands in the entry itself
        struct.pack_into(f"{order}II", out, position + 4, count, 0)
        return
    if value + size > len(block):
        raise ValueError("a value outside the block")
    out[value : value + size] = bytes(size)
    # Count 0: readers do not look for a value at offset 0.
    struct.pack_into(f"{order}II", out, position + 4, 0, 0)


def _order(block: bytes) -> str:
    """The byte order as a prefix for struct; empty if the block does not begin like TIFF."""
    if block[:4] == b"II*\0":
        return "<"
    if block[:4] == b"MM\0*":
        return ">"
    return ""


def _entry(block: bytes, tag: int) -> int | None:
    """Offset of a tag's entry in IFD0."""
    order = _order(block)
    if not order:
        return None
    try:
        (first,) = struct.unpack_from(f"{order}I", block, 4)
        for position in _entries(block, order, first):
            (found,) = struct.unpack_from(f"{order}H", block, position)
            if found == tag:
                return position
    except struct.error:
        return None
    return None


def _entries(block: bytes, order: str, start: int) -> list[int]:
    """Offsets of a directory's entries. Raises struct.error if it exceeds the block."""
    (count,) = struct.unpack_from(f"{order}H", block, start)
    positions = [start + 2 + 12 * number for number in range(count)]
    if positions and positions[-1] + 12 > len(block):
        raise struct.error("a directory that exceeds the block")
    return positions
