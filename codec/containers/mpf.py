"""The list of further pictures after a JPEG (CIPA DC-007, Multi-Picture Format, sections 5.2 and 5.2.3)."""

from dataclasses import dataclass

from codec.containers.builder import Broken, unpack

ENTRIES = 0xB002
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
        """A large thumbnail class."""
        return self.kind >> 16 == 1


def entries(block: bytes) -> list[MultiPictureEntry]:
    """Parses the listed pictures. Raises Broken if the bytes are not such a list."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None:
        raise Broken("not a list of pictures")
    (position,) = unpack(f"{order}I", block, 4)
    (count,) = unpack(f"{order}H", block, position)
    for number in range(count):
        tag, _, size, offset = unpack(f"{order}HHII", block, position + 2 + 12 * number)
        if tag == ENTRIES:
            if size // 16 > MOST_PICTURES:
                raise Broken(f"{size // 16} pictures")
            found = []
            for entry in range(size // 16):
                kind, length, start = unpack(f"{order}III", block, offset + 16 * entry)
                found.append(MultiPictureEntry(kind & 0xFFFFFF, start, length))
            return found
    return []


def is_gain_map(picture: bytes, packets: bytes) -> bool:
    """Whether a further picture is a gain map, according to its own and the first picture's metadata."""
    head = picture[: 1 << 16]
    own = any(sign in head for sign in GAIN_MAP_SIGNS)
    return own or b"hdrgm:Version" in packets or b"HDRGainMap" in packets
