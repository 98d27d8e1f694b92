"""Version 1 of the file format, read-only: three positional chunks, upright pixels."""

from dataclasses import dataclass

from codec.errors import BitstreamError
from codec.format.chunks import Chunk, parse_alpha, parse_content
from codec.format.reader import ByteReader
from codec.format.tags import ALPHA, EXIF, ICC

MAGIC = b"FDC\x01"
FOUR_ALPHAS = 1
GRAY = 2
POSITIONS = {4: (ALPHA, "alpha plane"), 8: (ICC, "color profile"), 16: (EXIF, "EXIF block")}
"""The chunks in file order, by their flags."""


@dataclass(frozen=True)
class Version1Header:
    """The fields before the timestep; `reader` is positioned after them."""

    reader: ByteReader
    flags: int
    bundle_id: str
    width: int
    height: int
    quality_code: int

    @property
    def four_alphas(self) -> bool:
        return bool(self.flags & FOUR_ALPHAS)

    @property
    def gray(self) -> bool:
        return bool(self.flags & GRAY)


def head(data: bytes) -> Version1Header:
    """Reads up to the quality code. Raises BitstreamError."""
    reader = ByteReader(data, len(MAGIC))
    reader.check()
    flags = reader.byte("flags")
    if flags & ~(FOUR_ALPHAS | GRAY | sum(POSITIONS)):
        raise BitstreamError(f"unknown flags {flags:#04x} at byte 4")
    bundle_id = reader.take(8, "bundle id").hex()
    return Version1Header(
        reader, flags, bundle_id, reader.varint("width"), reader.varint("height"), reader.byte("quality code")
    )  # fmt: skip


def chunks(read: Version1Header) -> tuple[Chunk, ...]:
    """Reads the chunks, which end the file. Raises BitstreamError."""
    reader = read.reader
    coded = {flag: reader.take(reader.varint(name), name) for flag, (_, name) in POSITIONS.items() if read.flags & flag}
    if reader.left:
        raise BitstreamError(f"{reader.left} excess bytes after the last part, at byte {reader.position}")
    found = []
    for flag, payload in coded.items():
        tag, name = POSITIONS[flag]
        if tag == ALPHA:
            found.append(parse_alpha(payload, read.width, read.height))
            continue
        content = parse_content(payload, name)
        if not content:
            raise BitstreamError(f"the {name} is empty; the file is damaged")
        if tag == EXIF:
            content = content.removeprefix(b"Exif\0\0") or content
        found.append(Chunk(tag, payload, content))
    return tuple(found)
