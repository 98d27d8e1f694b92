"""The list of further pictures after a JPEG (CIPA DC-007, Multi-Picture Format, sections 5.2 and 5.2.3)."""

from dataclasses import dataclass

from codec.containers.builder import Broken, unpack

ENTRIES = 0xB002
ENTRY = 16
"""Bytes of a picture's entry in the list."""
MOST_PICTURES = 1000
GAIN_MAP_SIGNS = (b"hdrgm:", b"urn:iso:std:iso:ts:21496:-1", b"HDRGainMap")


@dataclass(frozen=True)
class MultiPictureEntry:
    """A listed picture: `offset` from the list's TIFF header (0 for the first picture), `size` in bytes."""

    kind: int
    offset: int
    size: int

    @property
    def primary(self) -> bool:
        return self.offset == 0

    @property
    def preview(self) -> bool:
        """A large thumbnail class (type codes 010001 and 010002)."""
        return self.kind >> 16 == 1


def entries(block: bytes) -> list[MultiPictureEntry]:
    """Parses the listed pictures. Raises Broken if the bytes are not such a list."""
    if block.startswith(b"II*\0"):
        order = "<"
    elif block.startswith(b"MM\0*"):
        order = ">"
    else:
        raise Broken("not a list of pictures")
    (position,) = unpack(f"{order}I", block, 4)
    (fields,) = unpack(f"{order}H", block, position)
    for number in range(fields):
        tag, _, size, offset = unpack(f"{order}HHII", block, position + 2 + 12 * number)
        if tag == ENTRIES:
            return _listed(block, order, offset, size // ENTRY)
    return []


def _listed(block: bytes, order: str, offset: int, count: int) -> list[MultiPictureEntry]:
    if count > MOST_PICTURES:
        raise Broken(f"{count} pictures")
    found = []
    for number in range(count):
        attributes, length, start = unpack(f"{order}III", block, offset + ENTRY * number)
        # The low 24 bits are the type; above them are flags and the format, which is always JPEG.
        found.append(MultiPictureEntry(attributes & 0xFFFFFF, start, length))
    return found


def is_gain_map(picture: bytes, packets: bytes) -> bool:
    """Whether a further picture is a gain map, according to its own and the first picture's metadata."""
    head = picture[: 1 << 16]  # its APP segments
    if any(sign in head for sign in GAIN_MAP_SIGNS):
        return True
    # Some writers say so in the first picture's XMP only.
    return b"hdrgm:Version" in packets or b"HDRGainMap" in packets
