"""Lossless JPEG XL: the smaller file of a picture that an .fdc file cannot stand for.

A JPEG is transcoded, and comes back to the byte. Of a PNG that says nothing beside its pixels in sRGB, the pixels are
kept, of 8 or 16 bits, with their transparency, and come back as a PNG. Any other file has no such form: what cannot be
had again exactly is better kept as it is.
"""

import hashlib
import struct
from collections.abc import Iterator
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from codec.errors import ImageError

SIGNATURES = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")
"""How a bare codestream and a container begin."""
EFFORT = 3
"""Of 1 to 10: at 7 a photo's pixels take ten times as long for 7 % fewer bytes."""
JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
SILENT_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"sRGB", b"IDAT", b"IEND"}
"""The chunks of a PNG that say nothing beside its pixels in sRGB."""


def is_jpeg_xl(data: bytes) -> bool:
    """Whether the bytes begin like a JPEG XL file."""
    return data.startswith(SIGNATURES)


def transcode(source: bytes) -> bytes | None:
    """A file as lossless JPEG XL, or None where it has no form that `restore` brings back exactly."""
    try:
        coded = _coded(source)
        if coded is None or content_hash(restore(coded)) != content_hash(source):
            return None
    except (ImageError, RuntimeError, ValueError):  # damaged, or of a kind that the libraries do not take
        return None
    return coded


def restore(data: bytes) -> bytes:
    """The JPEG that a JPEG XL file was made from, to the byte; else its pixels as PNG. Raises ImageError."""
    try:
        if b"jbrd" in _boxes(data):
            return bytes(imagecodecs.jpegxl_decode_jpeg(data, numthreads=1))
        return bytes(imagecodecs.png_encode(imagecodecs.jpegxl_decode(data, numthreads=1)))
    except (RuntimeError, ValueError) as error:
        raise ImageError(f"the JPEG XL file is damaged: {error}") from None


def content_hash(file: bytes) -> str:
    """SHA-256 of what must come back: of a JPEG all bytes, of another picture shape, type and values of its samples.

    Raises ImageError for a file that is kept in neither way.
    """
    if file.startswith(JPEG):
        return hashlib.sha256(file).hexdigest()
    samples = _samples(file)
    if samples is None:
        raise ImageError("neither a JPEG nor a PNG of pixels alone")
    digest = hashlib.sha256(f"{samples.shape} {samples.dtype.str}\n".encode())
    digest.update(samples.data)
    return digest.hexdigest()


def _coded(source: bytes) -> bytes | None:
    if source.startswith(JPEG):
        return bytes(imagecodecs.jpegxl_encode_jpeg(source, usecontainer=True, numthreads=1))
    samples = _samples(source)
    if samples is None:
        return None
    return bytes(imagecodecs.jpegxl_encode(samples, lossless=True, effort=EFFORT, numthreads=1))


def _samples(file: bytes) -> NDArray[Any] | None:
    """The pixels (H, W) or (H, W, C), C up to 4, of a PNG that says nothing beside them; else None."""
    if not file.startswith(PNG):
        return None
    position = len(PNG)
    while position + 8 <= len(file):
        length, kind = struct.unpack_from(">I4s", file, position)
        if kind not in SILENT_CHUNKS:
            return None
        position += 12 + length
    return np.ascontiguousarray(imagecodecs.png_decode(file)) if position == len(file) else None


def _boxes(data: bytes) -> Iterator[bytes]:
    """The kinds of a container's boxes, up to one that reaches to the end or is of more than 4 GiB."""
    position = 0
    while data.startswith(SIGNATURES[1]) and position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        yield kind
        if length < 8:
            return
        position += length
