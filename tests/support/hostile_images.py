"""A corpus of sources as strangers' archives hold them, each with the row that it should end as."""

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from tests.conftest import synthetic
from tests.support.fake_codec import FAULT
from tests.support.image_files import DISPLAY_P3, png, profile, stored

Row = tuple[str, str | None, str | None]
"""Status, codec and reason."""
COMPRESSED: Row = ("compressed", "fdc", None)
DAMAGED: Row = ("fallback", "original", "damaged")
NOT_AN_IMAGE: Row = ("fallback", "original", "not_an_image")

EXPLODING = (b"zTXt", b"k\0\0" + zlib.compress(bytes(2 * 10**6), 9))
"""A text of two million zeros: carried as it is, and never unpacked."""
SEEDS = iter(range(1000))
"""A seed for each picture, since pictures with the same content would become duplicates of each other."""


def corpus() -> dict[str, tuple[bytes, Row]]:
    """File names, relative, with what is in them and the row they should end as."""
    table: dict[str, tuple[bytes, Row]] = {}
    for part in (broken, wrongly_named, beyond_eight_bits, beyond_rgb, several, ordinary, oversized, oriented, named):
        for name, content, row in part():
            assert name not in table
            table[name] = (content, row)
    for fault, reason in {"crash": "crashed", "memory": "killed", "endless": "timeout"}.items():
        table[f"decoder/{fault}.heic"] = (FAULT + fault.encode(), ("fallback", "original", reason))
    return table


def links(root: Path) -> None:
    """What a folder may hold that is no source of its own: loops, dead ends, and things that are not files."""
    folder = root / "links"
    folder.mkdir()
    (folder / "up").symlink_to("..")
    (folder / "around").symlink_to(folder)
    (folder / "itself.png").symlink_to("itself.png")
    (folder / "there.png").symlink_to("back.png")
    (folder / "back.png").symlink_to("there.png")
    (folder / "nowhere.png").symlink_to("/nowhere/at/all.png")
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")


def photo(height: int = 60, width: int = 80) -> NDArray[np.uint8]:
    """A smooth picture, a new one each time."""
    return synthetic(height, width, next(SEEDS))


def jpeg(pixels: NDArray[np.uint8], **options: Any) -> bytes:
    return stored(pixels, "JPEG", quality=98, **options)


def kept(codec: str, reason: str) -> Row:
    return "fallback", codec, reason


def cut(data: bytes) -> bytes:
    return data[: len(data) * 3 // 5]


def broken() -> Iterator[tuple[str, bytes, Row]]:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)  # hardly compressible: a cut hits pixels
    for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF"):
        yield f"broken/cut.{kind.lower()}", cut(stored(noise, kind)), DAMAGED
    yield "broken/cut-progressive.jpg", cut(stored(noise, "JPEG", progressive=True)), DAMAGED
    flipped = bytearray(stored(noise))
    flipped[flipped.index(b"IDAT") + 40] ^= 1
    yield "broken/checksum.png", bytes(flipped), DAMAGED
    twelve = bytearray(stored(noise, "JPEG"))
    twelve[twelve.index(b"\xff\xc0") + 4] = 12  # the precision in SOF0, behind marker and length
    yield "broken/twelve-bits-declared.jpg", bytes(twelve), kept("original", "depth")
    contents = {
        "empty.jpg": (b"", DAMAGED),
        "zeros.png": (bytes(1000), NOT_AN_IMAGE),
        "ones.jpg": (b"\xff" * 1000, NOT_AN_IMAGE),
        "random.webp": (np.random.default_rng(1).bytes(1000), NOT_AN_IMAGE),
        "text.jpg": (b"dear diary\n", NOT_AN_IMAGE),
        "page.png": (b"<!doctype html><title>404</title>", NOT_AN_IMAGE),
        "three-bytes.jpg": (b"\xff\xd8\xff", DAMAGED),
        "signature.png": (b"\x89PNG\r\n\x1a\n", DAMAGED),
        "drawing.svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', kept("original", "unsupported")),
        "print.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", kept("original", "unsupported")),
        "document.pdf": (b"%PDF-1.7\n", NOT_AN_IMAGE),
        "video.mp4": (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", NOT_AN_IMAGE),
        "package.zip": (b"PK\3\4" + bytes(60), NOT_AN_IMAGE),
        "no-area.png": (png(0, 0, 8, 2), DAMAGED),
    }
    for name, (content, row) in contents.items():
        yield f"broken/{name}", content, row
    lines = [np.random.default_rng(line).bytes(3 * 64) for line in range(64)]
    exploding = png(64, 64, 8, 2, *lines, extra=EXPLODING)
    yield "broken/exploding-text.png", exploding, COMPRESSED


def wrongly_named() -> Iterator[tuple[str, bytes, Row]]:
    yield "wrong/png.jpg", stored(photo()), COMPRESSED
    yield "wrong/jpeg.png", jpeg(photo()), COMPRESSED
    yield "wrong/webp.txt", stored(photo(), "WEBP", lossless=True), COMPRESSED
    yield "wrong/no-extension", stored(photo()), COMPRESSED
    yield "wrong/UPPER.JPEG", jpeg(photo()), COMPRESSED


def beyond_eight_bits() -> Iterator[tuple[str, bytes, Row]]:
    def deep(channels: int) -> NDArray[np.uint16]:
        return np.ascontiguousarray(np.resize(photo(), (60, 80, channels)).astype(np.uint16) * 257 + 1)

    yield "depth/gray.png", stored(deep(1)[..., 0]), kept("jxl", "depth")
    for name, channels in {"gray-alpha": 2, "color": 3, "color-alpha": 4}.items():
        yield f"depth/{name}.png", bytes(imagecodecs.png_encode(deep(channels))), kept("jxl", "depth")
    yield "depth/gray.tif", stored(deep(1)[..., 0], "TIFF"), kept("original", "depth")
    yield "depth/color.ppm", b"P6 80 60 65535 " + deep(3).astype(">u2").tobytes(), kept("original", "depth")
    yield "depth/gray.pgm", b"P5 80 60 1023 " + bytes(9600), kept("original", "depth")
    ten = bytes(imagecodecs.avif_encode(deep(3) >> 6, bitspersample=10))
    yield "depth/ten-bits.avif", ten, kept("original", "depth")
    yield "depth/float.tif", stored(np.zeros((8, 8), np.float32), "TIFF"), kept("original", "depth")
    yield "depth/integer.tif", stored(np.zeros((8, 8), np.int32), "TIFF"), kept("original", "depth")
    yield "depth/float.pfm", b"Pf 2 2 -1.0\n" + bytes(16), kept("original", "unsupported")


def beyond_rgb() -> Iterator[tuple[str, bytes, Row]]:
    ink = Image.fromarray(photo()).convert("CMYK")
    yield "colors/ink.jpg", stored(ink, "JPEG"), kept("original", "colors")
    yield "colors/ink.tif", stored(ink, "TIFF"), kept("original", "colors")
    yield "colors/lab.tif", stored(Image.fromarray(photo(), "LAB"), "TIFF"), kept("original", "colors")


def several() -> Iterator[tuple[str, bytes, Row]]:
    for kind in ("GIF", "WEBP", "PNG", "TIFF", "AVIF", "MPO"):
        first, *rest = [Image.fromarray(photo()) for _ in range(3)]
        # An MPO is a JPEG, which JPEG XL stores without loss, with all that follows it.
        codec = "jxl" if kind == "MPO" else "original"
        row = kept(codec, "frames")
        yield f"several/pictures.{kind.lower()}", stored(first, kind, save_all=True, append_images=rest), row


def ordinary() -> Iterator[tuple[str, bytes, Row]]:
    alpha = np.tile(np.arange(80, dtype=np.uint8), (60, 1))
    palette = Image.fromarray(photo()).quantize(200)
    yield "ordinary/palette.png", stored(palette), COMPRESSED
    yield "ordinary/odd-transparency.png", stored(palette, transparency=bytes(range(3, 203))), COMPRESSED
    yield "ordinary/palette.gif", stored(palette, "GIF"), COMPRESSED
    yield "ordinary/color-key.png", stored(photo(), transparency=(9, 9, 9)), COMPRESSED
    yield "ordinary/alpha.png", stored(np.dstack([photo(), alpha])), COMPRESSED
    yield "ordinary/gray-alpha.png", stored(Image.fromarray(np.dstack([photo()[..., 0], alpha]))), COMPRESSED
    yield "ordinary/gray.jpg", jpeg(photo()[..., 0]), COMPRESSED
    yield "ordinary/wide-gamut.png", stored(photo(), icc_profile=profile(2.2, DISPLAY_P3)), COMPRESSED
    yield "ordinary/broken-profile.png", stored(photo(), icc_profile=b"no profile at all"), COMPRESSED
    yield "ordinary/broken-exif.jpg", jpeg(photo(), exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff"), COMPRESSED
    yield "ordinary/one-pixel.png", stored(photo(1, 1)), COMPRESSED
    yield "ordinary/one-bit.png", stored(Image.fromarray(photo()[..., 0] > 100)), kept("jxl", "would_grow")
    # The first directory states itself as the next one: a reader that follows it without a bound never ends.
    circle = bytearray(stored(photo(), "TIFF"))
    (directory,) = struct.unpack_from("<I", circle, 4)
    (entries,) = struct.unpack_from("<H", circle, directory)
    struct.pack_into("<I", circle, directory + 2 + 12 * entries, directory)
    yield "ordinary/circular.tif", bytes(circle), DAMAGED


def oversized() -> Iterator[tuple[str, bytes, Row]]:
    unsupported = kept("original", "unsupported")
    # One row of 60,000: what is declared would take 3.6 GB as pixels, what is there takes nothing.
    yield "size/bomb.png", png(60_000, 60_000, 1, 0, bytes(7500)), DAMAGED
    yield "size/above-the-limit.png", png(12_000, 10_000, 1, 0, *[bytes(1500)] * 10_000), unsupported
    yield "size/beyond-png.png", png(2**31, 2**31, 8, 2, bytes(3)), unsupported
    # The screen is larger than the one picture on it, so most of what is shown has no pixels.
    screen = b"GIF89a" + struct.pack("<HH", 65535, 65535) + stored(photo(), "GIF")[10:]
    yield "size/screen.gif", screen, kept("original", "irregular")
    yield "size/small-file.png", stored(Image.new("1", (2000, 1500))), kept("jxl", "would_grow")
    yield "size/long.png", stored(photo(2, 9000)), COMPRESSED


def oriented() -> Iterator[tuple[str, bytes, Row]]:
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        yield f"oriented/{orientation}.jpg", jpeg(photo(), exif=exif), COMPRESSED


def named() -> Iterator[tuple[str, bytes, Row]]:
    names = [
        "a.jpg",
        "a.png",
        "A.png",  # the same name on a file system that ignores case
        "a.b.c.png",  # WebDataset cuts a key at the first dot
        ".hidden.png",
        "..png",
        "-rf.png",
        "$(touch pwned).png",
        "quote's \".png",
        "new\nline.png",
        "tab\t.png",
        " space .png",
        "back\\slash.png",
        "%41.png",  # an escape of "A", as keys hold for bytes that are not UTF-8
        "100%.png",
        "con.png",  # a device on Windows
        "\u00e4.png",
        "a\u0308.png",  # the same letter, composed: keys are not normalized
        "\U0001f389.png",
        "\u202egnp.evil.png",  # shown from right to left
        "n" * 240 + ".png",
        "/".join(["deep"] * 40) + "/a.png",
        os.fsdecode(b"\xff\xfe.png"),  # not UTF-8
    ]
    for name in names:
        yield f"named/{name}", stored(photo()), COMPRESSED
    twin = stored(photo())
    yield "named/twin-1.png", twin, COMPRESSED
    yield "named/twin-2.png", twin, COMPRESSED
