"""Ordinary photos end compressed, with all that they say; an archive that keeps everything whole would be of no use."""

import struct
from collections.abc import Iterator

import pytest
from PIL import Image

from codec.color import icc, spaces
from codec.containers.reading import read_source
from codec.format.bitstream import FdcFile, pack, parse
from codec.format.chunks import of_picture
from codec.quantization.parameters import QuantizationParameters
from tests.codec.containers.test_pictures_once_lost import CASES
from tests.conftest import synthetic
from tests.support.containers import (
    PACKET,
    XMP,
    exif,
    photo,
    png_with,
    resolution,
    segment,
    text,
    tiff,
    with_pictures,
    with_segments,
)  # fmt: skip
from tests.support.image_files import stored

MAKER_NOTE = (0x927C, 7, 200, bytes(range(200)))
P3 = spaces.of_cicp(12, 13).profile or b""
ADOBE = spaces.of_chromaticities((*spaces.D65, *spaces.ADOBE_PRIMARIES), 1 / 2.2).profile or b""
PHOTOSHOP = segment(0xED, b"Photoshop 3.0\08BIM\x04\x04\0\0\0\0\0\0")
RATED = segment(0xE1, XMP + PACKET % b'<rdf:Description xmp:Rating="5"/>')


def photos() -> Iterator[tuple[str, bytes]]:
    """Names and files as cameras, phones, scanners and programs write them."""
    image = Image.fromarray(synthetic(48, 64))
    for orientation in range(1, 9):
        block = exif(orientation, extra=[MAKER_NOTE])
        yield f"camera, orientation {orientation}", with_segments(segment(0xE1, b"Exif\0\0" + block), RATED)
    for order in "<>":
        yield f"camera, byte order {order}", with_segments(segment(0xE1, b"Exif\0\0" + exif(1, order, [MAKER_NOTE])))
    yield "edited", with_segments(segment(0xE1, b"Exif\0\0" + exif()), RATED, PHOTOSHOP, segment(0xFE, b"edited"))
    yield "progressive", photo("JPEG", progressive=1)
    yield "without subsampling", photo("JPEG", subsampling=0, quality=95)
    yield "gray JPEG", stored(synthetic(48, 64)[..., 0], "JPEG")
    for name, profile in (("P3", P3), ("Adobe RGB", ADOBE), ("sRGB", srgb())):
        yield f"JPEG in {name}", stored(image, "JPEG", icc_profile=profile)
        yield f"PNG in {name}", stored(image, "PNG", icc_profile=profile)
        yield f"WebP in {name}", stored(image, "WEBP", icc_profile=profile)
        yield f"AVIF in {name}", stored(image, "AVIF", icc_profile=profile)
    yield "with a preview behind it", with_pictures([(0x10001, photo("JPEG", 32, 24))])
    yield "Ultra HDR", CASES["01-ultrahdr.jpg"][0]()
    yield "screenshot", png_with((b"tEXt", b"Software\0a phone"), (b"pHYs", struct.pack(">IIB", 5669, 5669, 1)))
    yield "palette", stored(image.quantize(64), "PNG")
    yield "transparent", stored(image.convert("RGBA"), "PNG")
    block = exif(6)
    yield "WebP with EXIF", stored(image, "WEBP", exif=b"Exif\0\0" + block)
    yield "AVIF with EXIF", stored(image, "AVIF", exif=b"Exif\0\0" + block)
    yield "scan", tiff(text(270, b"a scan"), text(315, b"who"), (700, 1, 6, b"<xmp/>"), *resolution(600))
    yield "TIFF with LZW", stored(image, "TIFF", compression="tiff_lzw")


def srgb() -> bytes:
    from PIL import ImageCms

    return bytes(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())


PHOTOS = dict(photos())


def test_at_least_95_percent_of_ordinary_photos_are_compressed() -> None:
    reasons = {name: read_source(data).verdict.reason for name, data in PHOTOS.items()}
    kept = {name: reason for name, reason in reasons.items() if reason is not None}
    assert len(kept) <= 0.05 * len(PHOTOS), kept


@pytest.mark.parametrize("name", PHOTOS)
def test_what_a_photo_says_is_in_its_file_to_the_byte(name: str) -> None:
    data = PHOTOS[name]
    picture = read_source(data).picture
    assert picture is not None
    stored_file = FdcFile(
        picture.width, picture.height, False, "0" * 16, 0, QuantizationParameters((1,), 0), bytes(4),
        of_picture(picture), picture.orientation,
    )  # fmt: skip
    carried = [(chunk.tag, chunk.content) for chunk in parse(pack(stored_file)).chunks if chunk.tag != "ALPH"]
    for tag, content in carried:
        in_tiff = name in ("scan", "TIFF with LZW")  # its metadata moves into a block of its own, checked tag by tag
        made_here = tag in ("phYs", "unKn", "auXP", "teXt") or in_tiff
        assert made_here or content in data or tag == "ICCP"
    if b"Exif\0\0" in data[:64]:
        assert any(tag == "exIf" for tag, _ in carried)


def test_profiles_near_srgb_are_carried_and_srgb_is_not() -> None:
    for kind in ("JPEG", "PNG", "WebP", "AVIF"):
        assert [read_source(PHOTOS[f"{kind} in {name}"]).coded_space for name in ("P3", "Adobe RGB", "sRGB")] == [
            "Display P3",
            "Adobe RGB",
            "sRGB",
        ]
    assert icc.read(P3) is not None
