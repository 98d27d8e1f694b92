"""What an .fdc file keeps without loss beside its stream: an alpha plane, a colour profile, an EXIF block.

Each is LZMA2 as in the xz format, without a container. Decoding writes at most what the picture's size, or
METADATA_LIMIT, allows, however small the coded bytes are.
"""

import lzma
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from codec.errors import BitstreamError, ImageError
from codec.images import Picture

METADATA_LIMIT = 2**24
"""Bytes that a colour profile or an EXIF block has at most."""
DICTIONARY = 2**20
"""Bytes that a decoder keeps for matches."""
PLAIN, ALONG_ROWS, DOWN_COLUMNS = range(3)
"""What is coded of an alpha plane: its values, or their differences modulo 256 to the left or to above."""

_decoder = partial(lzma.LZMADecompressor, lzma.FORMAT_RAW, None, [{"id": lzma.FILTER_LZMA2, "dict_size": DICTIONARY}])
_ENCODER = {"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": DICTIONARY, "lc": 3, "lp": 0, "pb": 0}


@dataclass(frozen=True)
class Chunk:
    """A chunk as it is in the file, and what it holds."""

    coded: bytes
    content: bytes
    """Of an alpha plane the values in raster order."""


@dataclass(frozen=True)
class Chunks:
    """The chunks of a file, each where there is one."""

    alpha: Chunk | None = None
    icc: Chunk | None = None
    exif: Chunk | None = None

    @classmethod
    def of(cls, picture: Picture, *, keep_exif: bool) -> "Chunks":
        """What a picture has beside its colours. Raises ImageError for metadata beyond METADATA_LIMIT."""
        return cls(
            None if picture.alpha is None else code_alpha(picture.alpha),
            code_metadata(picture.icc, "colour profile") if picture.icc else None,
            code_metadata(picture.exif, "EXIF block") if picture.exif and keep_exif else None,
        )

    def picture(self, pixels: NDArray[np.uint8], *, grey: bool) -> Picture:
        """The picture of these colours (H, W, 3) with all that is beside them."""
        alpha, icc, exif = (chunk.content if chunk else None for chunk in (self.alpha, self.icc, self.exif))
        plane = None if alpha is None else np.frombuffer(alpha, np.uint8).reshape(pixels.shape[:2])
        return Picture(pixels, grey, "FDC", plane, icc, exif)


def code_alpha(plane: NDArray[np.uint8]) -> Chunk:
    """The smallest of the three ways to code a plane (H, W)."""
    above = np.zeros_like(plane[:1])
    left = np.zeros_like(plane[:, :1])
    ways = plane, np.diff(plane, axis=1, prepend=left), np.diff(plane, axis=0, prepend=above)
    coded = [bytes([way]) + _compressed(values.tobytes()) for way, values in enumerate(ways)]
    return Chunk(min(coded, key=len), plane.tobytes())


def parse_alpha(coded: bytes, width: int, height: int) -> Chunk:
    """The chunk of a plane of known size. Raises BitstreamError for what is no such plane."""
    if not coded or coded[0] > DOWN_COLUMNS:
        raise BitstreamError("the alpha plane is coded in an unknown way; the file is damaged")
    content = _decompressed(coded[1:], width * height, "alpha plane")
    if len(content) != width * height:
        raise BitstreamError(f"the alpha plane has {len(content)} values, not {width * height}; the file is damaged")
    if coded[0] != PLAIN:
        differences = np.frombuffer(content, np.uint8).reshape(height, width)
        content = np.cumsum(differences, axis=1 if coded[0] == ALONG_ROWS else 0, dtype=np.uint8).tobytes()
    return Chunk(coded, content)


def code_metadata(content: bytes, name: str) -> Chunk:
    """The chunk of a colour profile or an EXIF block. Raises ImageError beyond METADATA_LIMIT."""
    if len(content) > METADATA_LIMIT:
        raise ImageError(f"the picture's {name} has {len(content)} bytes; at most {METADATA_LIMIT} can be kept")
    return Chunk(_compressed(content), content)


def parse_metadata(coded: bytes, name: str) -> Chunk:
    """The chunk of a colour profile or an EXIF block. Raises BitstreamError."""
    content = _decompressed(coded, METADATA_LIMIT, name)
    if not content:
        raise BitstreamError(f"the {name} is empty; the file is damaged")
    return Chunk(coded, content)


def _compressed(content: bytes) -> bytes:
    return lzma.compress(content, lzma.FORMAT_RAW, filters=[_ENCODER])


def _decompressed(coded: bytes, limit: int, name: str) -> bytes:
    """Never more than limit + 1 bytes."""
    decoder = _decoder()
    try:
        content = decoder.decompress(coded, limit + 1)
    except lzma.LZMAError:
        raise BitstreamError(f"the {name} is no LZMA2 data; the file is damaged") from None
    if len(content) > limit:
        raise BitstreamError(f"the {name} is longer than {limit} bytes; the file is damaged")
    if not decoder.eof or decoder.unused_data:
        raise BitstreamError(f"the {name} does not end where its chunk ends; the file is damaged")
    return content
