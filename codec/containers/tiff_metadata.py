"""Moves texts, EXIF and GPS of a TIFF file into an EXIF block and checks that all values arrived."""

import struct
import warnings
from collections.abc import Mapping

from PIL import Image

from codec.containers.exif import SIZES
from codec.containers.tiff_tags import DirectoryEntry

EXIF_POINTER = 34665
GPS_POINTER = 34853
MAKER_NOTE = 37500
INTEROPERABILITY = 40965
LONG = 4
Values = dict[int, tuple[int, int, bytes]]
"""Type, count and little-endian bytes of each tag."""
UNITS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 1, 7: 1, 8: 2, 9: 4, 10: 4, 11: 4, 12: 8, 13: 4}
"""Bytes that are reversed together when the byte order changes; a fraction has two such units."""


def exif_block(
    data: bytes,
    order: str,
    texts: Mapping[int, DirectoryEntry],
    exif: Mapping[int, DirectoryEntry],
    gps: Mapping[int, DirectoryEntry],
) -> bytes:
    """Builds a little-endian EXIF block with equal values. Raises ValueError if a value cannot be moved or differs.

    A MakerNote has internal offsets that a move would break; an interoperability directory is not supported.
    """
    if MAKER_NOTE in exif:
        raise ValueError("a MakerNote, whose offsets a move would break")
    if INTEROPERABILITY in exif:
        raise ValueError("an interoperability directory")
    groups = [_values(data, order, entries) for entries in (texts, exif, gps)]
    block = _block(*groups)
    # A second reader too: ours could misread both in the same way.
    tags = [list(group) for group in groups]
    if _read(block) != groups or _by_pillow(block, tags) != _by_pillow(data, tags):
        raise ValueError("metadata that an EXIF block does not reproduce")
    return block


def _by_pillow(data: bytes, groups: list[list[int]]) -> list[list[str]]:
    """The values of these tags as parsed by a second reader. Raises ValueError if it cannot parse them."""
    found = Image.Exif()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found.load(data)
            directories = [found, found.get_ifd(EXIF_POINTER), found.get_ifd(GPS_POINTER)]
            values = []
            for directory, tags in zip(directories, groups, strict=True):
                values.append([repr(directory.get(tag)) for tag in tags])  # repr: NaN equals itself
            return values
    except Exception as error:  # its parser raises any exception
        raise ValueError(f"metadata that a second reader cannot read: {error}") from None


def _values(data: bytes, order: str, entries: Mapping[int, DirectoryEntry]) -> Values:
    found: Values = {}
    for tag, entry in entries.items():
        if entry.kind not in UNITS:
            raise ValueError(f"tag {tag} has type {entry.kind}, which EXIF does not define")
        raw = data[entry.offset : entry.offset + entry.size]
        unit = UNITS[entry.kind]
        if order == ">" and unit > 1:
            raw = _reversed(raw, unit)
        found[tag] = (entry.kind, entry.count, raw)
    return found


def _reversed(raw: bytes, unit: int) -> bytes:
    pieces = [raw[position : position + unit] for position in range(0, len(raw), unit)]
    return b"".join(piece[::-1] for piece in pieces)


def _block(texts: Values, exif: Values, gps: Values) -> bytes:
    """The first directory with the texts and pointers to the others, then those, each with its values behind it."""
    pointers = {EXIF_POINTER: exif, GPS_POINTER: gps}
    first = dict(texts)
    # Its length must be known before the offsets of the others: pointers of 0 hold the place.
    for tag, group in pointers.items():
        if group:
            first[tag] = (LONG, 1, bytes(4))
    position = 8 + len(_directory(first, 8))
    others = b""
    for tag, group in pointers.items():
        if group:
            first[tag] = (LONG, 1, struct.pack("<I", position))
            directory = _directory(group, position)
            others += directory
            position += len(directory)
    return b"II*\0" + struct.pack("<I", 8) + _directory(first, 8) + others


def _directory(values: Values, position: int) -> bytes:
    """Encodes a directory at an offset of the block, its long values behind it."""
    entries = b""
    behind = b""
    start = position + 2 + 12 * len(values) + 4
    for tag, (kind, count, raw) in sorted(values.items()):  # the order that TIFF demands
        if len(raw) <= 4:
            entries += struct.pack("<HHI", tag, kind, count) + raw.ljust(4, b"\0")
        else:
            entries += struct.pack("<HHII", tag, kind, count, start + len(behind))
            behind += raw + bytes(len(raw) % 2)  # values begin at even offsets
    return struct.pack("<H", len(values)) + entries + bytes(4) + behind


def _read(block: bytes) -> list[Values]:
    """The three groups of a block, parsed again."""
    first = _read_directory(block, 8)
    groups = [{tag: value for tag, value in first.items() if tag not in (EXIF_POINTER, GPS_POINTER)}]
    for tag in (EXIF_POINTER, GPS_POINTER):
        if tag not in first:
            groups.append({})
            continue
        _, _, raw = first[tag]
        (position,) = struct.unpack("<I", raw)
        groups.append(_read_directory(block, position))
    return groups


def _read_directory(block: bytes, position: int) -> Values:
    found: Values = {}
    (count,) = struct.unpack_from("<H", block, position)
    for number in range(count):
        start = position + 2 + 12 * number
        tag, kind, values, value = struct.unpack_from("<HHII", block, start)
        size = SIZES[kind] * values
        offset = start + 8 if size <= 4 else value
        found[tag] = (kind, values, block[offset : offset + size])
    return found
