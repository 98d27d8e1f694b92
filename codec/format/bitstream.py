"""The .fdc file, version 2: packing, parsing, validation. FORMAT.md describes the layout byte by byte."""

import zlib
from dataclasses import dataclass, field

from codec import images
from codec.errors import BitstreamError, BitstreamLimitError
from codec.format import chunks as chunk_codes
from codec.format import version1
from codec.format.chunks import Chunk
from codec.format.reader import ByteReader, varint
from codec.quantization.parameters import LARGEST_TIMESTEP_CODE, QuantizationParameters, quality_of_code

SIGNATURE = b"\x8fFDC\r\n\x1a\n"
"""A byte above 127, a name, CR LF, end-of-file and LF, so that a transfer in text mode damages it."""
VERSION = 2
MINOR = 0
FOUR_ALPHAS = 1
"""Flag: each channel has its own alpha code."""
GRAY = 2
"""Flag: the picture has a single channel."""
BUNDLE_ID_BYTES = 8
MAX_SIDE = 2**20 - 1
MAX_PIXELS = 2**30
"""Files that declare more are refused before anything is allocated."""
DEFAULT_MAX_PIXELS = images.MAX_PIXELS
"""A decoder's default limit, equal to the encoder's limit on sources."""


@dataclass(frozen=True)
class FdcFile:
    """A parsed .fdc file. bundle_id is the first 16 hex digits of the bundle's hash."""

    width: int
    height: int
    """Of the stored pixels, before the orientation is applied."""
    gray: bool
    bundle_id: str
    quality_code: int
    parameters: QuantizationParameters
    stream: bytes
    chunks: tuple[Chunk, ...] = ()
    """Critical chunks first, each group ascending by tag and index."""
    orientation: int = 1
    """1 to 8 as in EXIF, to be applied for display."""
    version: int = VERSION
    unknown: tuple[tuple[str, int], ...] = field(default=())
    """Tag and length of each unknown ancillary chunk, which was skipped."""
    minor: int = MINOR
    """The file's minor version; `pack` writes this release's."""

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

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height after the orientation is applied."""
        is_turned = self.orientation > 4  # 5 to 8 of EXIF exchange rows and columns
        return (self.height, self.width) if is_turned else (self.width, self.height)


def pack(file: FdcFile) -> bytes:
    """Serializes a version 2 file: header, stream, orientation, chunks, CRC32."""
    codes = file.parameters.alpha_codes
    if len(set(codes)) == 1:  # four equal codes are written as one: a picture has one encoding only
        codes = codes[:1]
    flags = 0
    if len(codes) == 4:
        flags |= FOUR_ALPHAS
    if file.gray:
        flags |= GRAY
    body = b"".join(
        [
            SIGNATURE,
            bytes([VERSION, MINOR, flags]),
            bytes.fromhex(file.bundle_id),
            varint(file.width),
            varint(file.height),
            bytes([file.quality_code]),
            file.parameters.timestep_code.to_bytes(2, "little"),
            bytes(codes),
            varint(len(file.stream)),
            file.stream,
            bytes([file.orientation]),
            chunk_codes.written(file.chunks),
        ]
    )
    return body + zlib.crc32(body).to_bytes(4, "little")


def parse(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> FdcFile:
    """Parses a file; decodes its chunks, but not its stream. Raises BitstreamError that names the fault and its place.

    Allocates at most 4 len(data) + 3 max_pixels + 128 MiB, and only its own length for a file without chunks.
    """
    if data.startswith(version1.MAGIC):
        return _version1(data, max_pixels)
    if not data.startswith(SIGNATURE):
        if data[1:4] == b"FDC":
            raise BitstreamError(
                "the signature is damaged, as by a transfer in text mode; fetch the file again in binary mode"
            )
        raise BitstreamError("not an .fdc file: the signature is missing")
    reader = ByteReader(data, len(SIGNATURE))
    version = reader.byte("version")
    minor = reader.byte("minor version")
    if version != VERSION:
        raise BitstreamError(f"format version {version} at byte 8 is not supported; this release reads 1 and {VERSION}")
    reader.check()  # the checksum, before any field is trusted; another version may have another one
    flags = reader.byte("flags")
    if flags & ~(FOUR_ALPHAS | GRAY):
        raise BitstreamError(f"unknown flags {flags:#04x} at byte 10")
    bundle_id = reader.take(BUNDLE_ID_BYTES, "bundle id").hex()
    width = reader.varint("width")
    height = reader.varint("height")
    check_size(width, height, max_pixels)
    quality_code = reader.byte("quality code")
    parameters = parameters_of(reader, four=bool(flags & FOUR_ALPHAS))
    if len(parameters.alpha_codes) == 4 and len(set(parameters.alpha_codes)) == 1:
        raise BitstreamError("four equal alpha codes instead of one")
    stream = reader.take(_stream_length(reader), "stream")
    orientation = reader.byte("orientation")
    if not 1 <= orientation <= 8:
        raise BitstreamError(f"orientation {orientation} at byte {reader.position - 1} is not 1 to 8")
    chunks, unknown = chunk_codes.read(reader, width, height, newer=minor > MINOR)
    return FdcFile(
        width=width,
        height=height,
        gray=bool(flags & GRAY),
        bundle_id=bundle_id,
        quality_code=quality_code,
        parameters=parameters,
        stream=stream,
        chunks=chunks,
        orientation=orientation,
        unknown=unknown,
        minor=minor,
    )


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raises BitstreamError for an invalid size, BitstreamLimitError for one beyond the limit."""
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise BitstreamError(f"impossible size {width} x {height} in the header")
    if width * height > max_pixels:
        raise BitstreamLimitError(
            f"the header declares {width} x {height} pixels, more than the limit of {max_pixels}; "
            "pass a larger max_pixels to decode it"
        )


def parameters_of(reader: ByteReader, *, four: bool) -> QuantizationParameters:
    """Timestep and alpha codes. Raises BitstreamError."""
    timestep = int.from_bytes(reader.take(2, "timestep"), "little")
    if timestep > LARGEST_TIMESTEP_CODE:
        raise BitstreamError(f"timestep code {timestep} exceeds {LARGEST_TIMESTEP_CODE}")
    return QuantizationParameters(tuple(reader.take(4 if four else 1, "alpha codes")), timestep)


def _stream_length(reader: ByteReader) -> int:
    length = reader.varint("stream length")
    if length == 0 or length % 4:
        raise BitstreamError(f"impossible stream length of {length} bytes: it must be a positive multiple of 4")
    return length


def _version1(data: bytes, max_pixels: int) -> FdcFile:
    """Parses a file of version 1: positional chunks, upright pixels."""
    head = version1.head(data)
    check_size(head.width, head.height, max_pixels)
    parameters = parameters_of(head.reader, four=head.four_alphas)
    stream = head.reader.take(_stream_length(head.reader), "stream")
    chunks = version1.chunks(head)
    return FdcFile(
        width=head.width,
        height=head.height,
        gray=head.gray,
        bundle_id=head.bundle_id,
        quality_code=head.quality_code,
        parameters=parameters,
        stream=stream,
        chunks=chunks,
        version=1,
    )
