"""Gain maps behind a JPEG again (CIPA DC-007, Multi-Picture Format; Ultra HDR 1.1)."""

import io
import re
import struct
from collections.abc import Sequence

from PIL import Image

from codec.format.tags import AUXILIARY, MetadataBlock

NAME = b"gain map (MPF)\0"
QUALITY = 95
"""Of a gain map that is turned together with its picture."""
PRIMARY = 0x030000
SEGMENT = 4 + 4 + 8 + 2 + 3 * 12 + 4
"""Bytes of the list's segment without its entries."""


def is_one(block: MetadataBlock) -> bool:
    """Whether a block is a gain map that stood behind a JPEG."""
    return block.tag == AUXILIARY and block.content.startswith(NAME)


def turned(block: MetadataBlock, turns: Sequence[Image.Transpose]) -> MetadataBlock:
    """The gain map turned as its picture is: encoded again, with its own metadata."""
    picture = block.content.removeprefix(NAME)
    image: Image.Image = Image.open(io.BytesIO(picture), formats=("JPEG",))
    for turn in turns:
        image = image.transpose(turn)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=QUALITY, subsampling=0)
    plain = stream.getvalue()
    head = 4 + struct.unpack_from(">H", plain, 4)[0]
    return MetadataBlock(block.tag, NAME + plain[:head] + _metadata(picture) + plain[head:])


def resized(packet: bytes, old: MetadataBlock, new: MetadataBlock) -> bytes:
    """An XMP packet whose directory states the new length of the gain map."""
    lengths = [len(block.content) - len(NAME) for block in (old, new)]
    pattern = rb"(Item:Length(?:\s*=\s*[\"']|>)\s*)%d(?=\s*[\"'<])" % lengths[0]
    return re.sub(pattern, rb"\g<1>%d" % lengths[1], packet)


def joined(head: bytes, rest: bytes, blocks: Sequence[MetadataBlock]) -> bytes:
    """A JPEG, cut where segments may stand, with its gain maps behind it and the list of them between the two."""
    pictures = [block.content.removeprefix(NAME) for block in blocks if is_one(block)]
    if not pictures:
        return head + rest
    count = len(pictures) + 1
    length = SEGMENT + 16 * count
    position = len(head) + length + len(rest)
    header = len(head) + 8  # offsets count from the list's own TIFF header
    entries = [(PRIMARY, position, 0)]
    for picture in pictures:
        entries.append((0, len(picture), position - header))
        position += len(picture)
    fields = struct.pack("<HHHI4s", 3, 0xB000, 7, 4, b"0100") + struct.pack("<HHII", 0xB001, 4, 1, count)
    fields += struct.pack("<HHIII", 0xB002, 7, 16 * count, SEGMENT - 8, 0)
    listed = b"".join(struct.pack("<IIIHH", *entry, 0, 0) for entry in entries)
    content = b"MPF\0II*\0" + struct.pack("<I", 8) + fields + listed
    return head + b"\xff\xe2" + struct.pack(">H", len(content) + 2) + content + rest + b"".join(pictures)


def _metadata(picture: bytes) -> bytes:
    """The APP1 and APP2 segments of a JPEG."""
    found, position = b"", 2
    while position + 4 <= len(picture) and picture[position] == 0xFF and picture[position + 1] not in (0xDA, 0xD9):
        end = position + 2 + struct.unpack_from(">H", picture, position + 2)[0]
        if picture[position + 1] in (0xE1, 0xE2):
            found += picture[position:end]
        position = end
    return found
