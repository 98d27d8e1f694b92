"""Moves texts, EXIF and GPS of a TIFF file into an EXIF block and checks that all values arrived."""

import struct
import warnings
from collections.abc import Mapping

from PIL import Image

from codec.containers.exif import SIZES
from codec.containers.tiff_tags import DirectoryEntry

EXIF_POINTER, GPS_POINTER = 34665, 34853
MAKER_NOTE, INTEROPERABILITY = 37500, 40965
Values = dict[int, tuple[int, int, bytes]]
"""Type, count and little-endian bytes of each tag."""
UNITS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 1, 7: 1, 8: 2, 9: 4, 10: 4, 11: 4, 12: 8, 13: 4}


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
            return [[repr(one.get(tag)) for tag in tags] for one, tags in zip(directories, groups, strict=True)]
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
            raw = b"".join(raw[position : position + unit][::-1] for position in range(0, len(raw), unit))
        found[tag] = (entry.kind, entry.count, raw)
    return found


def _block(texts: Values, exif: Values, gps: Values) -> bytes:
    pointers = {EXIF_POINTER: exif, GPS_POINTER: gps}
    first = dict(texts)
    for tag, group in pointers.items():
        if group:
            first[tag] = (4, 1, bytes(4))
    body = _directory(first, 8)
    for tag, group in pointers.items():
        if group:
            position = 8 + len(body)
            first[tag] = (4, 1, struct.pack("<I", position))
            body += _directory(group, position)
    return b"II*\0" + struct.pack("<I", 8) + _directory(first, 8) + body[len(_directory(first, 8)) :]


def _directory(values: Values, position: int) -> bytes:
    """Encodes a directory at an offset of the block, its long values behind it."""
    entries, behind = b"", b""
    start = position + 2 + 12 * len(values) + 4
    for tag, (kind, count, raw) in sorted(values.items()):
        if len(raw) <= 4:
            entries += struct.pack("<HHI", tag, kind, count) + raw.ljust(4, b"\0")
        else:
            entries += struct.pack("<HHII", tag, kind, count, start + len(behind))
            behind += raw + bytes(len(raw) % 2)
    return struct.pack("<H", len(values)) + entries + bytes(4) + behind


def _read(block: bytes) -> list[Values]:
    """The three groups of a block, parsed again."""
    first = _read_directory(block, 8)
    groups = [{tag: value for tag, value in first.items() if tag not in (EXIF_POINTER, GPS_POINTER)}]
    for tag in (EXIF_POINTER, GPS_POINTER):
        groups.append(_read_directory(block, struct.unpack("<I", first[tag][2])[0]) if tag in first else {})
    return groups


def _read_directory(block: bytes, position: int) -> Values:
    found: Values = {}
    for number in range(struct.unpack_from("<H", block, position)[0]):
        start = position + 2 + 12 * number
        tag, kind, count, value = struct.unpack_from("<HHII", block, start)
        size = SIZES[kind] * count
        offset = start + 8 if size <= 4 else value
        found[tag] = (kind, count, block[offset : offset + size])
    return found
