"""Lossless JPEG XL for pictures that an .fdc file cannot replace.

A JPEG is transcoded and restored byte for byte. A PNG without information besides its sRGB pixels keeps its pixels, of
8 or 16 bits, with transparency, and is restored as a PNG. Other files have no exact form and are kept as they are.
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
"""Signatures of a bare codestream and of a container."""
EFFORT = 3
"""libjxl effort, 1 to 10: at 7 a photo takes ten times as long for 7 % fewer bytes."""
JPEG = b"\xff\xd8\xff"
PNG = b"\x89PNG\r\n\x1a\n"
SILENT_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"sRGB", b"IDAT", b"IEND"}
"""PNG chunks that carry nothing besides sRGB pixels."""


def is_jpeg_xl(data: bytes) -> bool:
    """Whether the bytes start with a JPEG XL signature."""
    return data.startswith(SIGNATURES)


def transcode(source: bytes) -> bytes | None:
    """Encodes a file as lossless JPEG XL; None if `restore` could not restore it exactly."""
    try:
        coded = _coded(source)
        if coded is None or content_hash(restore(coded)) != content_hash(source):
            return None
    except (ImageError, RuntimeError, ValueError):  # damaged, or unsupported by the libraries
        return None
    return coded


def restore(data: bytes) -> bytes:
    """Restores the original JPEG byte for byte, or else the pixels as PNG. Raises ImageError."""
    try:
        if b"jbrd" in _boxes(data):
            return bytes(imagecodecs.jpegxl_decode_jpeg(data, numthreads=1))
        return bytes(imagecodecs.png_encode(imagecodecs.jpegxl_decode(data, numthreads=1)))
    except (RuntimeError, ValueError) as error:
        raise ImageError(f"the JPEG XL file is damaged: {error}") from None


def content_hash(file: bytes) -> str:
    """SHA-256 of the content that must be restored: a JPEG's bytes, or shape, type and values of samples.

    Raises ImageError if the file is neither.
    """
    if file.startswith(JPEG):
        return hashlib.sha256(file).hexdigest()
    samples = _samples(file)
    if samples is None:
        raise ImageError("neither a JPEG nor a plain PNG")
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
    """The pixels (H, W) or (H, W, C), C up to 4, of a PNG without other information; else None."""
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
    """Yields a container's box types, up to one that extends to the end or exceeds 4 GiB."""
    position = 0
    while data.startswith(SIGNATURES[1]) and position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        yield kind
        if length < 8:
            return
        position += length
