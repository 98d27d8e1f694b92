"""Files of which something was once lost without a word: each is compressed with all of it, or kept for its reason."""

import io
import struct
from collections.abc import Callable

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from codec.containers.inspect import inspect
from codec.containers.judgement import Policy, Verdict, judge
from codec.containers.reasons import Reason
from codec.errors import NotAnImageError
from tests.conftest import DATA, synthetic
from tests.support.containers import (
    PACKET,
    XMP,
    HeifItem,
    av1_configuration,
    box,
    coded_item,
    exif,
    extended_webp,
    film,
    heif,
    photo,
    picture_size,
    png_with,
    resolution,
    segment,
    short,
    text,
    tiff,
    with_pictures,
    with_segments,
)
from tests.support.image_files import png, stored

FILES = DATA.parent / "cases" / "pictures"
GAIN_MAP_XMP = XMP + PACKET % b'<rdf:Description hdrgm:Version="1.0"/>'
MOTION_XMP = XMP + PACKET % b'<rdf:Description GCamera:MotionPhoto="1"/>'
P3 = bytes([12, 13, 0, 1])
Expected = tuple[Reason | None, tuple[str, ...]]


def kept(reason: Reason) -> Expected:
    return reason, ()


def compressed(*tags: str) -> Expected:
    return None, tags


def wiped(data: bytes, length: int) -> bytes:
    """A file of which bytes in its middle are zero."""
    middle = len(data) // 2
    return data[:middle] + bytes(length) + data[middle + length :]


def camera_exif(orientation: int) -> bytes:
    return exif(orientation, extra=[(0x927C, 7, 30, b"MakerNote with its own offsets")])


def raw_like() -> bytes:
    thumbnail = [short(254, 1), (50706, 1, 4, b"\1\4\0\0")]
    sensor = [short(254, 0), short(256, 8), short(257, 2), short(258, 16), short(262, 32803)]
    place = [(273, 4, 1, struct.pack("<I", 8 + 96)), (279, 4, 1, struct.pack("<I", 32))]
    return tiff(*thumbnail, directories=[(330, [*sensor, *place])], behind=bytes(range(32)))


def animation() -> bytes:
    frames = [Image.fromarray(synthetic(16, 16) // step) for step in (1, 2, 3)]
    return stored(frames[0], "WEBP", save_all=True, append_images=frames[1:])


def p3_avif() -> bytes:
    return heif(coded_item(1, box(b"colr", b"nclx" + struct.pack(">HHHB", 12, 13, 6, 0x80))))


def tile_of_heic() -> bytes:
    configuration = box(b"hvcC", bytes(16) + b"\1\0\0" + bytes(4))
    return heif(HeifItem(1, b"hvc1", b"coded", [picture_size(), configuration]), brand=b"heic")


CASES: dict[str, tuple[Callable[[], bytes], Expected]] = {
    "00-control.jpg": (photo, compressed()),
    "01-mpo-control.jpg": (lambda: with_pictures([(0, photo("JPEG", 32, 24))]), kept(Reason.FRAMES)),
    "01-ultrahdr.jpg": (
        lambda: with_pictures([(0, photo("JPEG", 32, 24))], segment(0xE1, GAIN_MAP_XMP)),
        compressed("auXP", "unKn", "xmPp"),
    ),
    "02-motion-photo.MP.jpg": (
        lambda: with_segments(segment(0xE1, MOTION_XMP)) + film(40_000),
        kept(Reason.TRAILING_DATA),
    ),
    "03-xmp-iptc.jpg": (
        lambda: with_segments(
            segment(0xE1, XMP + PACKET % b'<rdf:Description xmp:Rating="5"/>'),
            segment(0xED, b"Photoshop 3.0\08BIM\x04\x04\0\0\0\0\0\0"),
            segment(0xFE, b"a comment"),
        ),
        compressed("coMm", "psIr", "xmPp"),
    ),
    "04-exif-orient1-II.jpg": (
        lambda: with_segments(segment(0xE1, b"Exif\0\0" + camera_exif(1))),
        compressed("exIf"),
    ),
    "04-exif-orient6-II.jpg": (
        lambda: with_segments(segment(0xE1, b"Exif\0\0" + camera_exif(6))),
        compressed("exIf"),
    ),
    "05-avif-cicp-12-13-6.avif": (p3_avif, compressed()),
    "06-png-cicp-p3.png": (lambda: png_with((b"cICP", P3)), compressed()),
    "07-png-chrm-adobergb.png": (
        lambda: png_with((b"gAMA", struct.pack(">I", 45455)), (b"cHRM", bytes(32))),
        compressed(),
    ),
    "08-zero-tail.jpg": (lambda: wiped(photo("JPEG", 320, 224), 10_000), kept(Reason.DAMAGED)),
    "08-zero-40-bytes.jpg": (lambda: wiped(photo("JPEG", 320, 224), 40), kept(Reason.DAMAGED)),
    "08-zero-30.webp": (lambda: wiped(photo("WEBP", 320, 224), 30), kept(Reason.DAMAGED)),
    "09-no-eoi.jpg": (lambda: photo()[:-2], kept(Reason.DAMAGED)),
    "10-scan.tif": (
        lambda: tiff(
            text(270, b"a scan"), text(315, b"artist"), text(33432, b"(c)"), text(306, b"2026:11:27 12:00:00"),
            (700, 1, 6, b"<xmp/>"), *resolution(600),
        ),
        compressed("exIf", "phYs", "xmPp"),
    ),
    "10-exif.tif": (
        lambda: tiff(directories=[(34665, [(37500, 7, 9, b"MakerNote")]), (34853, [text(1, b"N")])]),
        kept(Reason.METADATA),
    ),
    "12-photo.heic": (tile_of_heic, compressed()),
    "12-photo.jxl": (
        lambda: bytes(imagecodecs.jpegxl_encode(synthetic(24, 32), lossless=True, numthreads=1)),
        compressed(),
    ),
    "12-photo.jp2": (lambda: stored(synthetic(24, 32), "JPEG2000"), compressed("coMm")),
    "12.ico": (lambda: stored(synthetic(32, 32), "ICO"), kept(Reason.FRAMES)),
    "16-raw-like.dng": (raw_like, kept(Reason.RAW)),
    "16-geotiff.tif": (lambda: tiff((34735, 3, 4, bytes(8))), kept(Reason.METADATA)),
    "17-10bit.avif": (lambda: heif(coded_item(bits=10)), kept(Reason.DEPTH)),
    "19-clap.avif": (lambda: heif(coded_item(1, box(b"clap", bytes(32)))), kept(Reason.UNSUPPORTED)),
    "21-text.png": (
        lambda: png_with((b"tEXt", b"Title\0a"), (b"zTXt", b"b\0\0x"), (b"iTXt", b"c\0\0\0\0\0d")),
        compressed("teXt"),
    ),
    "anim3.webp": (animation, kept(Reason.FRAMES)),
    "contig-rgb-nir-4band.tif": (lambda: tiff(short(338, 0), samples=4), kept(Reason.COLORS)),
    "grey2-trns.png": (lambda: png(2, 1, 2, 0, b"\x10", extra=(b"tRNS", b"\0\1")), compressed()),
}  # fmt: skip


def outcome(data: bytes, policy: Policy = Policy()) -> Verdict:  # noqa: B008
    structure = inspect(data)
    assert sum(part.length for part in structure.parts) == len(data)
    return judge(structure, policy)


@pytest.mark.parametrize("name", CASES)
def test_each_kind_of_file_ends_as_it_must(name: str) -> None:
    make, expected = CASES[name]
    verdict = outcome(make())
    assert (verdict.reason, verdict.carried) == expected


@pytest.mark.skipif(not FILES.is_dir(), reason=f"no pictures at {FILES}")
def test_the_files_themselves_end_as_they_must() -> None:
    for name, (_, expected) in CASES.items():
        verdict = outcome((FILES / name).read_bytes())
        assert (verdict.reason, verdict.carried) == expected, name


def test_a_sidecar_is_no_picture() -> None:
    with pytest.raises(NotAnImageError):
        inspect(b"bplist00")


def test_metadata_without_a_place_is_what_the_owner_asked_for() -> None:
    located = extended_webp((b"XMP ", b'<rdf:Description exif:GPSLatitude="48"/>'), flags=0x04)
    assert outcome(located).carried == ("xmPp",)
    verdict = outcome(located, Policy(metadata="no-location"))
    assert (verdict.carried, verdict.discarded) == ((), ("location",))
    verdict = outcome(located, Policy(metadata="none"))
    assert (verdict.carried, verdict.discarded) == ((), ("metadata",))


def test_more_metadata_than_a_file_has_room_for_keeps_the_source() -> None:
    comments = [segment(0xFE, b"%d" % number) for number in range(300)]
    assert outcome(with_segments(*comments)).reason is Reason.METADATA


def test_a_picture_of_16_bits_a_sample_is_kept_whatever_its_container() -> None:
    deep = np.full((4, 4), 1000, np.uint16)
    for kind in ("PNG", "TIFF", "JPEG2000", "PPM"):
        stream = io.BytesIO()
        Image.fromarray(deep).save(stream, kind)
        assert outcome(stream.getvalue()).reason is Reason.DEPTH
    assert outcome(heif(HeifItem(1, b"av01", b"coded", [picture_size(), av1_configuration(12)]))).reason is Reason.DEPTH
