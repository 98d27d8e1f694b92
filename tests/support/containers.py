"""Picture files put together part by part, so that a test can say exactly what each of them holds."""

import functools
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image as Image

from tests.conftest import synthetic
from tests.support.image_files import chunk, stored

XMP = b"http://ns.adobe.com/xap/1.0/\0"
PACKET = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF>%s</rdf:RDF></x:xmpmeta>'
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@functools.cache
def photo(kind: str = "JPEG", width: int = 64, height: int = 48, **options: int) -> bytes:
    """A synthetic photo in a format that Pillow writes, with nothing beside its pixels."""
    pixels = synthetic(height, width)
    noise = np.random.default_rng(0).integers(-12, 13, pixels.shape)
    return stored((pixels + noise).clip(0, 255).astype(np.uint8), kind, **options)


def segment(marker: int, content: bytes) -> bytes:
    """A JPEG segment."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def jpeg_boundaries(data: bytes) -> list[int]:
    """Where a segment may be inserted: before every segment up to the first scan."""
    places = []
    place = 2  # behind SOI
    # SOS: its length covers its header only, so no segment can be followed past it.
    while data[place + 1] != 0xDA:
        places.append(place)
        place += 2 + struct.unpack_from(">H", data, place + 2)[0]
    return [*places, place]


def with_segments(*segments: bytes, data: bytes | None = None) -> bytes:
    """A JPEG with segments behind its JFIF header."""
    data = photo() if data is None else data
    place = jpeg_boundaries(data)[1]
    return data[:place] + b"".join(segments) + data[place:]


def exif(orientation: int = 1, order: str = "<", extra: Sequence[tuple[int, int, int, bytes]] = ()) -> bytes:
    """An EXIF block: orientation, and further entries (tag, kind, count, value) of which long values are appended."""
    entries = sorted([(274, 3, 1, struct.pack(f"{order}H", orientation)), *extra])
    return _tiff_signature(order) + struct.pack(f"{order}I", 8) + directory(entries, 8, order)


def _tiff_signature(order: str) -> bytes:
    return b"II*\0" if order == "<" else b"MM\0*"


def directory(
    entries: Sequence[tuple[int, int, int, bytes]], place: int, order: str = "<", following: int = 0
) -> bytes:
    """A TIFF directory that begins at `place`, its long values behind it."""
    # A count of 2 bytes, 12 for each entry, and 4 for the place of the next directory.
    behind_at = place + 2 + 12 * len(entries) + 4
    head = struct.pack(f"{order}H", len(entries))
    behind = b""
    for tag, kind, count, value in entries:
        head += struct.pack(f"{order}HHI", tag, kind, count)
        # TIFF 6.0, section 2: a value that fits in four bytes stands in the entry itself.
        if len(value) <= 4:
            head += value.ljust(4, b"\0")
        else:
            head += struct.pack(f"{order}I", behind_at + len(behind))
            behind += value + bytes(len(value) % 2)  # values begin at even places
    return head + struct.pack(f"{order}I", following) + behind


def with_pictures(pictures: Sequence[tuple[int, bytes]], *segments: bytes, first: bytes | None = None) -> bytes:
    """A JPEG with a list of further pictures (Multi-Picture Format), pairs of a kind and a JPEG, behind it."""
    first = with_segments(*segments, data=first)
    place = jpeg_boundaries(first)[1]
    # Marker and length, "MPF\0", TIFF header, then a directory of three entries and 16 bytes for each picture. The list
    # states sizes and offsets of a file that it is part of, so its own length must be known before it is written.
    length = 4 + 4 + 8 + 2 + 3 * 12 + 4 + 16 * (1 + len(pictures))
    size = len(first) + length
    header = place + 8  # offsets count from the list's TIFF header
    listed = struct.pack("<IIIHH", 0x030000, size, 0, 0, 0)  # the primary picture, whose offset is 0 by definition
    offset = size - header
    for kind, picture in pictures:
        listed += struct.pack("<IIIHH", kind, len(picture), offset, 0, 0)
        offset += len(picture)
    entries = [
        (0xB000, 7, 4, b"0100"),
        (0xB001, 4, 1, struct.pack("<I", 1 + len(pictures))),
        (0xB002, 7, len(listed), listed),
    ]
    pictures_list = segment(0xE2, b"MPF\0II*\0\x08\0\0\0" + directory(entries, 8))
    whole = first[:place] + pictures_list + first[place:]
    assert len(whole) == size
    return whole + b"".join(picture for _, picture in pictures)


def box(kind: bytes, *contents: bytes) -> bytes:
    """A box of the ISO base media file format."""
    content = b"".join(contents)
    return struct.pack(">I", 8 + len(content)) + kind + content


def film(length: int = 400) -> bytes:
    """Bytes that begin like an MPEG-4 film."""
    return box(b"ftyp", b"mp42\0\0\0\0mp42isom") + box(b"mdat", bytes(range(256)) * (length // 256 + 1))


def png_chunks(data: bytes) -> list[bytes]:
    """The chunks of a PNG file."""
    found = []
    place = len(PNG_SIGNATURE)
    while place < len(data):
        end = place + 12 + struct.unpack_from(">I", data, place)[0]
        found.append(data[place:end])
        place = end
    return found


def png_with(*chunks: tuple[bytes, bytes], at: int = 1, data: bytes | None = None) -> bytes:
    """A PNG with further chunks before its chunk number `at`."""
    if data is None:
        data = photo("PNG")
    own = png_chunks(data)
    further = [chunk(kind, content) for kind, content in chunks]
    return PNG_SIGNATURE + b"".join([*own[:at], *further, *own[at:]])


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    """A WebP file of these chunks."""
    body = b""
    for kind, content in chunks:
        padding = bytes(len(content) % 2)  # RIFF: a chunk of odd length is padded, and its length does not say so
        body += kind + struct.pack("<I", len(content)) + content + padding
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def webp_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """The chunks of a WebP file."""
    found = []
    place = 12  # behind "RIFF", the length and "WEBP"
    while place < len(data):
        kind, length = struct.unpack_from("<4sI", data, place)
        found.append((kind, data[place + 8 : place + 8 + length]))
        place += 8 + length + length % 2
    return found


def extended_webp(*chunks: tuple[bytes, bytes], flags: int = 0, width: int = 64, height: int = 48) -> bytes:
    """A WebP with an extended header, its picture, and further chunks behind it."""
    size = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    return riff((b"VP8X", bytes([flags, 0, 0, 0]) + size), *webp_chunks(photo("WEBP", width, height)), *chunks)


def gif_extension(label: int, content: bytes) -> bytes:
    """A GIF extension, its content in sub-blocks."""
    blocks = b""
    for place in range(0, len(content), 255):  # a sub-block's length is one byte
        piece = content[place : place + 255]
        blocks += bytes([len(piece)]) + piece
    return bytes([0x21, label]) + blocks + b"\0"


Entry = tuple[int, int, int, bytes]
"""Tag, kind, count and value of a TIFF directory's entry."""


def short(tag: int, *values: int, order: str = "<") -> Entry:
    """An entry of 16-bit numbers."""
    return tag, 3, len(values), struct.pack(f"{order}{len(values)}H", *values)


def text(tag: int, content: bytes) -> Entry:
    """An entry of text, which ends with a zero byte."""
    return tag, 2, len(content) + 1, content + b"\0"


def resolution(value: int = 300, order: str = "<") -> list[Entry]:
    """Entries that state the resolution in pixels an inch."""
    fraction = struct.pack(f"{order}II", value, 1)
    return [(282, 5, 1, fraction), (283, 5, 1, fraction), short(296, 2, order=order)]


def tiff(
    *entries: Entry,
    order: str = "<",
    directories: Sequence[tuple[int, Sequence[Entry]]] = (),
    behind: bytes = b"",
    following: int = 0,
    samples: int = 3,
    size: tuple[int, int] = (8, 4),
) -> bytes:
    """A TIFF file of uncompressed pixels. `directories` are further ones, each under the tag that points at it.

    `behind` stands between its pixels and its directory.
    """
    width, height = size
    count = width * height * samples
    pixels = bytes(range(count % 256)) + bytes(count - count % 256)
    body = _tiff_signature(order) + bytes(4) + pixels + behind  # the four bytes will say where the directory is
    body += bytes(len(body) % 2)
    pointers = []
    for tag, inner in directories:
        pointers.append((tag, 4, 1, struct.pack(f"{order}I", len(body))))
        body += directory(sorted(inner), len(body), order)
    photometric = 2 if samples > 2 else 1
    own: list[Entry] = [
        short(256, width, order=order),
        short(257, height, order=order),
        short(258, *[8] * samples, order=order),
        short(259, 1, order=order),
        short(262, photometric, order=order),
        short(277, samples, order=order),
        (273, 4, 1, struct.pack(f"{order}I", 8)),
        (279, 4, 1, struct.pack(f"{order}I", len(pixels))),
    ]
    # A caller's entry replaces the one of its tag: a directory may hold each tag once, in ascending order.
    by_tag = {entry[0]: entry for entry in [*own, *entries, *pointers]}
    start = struct.pack(f"{order}I", len(body))
    return body[:4] + start + body[8:] + directory(sorted(by_tag.values()), len(body), order, following)


@dataclass(frozen=True)
class HeifItem:
    """An item of a HEIF file, with its properties as boxes."""

    number: int
    kind: bytes
    data: bytes
    properties: Sequence[bytes] = ()
    references: Sequence[tuple[bytes, Sequence[int]]] = ()
    content_type: bytes = b""


def full_box(kind: bytes, *contents: bytes, version: int = 0, flags: int = 0) -> bytes:
    """A box with a version and flags."""
    return box(kind, struct.pack(">I", version << 24 | flags), *contents)


def picture_size(width: int = 64, height: int = 48) -> bytes:
    """The property that states a size."""
    return full_box(b"ispe", struct.pack(">II", width, height))


def av1_configuration(bits: int = 8, *, gray: bool = False) -> bytes:
    """The property that configures the AV1 decoder."""
    # AV1CodecConfigurationBox of AV1-ISOBMFF: high_bitdepth and monochrome are bits of the third byte.
    flags = 0
    if bits > 8:
        flags |= 0x40
    if gray:
        flags |= 0x10
    return box(b"av1C", bytes([0x81, 0, flags, 0]))


def auxiliary_type(name: bytes) -> bytes:
    """The property that says what an auxiliary picture is."""
    return full_box(b"auxC", name + b"\0")


def coded_item(
    number: int = 1,
    *properties: bytes,
    size: tuple[int, int] = (64, 48),
    bits: int = 8,
    references: Sequence[tuple[bytes, Sequence[int]]] = (),
) -> HeifItem:
    """An item coded by AV1; its bytes are no stream of AV1, which no structural reader looks at."""
    data = b"coded picture %d" % number
    return HeifItem(number, b"av01", data, [picture_size(*size), av1_configuration(bits), *properties], references)


def heif(
    *items: HeifItem, brand: bytes = b"avif", meta: bytes = b"", top: bytes = b"", filler: bytes = b"", primary: int = 1
) -> bytes:
    """A HEIF file of these items. `meta` and `top` are further boxes, `filler` stands in mdat before the items."""
    head = box(b"ftyp", brand, bytes(4), b"mif1", brand)
    # meta says where the items are, which lie behind it: measure it first, its places have a fixed width.
    length = len(head) + len(_meta(items, 0, meta, primary))
    start = length + 8 + len(filler)
    return head + _meta(items, start, meta, primary) + box(b"mdat", filler, *[item.data for item in items]) + top


def _meta(items: Sequence[HeifItem], start: int, more: bytes, primary: int) -> bytes:
    # Items share properties: ipco holds each once, ipma says by number which item has which.
    properties: list[bytes] = []
    for item in items:
        for own in item.properties:
            if own not in properties:
                properties.append(own)
    infos = b""
    places = b""
    links = b""
    references = b""
    for item in items:
        content = b""
        if item.kind == b"mime":
            content = item.content_type + b"\0"
        infos += full_box(b"infe", struct.pack(">HH4s", item.number, 0, item.kind), b"\0", content, version=2)
        places += struct.pack(">HHHII", item.number, 0, 1, start, len(item.data))
        start += len(item.data)
        numbers = [properties.index(own) + 1 for own in item.properties]  # 0 would mean no property
        links += struct.pack(">HB", item.number, len(numbers)) + bytes(numbers)
        for kind, targets in item.references:
            references += box(kind, struct.pack(f">HH{len(targets)}H", item.number, len(targets), *targets))
    count = struct.pack(">H", len(items))
    return full_box(
        b"meta",
        full_box(b"hdlr", bytes(4), b"pict", bytes(13)),
        full_box(b"pitm", struct.pack(">H", primary)),
        full_box(b"iloc", b"\x44\0", count, places),
        full_box(b"iinf", count, infos),
        box(b"iprp", box(b"ipco", *properties), full_box(b"ipma", struct.pack(">I", len(items)), links)),
        full_box(b"iref", references) if references else b"",
        more,
    )


def packed(content: bytes) -> bytes:
    """Content compressed with zlib, as PNG stores texts and profiles."""
    return zlib.compress(content)
