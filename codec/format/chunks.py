"""The chunks after the stream: lossless data besides the pixels, each under a tag.

A chunk is its tag, a varint length and a payload. The payload of a tag that may repeat begins with its index. The rest
is raw LZMA2 as in the xz format; for an alpha plane it is preceded by one byte. Decoding never writes more than the
picture's size, or the limits here, allow.
"""

import lzma
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from codec.errors import BitstreamError, ImageError
from codec.format.reader import ByteReader, varint
from codec.format.tags import ALPHA, CRITICAL, ICC, KNOWN, NAMES, PREVIEW, REPEATABLE, MetadataBlock
from codec.images import Picture

MOST_CHUNKS = 256
CONTENT_LIMIT = 2**24
"""Upper bound on one chunk's content, in bytes; an alpha plane has one byte per pixel instead."""
ALL_CONTENT_LIMIT = 2**26
"""Upper bound on the content of all chunks except the alpha plane, in bytes."""
DICTIONARY = 2**20
"""LZMA2 dictionary size in bytes."""
PLAIN, ALONG_ROWS, DOWN_COLUMNS = range(3)
"""Coding modes of an alpha plane: values, or differences modulo 256 to the left or upper neighbor."""

_decoder = partial(lzma.LZMADecompressor, lzma.FORMAT_RAW, None, [{"id": lzma.FILTER_LZMA2, "dict_size": DICTIONARY}])
_ENCODER = {"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": DICTIONARY, "lc": 3, "lp": 0, "pb": 0}


@dataclass(frozen=True)
class Chunk:
    """A chunk as stored, with its decoded content."""

    tag: str
    coded: bytes
    """The payload without an index."""
    content: bytes
    """For an alpha plane, the values in raster order."""


def of_picture(picture: Picture) -> tuple[Chunk, ...]:
    """The chunks of a picture, in file order.

    Raises ImageError if they exceed a file's limits.
    """
    chunks = []
    if picture.alpha is not None:
        chunks.append(code_alpha(picture.alpha))
    blocks = [MetadataBlock(ICC, picture.icc)] if picture.icc else []
    blocks += [block for block in picture.blocks if block.content]
    total = 0
    for block in blocks:
        if len(block.content) > CONTENT_LIMIT:
            what = NAMES[block.tag]
            raise ImageError(
                f"the picture's {what} has {len(block.content)} bytes; at most {CONTENT_LIMIT} can be kept"
            )
        total += len(block.content)
        chunks.append(Chunk(block.tag, compressed(block.content), block.content))
    if total > ALL_CONTENT_LIMIT or len(chunks) > MOST_CHUNKS:
        raise ImageError(
            f"the picture has {total} bytes of metadata in {len(chunks)} blocks; at most {ALL_CONTENT_LIMIT} in "
            f"{MOST_CHUNKS} can be kept"
        )
    return tuple(sorted(chunks, key=_order))  # stable: blocks of one tag keep their order


def to_picture(
    chunks: Iterable[Chunk], pixels: NDArray[np.uint8], *, gray: bool, orientation: int, version: int
) -> Picture:
    """The picture with these stored colors (H, W, 3) and the chunks' content; the preview is left out."""
    alpha = None
    icc = None
    blocks = []
    for chunk in chunks:
        if chunk.tag == ALPHA:
            alpha = np.frombuffer(chunk.content, np.uint8).reshape(pixels.shape[:2])
        elif chunk.tag == ICC:
            icc = chunk.content
        elif chunk.tag != PREVIEW:
            blocks.append(MetadataBlock(chunk.tag, chunk.content))
    return Picture(pixels, gray, f"FDC{version}", alpha, icc, orientation, tuple(blocks))


def written(chunks: Iterable[Chunk]) -> bytes:
    """Serializes chunks in file order."""
    out = []
    counts = dict.fromkeys(REPEATABLE, 0)
    for chunk in sorted(chunks, key=_order):
        payload = chunk.coded
        if chunk.tag in counts:
            payload = varint(counts[chunk.tag]) + payload
            counts[chunk.tag] += 1
        out.append(chunk.tag.encode() + varint(len(payload)) + payload)
    return b"".join(out)


Skipped = tuple[tuple[str, int], ...]
"""Tag and length of unknown chunks."""


def read(reader: ByteReader, width: int, height: int, *, newer: bool) -> tuple[tuple[Chunk, ...], Skipped]:
    """Parses the chunks up to the end of the file, and tag and length of unknown ones. Raises BitstreamError."""
    chunks: list[Chunk] = []
    unknown: list[tuple[str, int]] = []
    last: tuple[bool, str, int] | None = None
    total = 0
    while reader.left:
        if len(chunks) + len(unknown) == MOST_CHUNKS:
            raise BitstreamError(f"more than {MOST_CHUNKS} chunks, at byte {reader.position}")
        at = reader.position
        tag = _tag(reader.take(4, "chunk's tag"), at)
        payload = ByteReader(reader.take(reader.varint(f"length of chunk {tag}"), f"chunk {tag}"))
        index = payload.varint(f"index of chunk {tag}") if tag in REPEATABLE else 0
        position = (tag[0].islower(), tag, index)  # one order only, so that equal pictures have equal files
        if last is not None and position <= last:
            raise BitstreamError(f"chunk {tag} at byte {at} is repeated or out of order")
        follows_its_kind = last is not None and last[1] == tag
        next_index = last[2] + 1 if last is not None and follows_its_kind else 0
        if tag in REPEATABLE and index != next_index:  # a gap shows that a chunk was cut out
            raise BitstreamError(f"chunk {tag} at byte {at} has index {index}, which is not the next")
        last = position
        if tag not in KNOWN:
            if tag[0].isupper():
                why = "a later release wrote the file" if newer else "the file is damaged or from another release"
                raise BitstreamError(f"unknown critical chunk {tag} at byte {at}: {why}")
            unknown.append((tag, payload.left))
            continue
        coded = payload.take(payload.left, f"chunk {tag}")
        if tag == ALPHA:
            chunks.append(parse_alpha(coded, width, height))
            continue
        content = parse_content(coded, NAMES[tag])
        if not content:
            raise BitstreamError(f"the {NAMES[tag]} at byte {at} is empty; the file is damaged")
        total += len(content)
        if total > ALL_CONTENT_LIMIT:
            raise BitstreamError(f"the chunks hold more than {ALL_CONTENT_LIMIT} bytes; the file is damaged")
        chunks.append(Chunk(tag, coded, content))
    return tuple(chunks), tuple(unknown)


def _tag(raw: bytes, at: int) -> str:
    if not (raw.isalpha() and raw.isascii()) or raw[2] & 0x20:
        raise BitstreamError(f"{raw!r} at byte {at} is not a chunk tag")
    return raw.decode()


def _order(chunk: Chunk) -> tuple[bool, str]:
    return chunk.tag not in CRITICAL, chunk.tag


def code_alpha(plane: NDArray[np.uint8]) -> Chunk:
    """Codes a plane (H, W) in the smallest of three modes."""
    above = np.zeros_like(plane[:1])
    left = np.zeros_like(plane[:, :1])
    by_mode = {
        PLAIN: plane,
        ALONG_ROWS: np.diff(plane, axis=1, prepend=left),
        DOWN_COLUMNS: np.diff(plane, axis=0, prepend=above),
    }
    coded = [bytes([mode]) + compressed(values.tobytes()) for mode, values in by_mode.items()]
    return Chunk(ALPHA, min(coded, key=len), plane.tobytes())


def parse_alpha(coded: bytes, width: int, height: int) -> Chunk:
    """Decodes a plane of known size. Raises BitstreamError if it is invalid."""
    if not coded or coded[0] > DOWN_COLUMNS:
        raise BitstreamError("the alpha plane has an unknown coding mode; the file is damaged")
    content = _decompressed(coded[1:], width * height, "alpha plane")
    if len(content) != width * height:
        raise BitstreamError(f"the alpha plane has {len(content)} values, not {width * height}; the file is damaged")
    if coded[0] != PLAIN:
        differences = np.frombuffer(content, np.uint8).reshape(height, width)
        axis = 1 if coded[0] == ALONG_ROWS else 0
        content = np.cumsum(differences, axis=axis, dtype=np.uint8).tobytes()  # wraps modulo 256 as np.diff did
    return Chunk(ALPHA, coded, content)


def parse_content(coded: bytes, name: str) -> bytes:
    """Decodes the content of any other chunk. Raises BitstreamError."""
    return _decompressed(coded, CONTENT_LIMIT, name)


def compressed(content: bytes) -> bytes:
    """Compresses bytes to raw LZMA2."""
    return lzma.compress(content, lzma.FORMAT_RAW, filters=[_ENCODER])


def _decompressed(coded: bytes, limit: int, name: str) -> bytes:
    """Decompresses at most limit + 1 bytes."""
    decoder = _decoder()
    try:
        content = decoder.decompress(coded, limit + 1)  # one byte more tells "too long" from "exactly the limit"
    except lzma.LZMAError:
        raise BitstreamError(f"the {name} is not LZMA2 data; the file is damaged") from None
    if len(content) > limit:
        raise BitstreamError(f"the {name} is longer than {limit} bytes; the file is damaged")
    if not decoder.eof or decoder.unused_data:
        raise BitstreamError(f"the {name} does not end where its chunk ends; the file is damaged")
    return content
