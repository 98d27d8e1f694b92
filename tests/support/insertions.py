"""Picture files with one more part somewhere: an unknown one, one that is known to hold something else, or a picture.

Each part holds bytes that occur nowhere else in its file, so that a test can tell whether they are carried.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import imagecodecs
from PIL import Image

from tests.conftest import synthetic
from tests.support import containers
from tests.support.containers import PNG_SIGNATURE, XMP, box, coded_item, exif, film, full_box, photo, segment, tiff
from tests.support.image_files import chunk, stored

IDENTIFIERS = (
    b"", b"Exif\0\0", XMP, b"http://ns.adobe.com/xmp/extension/\0", b"ICC_PROFILE\0\1\1", b"MPF\0", b"JFIF\0\1\2",
    b"JFXX\0\x10", b"Adobe\0\x64\0\0\0\0\1", b"Photoshop 3.0\0", b"JP\0\1\0\0\0\1", b"FPXR\0", b"http:",
)  # fmt: skip
PNG_KINDS = b"tEXt zTXt iTXt eXIf iCCP gAMA cHRM sRGB cICP pHYs tIME bKGD hIST sBIT sPLT tRNS PLTE".split()
PNG_KINDS += b"IDAT IHDR IEND acTL fcTL fdAT caBX iDOT CgBI oFFs mDCV cLLI".split()
WEBP_KINDS = b"VP8X|VP8 |VP8L|ALPH|ICCP|EXIF|XMP |ANIM|ANMF|C2PA".split(b"|")
HEIF_KINDS = b"ftyp meta moov free skip uuid hdlr dinf idat grpl iref mpvd".split()
PROPERTIES = b"irot imir clap pasp clli mdcv lsel a1op pixi udes altt".split()
ITEMS = b"Exif|mime|uri |av01|hvc1|grid|tmap|jpeg".split(b"|")
JXL_KINDS = b"jxlc|jxlp|Exif|xml |brob|jumb|jxll|jxli|ftyp|jhgm|JXL ".split(b"|")
JP2_KINDS = b"jp2c|jp2h|xml |uuid|ftyp|jP  |jp2i|res |asoc|uinf|free".split(b"|")


@dataclass(frozen=True)
class Case:
    """A file, where its further part is, and the bytes that must not be lost."""

    place: str
    data: bytes
    hidden: bytes


def hidden(rng: Random) -> bytes:
    """Bytes without a zero, as long as a short text, and not as long as any known field."""
    return bytes(rng.randrange(1, 255) for _ in range(rng.randrange(17, 42, 2)))


def four_letters(rng: Random, known: Sequence[bytes]) -> bytes:
    """A known type, or any of four letters."""
    if rng.random() < 0.5:
        return rng.choice(known)
    return bytes(rng.choice(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz") for _ in range(4))


def behind(place: str, data: bytes, rng: Random, own: bytes) -> Case:
    """A file with something behind its end: bytes, a film, or a picture of its kind."""
    secret = hidden(rng)
    if rng.random() < 0.25:
        return Case(place, data + own, own)
    return Case(place, data + rng.choice([b"", bytes(9), film(), b"\xff" * 5]) + secret, secret)


JPEGS = (
    photo(),
    photo("JPEG", progressive=True),
    containers.with_segments(segment(0xE1, b"Exif\0\0" + exif(6)), segment(0xE1, XMP + b"<xmp/>")),
    containers.with_segments(segment(0xE2, b"ICC_PROFILE\0\1\1profile"), data=photo("JPEG", 40, 30)),
)
SMALLER = photo("JPEG", 16, 16)


def into_jpeg(rng: Random) -> Case:
    """A segment, bytes or a picture before any segment, or behind the end."""
    data = rng.choice(JPEGS)
    secret = hidden(rng)
    head = containers.jpeg_boundaries(data)
    scans = [place for place in range(head[-1] + 4, len(data)) if data[place : place + 2] == b"\xff\xda"]
    place = rng.choice([*head, *scans, len(data) - 2])
    match rng.randrange(5):
        case 0:
            return behind("JPEG behind", data, rng, photo("JPEG", 24, 24))
        case 1:
            # Only before a segment: bytes at the end of coded data are for the decoder to find.
            place = rng.choice(head)
            return Case("JPEG bytes", data[:place] + secret + data[place:], secret)
        case 2:
            # Multi-Picture Format: undefined, large thumbnail, disparity, primary picture.
            kind = rng.choice([0, 0x010001, 0x020002, 0x030000])
            # A preview may be left out, so only what is behind it must not be lost.
            if kind == 0x010001:
                return Case("JPEG behind a preview", containers.with_pictures([(kind, SMALLER + secret)]), secret)
            return Case("JPEG further picture", containers.with_pictures([(kind, SMALLER)], first=photo()), SMALLER)
        case 3:
            own = photo("JPEG", 24, 24)
            return Case("JPEG within", data[:place] + own + data[place:], own)
    # Application segments and comments, coding tables (DQT, DHT, DRI, DAC), and markers that are reserved.
    marker = rng.choice([*range(0xE0, 0xF0), 0xFE, 0xDB, 0xC4, 0xDD, 0xCC, rng.randrange(2, 0xBF), *range(0xF0, 0xFE)])
    content = rng.choice(IDENTIFIERS) + secret
    return Case(f"JPEG segment {marker:02X}", data[:place] + segment(marker, content) + data[place:], secret)


PNGS = (
    photo("PNG"),
    stored(Image.fromarray(synthetic(9, 11)).convert("P"), "PNG"),
    stored(Image.new("LA", (5, 3)), "PNG"),
)


def into_png(rng: Random) -> Case:
    """A chunk before any other, or something behind the end."""
    data = rng.choice(PNGS)
    secret = hidden(rng)
    if rng.random() < 0.1:
        return behind("PNG behind", data, rng, photo("PNG", 8, 8))
    own = containers.png_chunks(data)
    place = rng.randrange(1, len(own) + 1)
    kind = four_letters(rng, PNG_KINDS)
    # With a valid beginning, a reader takes these chunks as it knows them, and must look at what follows.
    content = secret
    if kind == b"iCCP":
        content = b"name\0\0" + containers.packed(b"profile") + secret
    elif kind == b"zTXt":
        content = b"a\0\0" + secret
    elif kind in (b"tRNS", b"PLTE"):
        content = secret + bytes(800)  # longer than a palette may be
    own.insert(place, chunk(kind, content))
    return Case(f"PNG chunk {kind.decode()}", PNG_SIGNATURE + b"".join(own), secret)


WEBPS = (photo("WEBP"), photo("WEBP", lossless=True), containers.extended_webp((b"XMP ", b"<xmp/>"), flags=4))


def into_webp(rng: Random) -> Case:
    """A chunk before or behind any other, or something behind the end."""
    data = rng.choice(WEBPS)
    secret = hidden(rng)
    if rng.random() < 0.1:
        return behind("WebP behind", data, rng, photo("WEBP", 8, 8))
    own = containers.webp_chunks(data)
    kind = four_letters(rng, WEBP_KINDS)
    content = secret
    # A chunk of coded pixels must be a picture, or the decoder refuses the file before anything is lost.
    if kind in (b"VP8 ", b"VP8L"):
        kind, content = containers.webp_chunks(photo("WEBP", 24, 24, lossless=kind == b"VP8L"))[0]
    own.insert(rng.randrange(len(own) + 1), (kind, content))
    return Case(f"WebP chunk {kind.decode()}", containers.riff(*own), content)


GIF_TABLE = 13 + 3 * 256
"""Where the first block of a GIF is: behind the header, the screen and a color table of 256 entries."""


def into_gif(rng: Random) -> Case:
    """An extension or an image before or behind the own one, or something behind the end."""
    data = photo("GIF")
    secret = hidden(rng)
    place = rng.choice([GIF_TABLE, len(data) - 1])
    match rng.randrange(6):
        case 0:
            return behind("GIF behind", data, rng, photo("GIF", 8, 8))
        case 1:
            descriptor = b"," + struct.pack("<HHHHB", 0, 0, 64, 48, 0)
            image = descriptor + b"\2" + bytes([len(secret)]) + secret + b"\0"
            return Case("GIF image", data[:place] + image + data[place:], secret)
    label = rng.choice([0xFE, 0xFF, 0xF9, 0x01, rng.randrange(256)])
    content = rng.choice([b"", b"NETSCAPE2.0", b"XMP DataXMP", b"ICCRGBG1012"]) + secret
    extension = containers.gif_extension(label, content)
    return Case(f"GIF extension {label:02X}", data[:place] + extension + data[place:], secret)


TIFF_TAGS = (
    254, 263, 266, 269, 270, 271, 280, 284, 288, 290, 292, 297, 301, 305, 306, 315, 317, 318, 320, 330, 333, 337, 340,
    347, 512, 519, 529, 532, 700, 18246, 33432, 33550, 33723, 34377, 34665, 34675, 34735, 34853, 37500, 37724,
    40091, 40965, 42112, 50341, 50706, 50740, 65000,
)  # fmt: skip
"""Tags with a known meaning, none of which the pixels of `tiff` need."""
PIXEL_TAGS = (256, 257, 258, 259, 262, 273, 277, 279)
"""Tags that describe the pixels: another value would damage the file instead of hiding something in it."""


def into_tiff(rng: Random) -> Case:
    """A tag in the first directory, a directory, bytes between, or something behind the end."""
    secret = hidden(rng)
    order = rng.choice("<>")
    match rng.randrange(8):
        case 0:
            return behind("TIFF behind", tiff(order=order), rng, tiff())
        case 1:
            return Case("TIFF between", tiff(order=order, behind=secret), secret)
        case 2:
            pointer = rng.choice([330, 34665, 34853])
            tag = rng.randrange(256, 65536)
            inner = [(tag, 7, len(secret), secret)]
            return Case(f"TIFF directory {pointer}", tiff(order=order, directories=[(pointer, inner)]), secret)
    tag = rng.choice([rng.randrange(1, 65536), *rng.sample(TIFF_TAGS, 3)])
    if tag in PIXEL_TAGS:
        tag = 65001
    # Byte, text and undefined have the same bytes in both orders. Of wider numbers, other bytes would hold the same
    # value in the other order, and the hidden ones would be looked for in vain.
    kinds = [(1, 1), (2, 1), (7, 1)]
    if order == "<":
        kinds += [(3, 2), (4, 4), (12, 8)]
    kind, size = rng.choice(kinds)
    secret += bytes(-len(secret) % size)  # whole numbers only
    return Case(f"TIFF tag {tag}", tiff((tag, kind, len(secret) // size, secret), order=order), secret)


def into_heif(rng: Random) -> Case:
    """A box, a property, an item, bytes between, or something behind the end."""
    secret = hidden(rng)
    kind = four_letters(rng, HEIF_KINDS)
    brand = rng.choice([b"avif", b"heic", b"mif1"])
    match rng.randrange(6):
        case 0:
            return behind("HEIF behind", containers.heif(coded_item()), rng, photo())
        case 1:
            return Case("HEIF between", containers.heif(coded_item(), brand=brand, filler=secret), secret)
        case 2:
            top = rng.choice([box, full_box])(kind, secret)
            return Case(f"HEIF box {kind.decode()}", containers.heif(coded_item(), brand=brand, top=top), secret)
        case 3:
            inner = rng.choice([box, full_box])(kind, secret)
            data = containers.heif(coded_item(), brand=brand, meta=inner)
            return Case(f"HEIF inner box {kind.decode()}", data, secret)
        case 4:
            own = box(four_letters(rng, PROPERTIES), secret)
            return Case("HEIF property", containers.heif(coded_item(1, own), brand=brand), secret)
    kind = four_letters(rng, ITEMS)
    properties = rng.choice([(), (containers.picture_size(64, 48),), (containers.auxiliary_type(b"urn:own"),)])
    references = rng.choice([(), [(b"cdsc", [1])], [(b"auxl", [1])], [(b"thmb", [1])], [(b"base", [1])]])
    content_type = rng.choice([b"application/rdf+xml", b"text/plain"])
    item = containers.HeifItem(2, kind, secret, properties, references, content_type)
    return Case(f"HEIF item {item.kind.decode()}", containers.heif(coded_item(), item, brand=brand), secret)


JXL = bytes(imagecodecs.jpegxl_encode(synthetic(8, 8), lossless=True, effort=1, numthreads=1))
JXL_HEAD = [box(b"JXL ", b"\r\n\x87\n"), box(b"ftyp", b"jxl \0\0\0\0jxl "), box(b"jxlc", JXL)]


def into_jxl(rng: Random) -> Case:
    """A box behind the head of the container, or something behind the end."""
    secret = hidden(rng)
    kind = four_letters(rng, JXL_KINDS)
    if rng.random() < 0.1:
        return behind("JXL behind", b"".join(JXL_HEAD), rng, JXL)
    own = [*JXL_HEAD]
    own.insert(rng.randrange(2, 4), box(kind, rng.choice([b"", bytes(4)]) + secret))
    return Case(f"JXL box {kind.decode()}", b"".join(own), secret)


JP2 = stored(Image.fromarray(synthetic(8, 8)), "JPEG2000")
STREAM = JP2[JP2.index(b"\xff\x4f\xff\x51") :]


def into_jp2(rng: Random) -> Case:
    """A box, a segment in the codestream, or something behind the end."""
    secret = hidden(rng)
    kind = four_letters(rng, JP2_KINDS)
    match rng.randrange(6):
        case 0:
            return behind("JP2 behind", rng.choice([JP2, STREAM]), rng, JP2)
        case 1:
            marker = rng.choice([0x64, 0x63, 0x30, rng.randrange(0x66, 0x90)])
            place = 4 + struct.unpack_from(">H", STREAM, 4)[0]  # SIZ must come first, behind SOC
            content = rng.choice([b"\0\0", b"\0\1", b""]) + secret
            return Case(f"JP2 segment {marker:02X}", STREAM[:place] + segment(marker, content) + STREAM[place:], secret)
    place = rng.choice([len(JP2), JP2.index(b"jp2h") - 4])
    return Case(f"JP2 box {kind.decode()}", JP2[:place] + box(kind, secret) + JP2[place:], secret)


SIMPLE = tuple(stored(Image.fromarray(synthetic(6, 10)), kind) for kind in ("BMP", "PPM", "PCX"))
# Pillow's own footer is cut off and written again, with its two offsets stating that no further area follows.
SIMPLE += (stored(Image.fromarray(synthetic(6, 10)), "TGA")[:-26] + bytes(8) + b"TRUEVISION-XFILE.\0",)


def into_simple(rng: Random) -> Case:
    """A comment in a header, or something behind the end."""
    secret = hidden(rng).replace(b"\n", b".")  # which would end the comment
    if rng.random() < 0.3:
        return Case("PPM comment", SIMPLE[1][:3] + b"#" + secret + b"\n" + SIMPLE[1][3:], secret)
    data = rng.choice(SIMPLE[:3])
    return behind("simple behind", data, rng, data)


INSERTIONS: tuple[Callable[[Random], Case], ...] = (
    into_jpeg, into_jpeg, into_png, into_webp, into_gif, into_tiff, into_heif, into_jxl, into_jp2, into_simple,
)  # fmt: skip
