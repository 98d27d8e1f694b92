"""BMP, Netpbm, ICO, TGA and PCX: a header, pixels, and nothing behind that is not named."""

import struct

import numpy as np
import pytest
from PIL import Image

from codec.containers.inspect import inspect
from codec.containers.judgement import judge
from codec.containers.reasons import Reason
from codec.errors import ImageError, NotAnImageError
from codec.format.tags import MetadataBlock
from tests.conftest import synthetic
from tests.support.image_files import stored

PICTURE = Image.fromarray(synthetic(6, 10))
BMP, PPM, PCX = (stored(PICTURE, kind) for kind in ("BMP", "PPM", "PCX"))
GRAY_PCX = stored(PICTURE.convert("P"), "PCX")
FOOTER = bytes(8) + b"TRUEVISION-XFILE.\0"


def reason(data: bytes) -> Reason | None:
    structure = inspect(data)
    assert sum(part.length for part in structure.parts) == len(data)
    return judge(structure).reason


def bmp(bits: int = 32, fourth: int = 0, behind: bytes = b"", colors: int = 0, reserved: int = 0) -> bytes:
    """A BMP of 4 x 2 pixels with a header of 40 bytes."""
    row = (b"bgr" + bytes([fourth]))[: bits // 8] * 4
    header = struct.pack("<IiiHHIIiiII", 40, 4, 2, 1, bits, 0, 0, 0, 0, colors, 0)
    start = 54 + 4 * colors
    return b"BM" + struct.pack("<III", 0, reserved, start) + header + bytes(4 * colors) + row * 2 + behind


def tga(bits: int = 24, flags: int = 0, identification: bytes = b"") -> bytes:
    """A TGA of 4 x 2 pixels without compression."""
    header = struct.pack("<BBBHHBHHHHBB", len(identification), 0, 2, 0, 0, 0, 0, 0, 4, 2, bits, flags)
    return header + identification + bytes(8 * bits // 8) + FOOTER


@pytest.mark.parametrize("data", [BMP, PPM, PCX, GRAY_PCX, bmp(), tga(), tga(32, 8)])
def test_plain_pictures_are_compressed(data: bytes) -> None:
    assert reason(data) is None


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_every_kind_that_pillow_writes_is_compressed(mode: str) -> None:
    assert reason(stored(PICTURE.convert(mode), "BMP")) is None
    if mode != "P":
        assert reason(stored(PICTURE.convert(mode), "PPM")) is None


def test_what_they_say_beside_pixels_comes_back() -> None:
    assert judge(inspect(stored(PICTURE, "BMP", dpi=(300, 300)))).carried == ("phYs",)
    assert judge(inspect(PPM[:3] + b"# a comment\n" + PPM[3:])).blocks == (MetadataBlock("coMm", b" a comment"),)
    assert judge(inspect(tga(identification=b"who"))).blocks == (MetadataBlock("unKn", b"TGA identification\0who"),)
    assert judge(inspect(bmp(reserved=7))).carried == ("unKn",)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (bmp(fourth=9), Reason.COLORS),
        (bmp(behind=b"trailer"), Reason.TRAILING_DATA),
        (bmp(24, colors=2), Reason.METADATA),
        (bmp()[:-1], Reason.DAMAGED),
        (BMP[:10] + struct.pack("<I", 64) + BMP[14:54] + b"hidden ..." + BMP[54:], Reason.METADATA),
        (PPM + b"trailer", Reason.TRAILING_DATA),
        (PPM + PPM, Reason.FRAMES),
        (PPM[:-1], Reason.DAMAGED),
        (b"P5 1 1 65535\n\0\0", Reason.DEPTH),
        (b"P2 2 1 255\n1 2 3", Reason.IRREGULAR),
        (b"P2 2 1 255\n1", Reason.DAMAGED),
        (b"P2 2 1 255\n1 2 # text\n", Reason.IRREGULAR),
        (b"P1 2 1\n10 1", Reason.IRREGULAR),
        (b"P7\nWIDTH 1\n", Reason.UNSUPPORTED),
        (PCX + b"trailer", Reason.TRAILING_DATA),
        (PCX[:-1], Reason.DAMAGED),
        (GRAY_PCX + b"trailer", Reason.TRAILING_DATA),
        (tga(32, 0), Reason.COLORS),
        (tga()[:-26] + b"hidden" + FOOTER, Reason.TRAILING_DATA),
        (tga()[:-26], None),
        (tga(identification=b"who")[:-26], None),
        (tga()[:-27] + FOOTER, Reason.DAMAGED),
        (stored(PICTURE, "ICO"), Reason.FRAMES),
        (b"8BPS\0\1" + bytes(20), Reason.UNSUPPORTED),
        (b"<?xml version='1.0'?>\n<!-- made by hand -->\n<svg xmlns='...'/>", Reason.UNSUPPORTED),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", Reason.UNSUPPORTED),
        (b"FUJIFILMCCD-RAW " + bytes(80), Reason.RAW),
        (b"IIU\0" + bytes(80), Reason.RAW),
        (b"IIRO" + bytes(80), Reason.RAW),
        (b"II*\0\x10\0\0\0CR\2\0" + bytes(80), Reason.RAW),
    ],
)
def test_what_cannot_be_carried_keeps_the_file(data: bytes, expected: Reason) -> None:
    assert reason(data) is expected


def test_samples_as_text_are_counted() -> None:
    assert reason(b"P2 2 1 255\n1 2\n") is None
    assert reason(b"P3 1 1 255\n1 2 3") is None
    assert reason(b"P1 2 1\n10\n") is None


@pytest.mark.parametrize(
    "data",
    [
        b"<?xml version='1.0'?><plist/>",
        b"%PDF-1.7",
        b"PK\3\4" + bytes(30),
        b"a text",
        b"\0\0\0\x14ftypqt  \0\0\0\0qt  ",
        b"bplist00",
        bytes(100),
    ],
)
def test_what_is_no_picture_is_said_to_be_none(data: bytes) -> None:
    with pytest.raises(NotAnImageError):
        inspect(data)


def test_an_empty_file_is_an_error() -> None:
    with pytest.raises(ImageError):
        inspect(b"")


def test_any_bytes_behind_any_signature_end_in_a_structure() -> None:
    random = np.random.default_rng(0)
    heads = (BMP, PPM, PCX, tga(), b"\0\0\1\0\1\0", b"GIF89a", b"RIFF\xff\0\0\0WEBPVP8 ", b"MM\0*", b"\xff\xd8\xff")
    for head in heads:
        for length in range(0, 60, 3):
            data = head[:length] + random.bytes(60)
            try:
                structure = inspect(data)
            except ImageError:
                continue
            assert sum(part.length for part in structure.parts) == len(data)
