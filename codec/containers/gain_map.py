"""Puts carried gain maps behind a written JPEG again (CIPA DC-007, Multi-Picture Format; Ultra HDR 1.1)."""

import io
import re
import struct
from collections.abc import Sequence

from PIL import Image

from codec.format.tags import AUXILIARY, MetadataBlock

NAME = b"gain map (MPF)\0"
QUALITY = 95
"""JPEG quality of a gain map that is rotated together with its picture."""
PRIMARY = 0x030000
SEGMENT = 4 + 4 + 8 + 2 + 3 * 12 + 4
"""Size of the list's segment without its entries, in bytes."""


def is_one(block: MetadataBlock) -> bool:
    """Whether a block is a gain map that followed a JPEG."""
    return block.tag == AUXILIARY and block.content.startswith(NAME)


def turned(block: MetadataBlock, turns: Sequence[Image.Transpose]) -> MetadataBlock:
    """Returns the gain map rotated like its picture: encoded again, with its own metadata."""
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
    """Returns the XMP packet with the gain map's new length in its directory."""
    lengths = [len(block.content) - len(NAME) for block in (old, new)]
    pattern = rb"(Item:Length(?:\s*=\s*[\"']|>)\s*)%d(?=\s*[\"'<])" % lengths[0]
    return re.sub(pattern, rb"\g<1>%d" % lengths[1], packet)


def joined(head: bytes, rest: bytes, blocks: Sequence[MetadataBlock]) -> bytes:
    """Joins a JPEG, split where segments may be inserted, with the list of gain maps and the gain maps behind it."""
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
