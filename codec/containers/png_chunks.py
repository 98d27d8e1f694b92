"""PNG chunks for blocks of metadata (PNG, third edition, section 11.3; raw profiles as ImageMagick writes them)."""

import struct
import zlib
from collections.abc import Iterable

from codec.format.tags import MetadataBlock

OF_STORAGE = (b"PLTE", b"hIST", b"bKGD", b"sBIT")
"""PNG chunks whose form depends on how the source stored its pixels, which differs from how they are written."""
METERS = {1: 0.0254, 2: 0.01, 3: 1.0}
"""Meters of each unit of resolution."""


def of_block(block: MetadataBlock) -> bytes:
    """The chunks for a block, encoded; empty if PNG cannot hold it."""
    return b"".join(_chunk(kind, content) for kind, content in _chunks(block))


def _chunks(block: MetadataBlock) -> Iterable[tuple[bytes, bytes]]:
    """Type and content of the chunks for a block; none if PNG cannot hold it."""
    content = block.content
    match block.tag:
        case "exIf":
            yield b"eXIf", content
        case "xmPp":
            yield b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + content
        case "teXt":
            yield content[:4], content[4:]
        case "coMm":
            yield b"tEXt", b"Comment\0" + content.replace(b"\0", b" ")  # a text must not contain zeros
        case "ipTc":
            yield b"zTXt", _raw_profile(b"iptc", content)
        case "psIr":
            yield b"zTXt", _raw_profile(b"8bim", content.removeprefix(b"Photoshop 3.0\0"))
        case "phYs":
            yield from _resolution(content)
        case "unKn":
            name, _, data = content.partition(b"\0")
            if name.startswith(b"PNG ") and len(name) == 8 and name[4:] not in OF_STORAGE:
                yield name[4:], data


def _resolution(content: bytes) -> Iterable[tuple[bytes, bytes]]:
    unit, across, across_of, down, down_of = struct.unpack("<B4I", content)
    if not across_of or not down_of:
        return
    meters = METERS.get(unit, 1.0)
    values = [round(across / across_of / meters), round(down / down_of / meters)]
    if all(0 < value < 1 << 31 for value in values):  # PNG's integers have 31 bits (section 7.1)
        yield b"pHYs", struct.pack(">IIB", *values, 1 if unit else 0)


def _raw_profile(kind: bytes, content: bytes) -> bytes:
    """Hexadecimal text, as ImageMagick and ExifTool store blocks for which PNG has no chunk."""
    digits = content.hex().encode()
    lines = b"\n".join(digits[begin : begin + 72] for begin in range(0, len(digits), 72))
    text = b"\n" + kind + b"\n" + str(len(content)).rjust(8).encode() + b"\n" + lines + b"\n"
    return b"Raw profile type " + kind + b"\0\0" + zlib.compress(text)


def _chunk(kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return struct.pack(">I", len(content)) + body + zlib.crc32(body).to_bytes(4, "big")
