"""The .fdc file, version 1: pack, parse, refuse. FORMAT.md describes the layout byte by byte."""

import zlib
from dataclasses import dataclass, field

from codec import images
from codec.errors import BitstreamError
from codec.format.chunks import Chunk, Chunks, parse_alpha, parse_metadata
from codec.quantization.quantizer import LARGEST_TIMESTEP_CODE, Parameters, quality_of_code

MAGIC = b"FDC"
VERSION = 1
FOUR_ALPHAS, GREY, ALPHA, ICC, EXIF = 1, 2, 4, 8, 16
KNOWN_FLAGS = FOUR_ALPHAS | GREY | ALPHA | ICC | EXIF
BUNDLE_ID_BYTES = 8
MAX_SIDE = 2**20 - 1
MAX_PIXELS = 2**30
"""Larger declared sizes are refused before anything is allocated."""
DEFAULT_MAX_PIXELS = images.MAX_PIXELS
"""What a decoder takes on unless it is told otherwise: all that the reader of pictures lets an encoder have."""


@dataclass(frozen=True)
class File:
    """An .fdc file taken apart. bundle_id is the head of the bundle's hash, 16 hex digits."""

    width: int
    height: int
    grey: bool
    bundle_id: str
    quality_code: int
    parameters: Parameters
    stream: bytes
    chunks: Chunks = field(default_factory=Chunks)

    @property
    def quality(self) -> float:
        """Lambda as coded."""
        return quality_of_code(self.quality_code)

    @property
    def timestep(self) -> float:
        return self.parameters.timestep

    @property
    def latent_shape(self) -> tuple[int, int]:
        """Height and width of the latent."""
        return -(-self.height // 8), -(-self.width // 8)


def pack(file: File) -> bytes:
    """The bytes of a file: header, stream, chunks, CRC32."""
    codes, chunks = file.parameters.alpha_codes, _in_order(file.chunks)
    flags = FOUR_ALPHAS * (len(codes) == 4) | GREY * file.grey | sum(flag for flag, chunk in chunks if chunk)
    body = b"".join(
        [
            MAGIC,
            bytes([VERSION, flags]),
            bytes.fromhex(file.bundle_id),
            _varint(file.width),
            _varint(file.height),
            bytes([file.quality_code]),
            file.parameters.timestep_code.to_bytes(2, "little"),
            bytes(codes),
            _varint(len(file.stream)),
            file.stream,
            *(_varint(len(chunk.coded)) + chunk.coded for _, chunk in chunks if chunk),
        ]
    )
    return body + zlib.crc32(body).to_bytes(4, "little")


def parse(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> File:
    """Take a file apart; chunks are decoded, the stream is not. Raises BitstreamError naming what is wrong and where.

    Allocates at most 4 len(data) + 3 max_pixels + 64 MiB, and for a file without chunks only its own length.
    """
    reader = _Reader(data)
    if reader.take(3, "magic number") != MAGIC:
        raise BitstreamError("not an .fdc file: it does not start with FDC")
    version = reader.byte("version")
    if version != VERSION:
        raise BitstreamError(
            f"format version {version} at byte 3 is not supported; this release reads version {VERSION}"
        )
    if len(data) < 4 or zlib.crc32(data[:-4]).to_bytes(4, "little") != data[-4:]:
        raise BitstreamError("the checksum does not match: the file is damaged or incomplete")
    reader.data = data[:-4]
    flags = reader.byte("flags")
    if flags & ~KNOWN_FLAGS:
        raise BitstreamError(f"unknown flags {flags:#04x} at byte 4")
    bundle_id = reader.take(BUNDLE_ID_BYTES, "bundle id").hex()
    width, height = reader.varint("width"), reader.varint("height")
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise BitstreamError(f"impossible size {width} x {height} in the header")
    if width * height > max_pixels:
        raise BitstreamError(
            f"the header declares {width} x {height} pixels, more than the limit of {max_pixels}; "
            "pass a larger max_pixels to decode it"
        )
    quality_code = reader.byte("quality code")
    timestep = int.from_bytes(reader.take(2, "timestep"), "little")
    if timestep > LARGEST_TIMESTEP_CODE:
        raise BitstreamError(f"timestep code {timestep} exceeds {LARGEST_TIMESTEP_CODE}")
    alphas = tuple(reader.take(4 if flags & FOUR_ALPHAS else 1, "alpha codes"))
    stream = reader.take(reader.varint("stream length"), "stream")
    coded = {flag: reader.take(reader.varint(name), name) for flag, name in _CHUNKS.items() if flags & flag}
    if rest := len(reader.data) - reader.place:
        raise BitstreamError(f"{rest} bytes too many after the last part, at byte {reader.place}")
    chunks = Chunks(
        parse_alpha(coded[ALPHA], width, height) if ALPHA in coded else None,
        parse_metadata(coded[ICC], _CHUNKS[ICC]) if ICC in coded else None,
        parse_metadata(coded[EXIF], _CHUNKS[EXIF]) if EXIF in coded else None,
    )
    parameters = Parameters(alphas, timestep)
    return File(width, height, bool(flags & GREY), bundle_id, quality_code, parameters, stream, chunks)


_CHUNKS = {ALPHA: "alpha plane", ICC: "colour profile", EXIF: "EXIF block"}
"""The chunks in file order."""


def _in_order(chunks: Chunks) -> list[tuple[int, Chunk | None]]:
    return [(ALPHA, chunks.alpha), (ICC, chunks.icc), (EXIF, chunks.exif)]


def _varint(value: int) -> bytes:
    """Seven bits a byte, lowest first, the top bit set on all but the last byte."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.place = data, 0

    def take(self, count: int, what: str) -> bytes:
        if self.place + count > len(self.data):
            raise BitstreamError(f"the file ends at byte {len(self.data)}, inside its {what}")
        self.place += count
        return self.data[self.place - count : self.place]

    def byte(self, what: str) -> int:
        return self.take(1, what)[0]

    def varint(self, what: str) -> int:
        value = 0
        for shift in range(0, 35, 7):
            byte = self.byte(what)
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if byte == 0 and shift:
                    break
                return value
        raise BitstreamError(f"the {what} before byte {self.place} is not a valid number")
