"""Minimal reading of EXIF blocks, and patches that move no byte (EXIF 3.0, TIFF 6.0)."""

import struct

ORIENTATION, GPS_DIRECTORY, EXIF_DIRECTORY, MAKER_NOTE = 0x0112, 0x8825, 0x8769, 0x927C
SHORT, LONG = 3, 4
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}


def orientation(block: bytes) -> int:
    """The orientation in IFD0; 1 if it is absent or not in 1..8."""
    position = _entry(block, ORIENTATION)
    if position is None:
        return 1
    order = _order(block)
    kind = struct.unpack_from(f"{order}H", block, position + 2)[0]
    value = struct.unpack_from(f"{order}{'H' if kind == SHORT else 'I'}", block, position + 8)[0]
    return value if kind in (SHORT, LONG) and 1 <= value <= 8 else 1


def upright(block: bytes) -> bytes:
    """Returns the block with orientation 1. Two or four bytes change; none moves."""
    position = _entry(block, ORIENTATION)
    if position is None or orientation(block) == 1:
        return block
    order = _order(block)
    kind = struct.unpack_from(f"{order}H", block, position + 2)[0]
    value = struct.pack(f"{order}{'H' if kind == SHORT else 'I'}", 1)
    return block[: position + 8] + value + block[position + 8 + len(value) :]


def of_resolution(content: bytes) -> bytes:
    """Returns an EXIF block with the same resolution as a phYs block."""
    unit, across, across_of, down, down_of = struct.unpack("<B4I", content)
    if unit == 3:  # EXIF has no meters
        unit, across_of, down_of = 2, across_of * 100, down_of * 100
    fields = struct.pack("<HHIIHHIIHHIHH", 0x011A, 5, 1, 50, 0x011B, 5, 1, 58, 0x0128, 3, 1, unit + 1, 0)
    values = [min(value, 0xFFFFFFFF) for value in (across, across_of, down, down_of)]
    return b"II*\0" + struct.pack("<IH", 8, 3) + fields + bytes(4) + struct.pack("<4I", *values)


def maker_note(block: bytes) -> bytes | None:
    """The content of the MakerNote, or None."""
    order = _order(block)
    position = _entry(block, EXIF_DIRECTORY)
    if position is None:
        return None
    try:
        for inner in _entries(block, order, struct.unpack_from(f"{order}I", block, position + 8)[0]):
            tag, _, count, value = struct.unpack_from(f"{order}HHII", block, inner)
            if tag == MAKER_NOTE:
                return block[value : value + count]
    except struct.error:
        pass
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
        first = struct.unpack_from(f"{order}I", block, 4)[0]
        for position in _entries(block, order, first):
            tag, kind, _, value = struct.unpack_from(f"{order}HHII", block, position)
            if tag == GPS_DIRECTORY:
                _blank_directory(out, block, order, value)
            elif tag == EXIF_DIRECTORY and kind in (LONG, 13):
                for inner in _entries(block, order, value):
                    if struct.unpack_from(f"{order}H", block, inner)[0] == MAKER_NOTE:
                        _blank_value(out, block, order, inner)
    except (struct.error, ValueError):
        return None
    return bytes(out)


def _blank_directory(out: bytearray, block: bytes, order: str, start: int) -> None:
    for position in _entries(block, order, start):
        _blank_value(out, block, order, position)
    struct.pack_into(f"{order}H", out, start, 0)


def _blank_value(out: bytearray, block: bytes, order: str, position: int) -> None:
    _, kind, count, value = struct.unpack_from(f"{order}HHII", block, position)
    size = SIZES.get(kind, 1) * count
    if size > 4:
        if value + size > len(block):
            raise ValueError("a value outside the block")
        out[value : value + size] = bytes(size)
    struct.pack_into(f"{order}II", out, position + 4, 0 if size > 4 else count, 0)


def _order(block: bytes) -> str:
    return {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4], "")


def _entry(block: bytes, tag: int) -> int | None:
    """Offset of a tag's entry in IFD0."""
    order = _order(block)
    if not order:
        return None
    try:
        first = struct.unpack_from(f"{order}I", block, 4)[0]
        for position in _entries(block, order, first):
            if struct.unpack_from(f"{order}H", block, position)[0] == tag:
                return position
    except struct.error:
        return None
    return None


def _entries(block: bytes, order: str, start: int) -> list[int]:
    count = struct.unpack_from(f"{order}H", block, start)[0]
    positions = [start + 2 + 12 * number for number in range(count)]
    if positions and positions[-1] + 12 > len(block):
        raise struct.error("a directory that exceeds the block")
    return positions
