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
APP1 = 0xE1
APP2 = 0xE2
START_OF_SCAN = 0xDA
END_OF_IMAGE = 0xD9
PRIMARY = 0x030000
"""Type of the first picture's entry: baseline MP primary image (CIPA DC-007, 5.2.3.3.1)."""
SEGMENT = 4 + 4 + 8 + 2 + 3 * 12 + 4
"""Size of the list's segment without its entries, in bytes: marker and length, `MPF\\0`, TIFF header, number of
fields, three fields, offset of the next directory."""


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
    # After SOI and JFIF, which must come first; the gain map's parameters stand in its APP segments.
    head = 4 + struct.unpack_from(">H", plain, 4)[0]
    return MetadataBlock(block.tag, NAME + plain[:head] + _metadata(picture) + plain[head:])


def resized(packet: bytes, old: MetadataBlock, new: MetadataBlock) -> bytes:
    """Returns the XMP packet with the gain map's new length in its directory."""
    old_length = len(old.content) - len(NAME)
    new_length = len(new.content) - len(NAME)
    # RDF allows the property as an attribute or as an element.
    pattern = rb"(Item:Length(?:\s*=\s*[\"']|>)\s*)%d(?=\s*[\"'<])" % old_length
    return re.sub(pattern, rb"\g<1>%d" % new_length, packet)


def joined(head: bytes, rest: bytes, blocks: Sequence[MetadataBlock]) -> bytes:
    """Joins a JPEG, split where segments may be inserted, with the list of gain maps and the gain maps behind it."""
    pictures = [block.content.removeprefix(NAME) for block in blocks if is_one(block)]
    if not pictures:
        return head + rest
    count = len(pictures) + 1
    length = SEGMENT + 16 * count
    position = len(head) + length + len(rest)
    header = len(head) + 8  # offsets count from the list's own TIFF header
    # The first picture has offset 0 (CIPA DC-007, 5.2.3.3.3); its size includes this segment.
    listed = struct.pack("<IIIHH", PRIMARY, position, 0, 0, 0)
    for picture in pictures:
        listed += struct.pack("<IIIHH", 0, len(picture), position - header, 0, 0)
        position += len(picture)
    # Version, number of pictures, and the entries, which begin after the directory.
    fields = struct.pack("<HHHI4s", 3, 0xB000, 7, 4, b"0100")
    fields += struct.pack("<HHII", 0xB001, 4, 1, count)
    fields += struct.pack("<HHIII", 0xB002, 7, 16 * count, SEGMENT - 8, 0)
    content = b"MPF\0II*\0" + struct.pack("<I", 8) + fields + listed
    segment = b"\xff\xe2" + struct.pack(">H", len(content) + 2) + content
    return head + segment + rest + b"".join(pictures)


def _metadata(picture: bytes) -> bytes:
    """The APP1 and APP2 segments of a JPEG."""
    found = b""
    position = 2
    while position + 4 <= len(picture) and picture[position] == 0xFF:
        marker = picture[position + 1]
        if marker in (START_OF_SCAN, END_OF_IMAGE):
            break
        (length,) = struct.unpack_from(">H", picture, position + 2)
        end = position + 2 + length
        if marker in (APP1, APP2):
            found += picture[position:end]
        position = end
    return found
