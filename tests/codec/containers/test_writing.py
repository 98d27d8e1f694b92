"""Metadata travels into every kind of file that is written, and what has no place in one is named."""

import io
import struct
import xml.etree.ElementTree as ElementTree
import zlib

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from codec.containers import mpf, xmp
from codec.containers.inspect import inspect
from codec.containers.reading import read_source
from codec.containers.structure import Role
from codec.containers.writing import KINDS, Kind, left_behind, write
from codec.format.tags import MetadataBlock
from codec.images import Picture
from tests.support.containers import XMP, exif, photo, segment, with_pictures, with_segments

RDF = 'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
MAIN = f"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF {RDF}><rdf:Description rdf:about=""
 xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:xmpNote="http://ns.adobe.com/xmp/note/" xmp:Rating="5"
 xmpNote:HasExtendedXMP="{"A" * 32}"/></rdf:RDF></x:xmpmeta>""".encode()
MORE = f"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF {RDF}><rdf:Description rdf:about=""
 xmlns:crs="http://ns.adobe.com/camera-raw-settings/1.0/" crs:Shadows="12"/></rdf:RDF></x:xmpmeta>""".encode()
PIXELS = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
GAIN_MAP = with_segments(segment(0xE1, XMP + b'<rdf:Description hdrgm:Version="1.0"/>'), data=photo("JPEG", 32, 24))
DIRECTORY = b'<rdf:li Item:Semantic="GainMap" Item:Length="%d"/><r hdrgm:Version="1.0"/>' % len(GAIN_MAP)


def picture(*blocks: tuple[str, bytes], orientation: int = 1, alpha: bool = False) -> Picture:
    carried = tuple(MetadataBlock(*pair) for pair in blocks)
    transparent = np.full(PIXELS.shape[:2], 7, np.uint8) if alpha else None
    return Picture(PIXELS, False, orientation=orientation, alpha=transparent, blocks=carried)


def portions(packet: bytes, size: int = 100) -> list[tuple[str, bytes]]:
    found = []
    for place in range(0, len(packet), size):
        head = b"A" * 32 + struct.pack(">II", len(packet), place)
        found.append(("xeXt", head + packet[place : place + size]))
    return found[::-1]  # in whatever order they stand


def packet_of(data: bytes) -> bytes:
    blocks = [block for block in inspect(data).blocks if block.tag in ("xmPp", "teXt")]
    assert len(blocks) == 1
    return blocks[0].content.removeprefix(b"iTXtXML:com.adobe.xmp\0\0\0\0\0")


@pytest.mark.parametrize("kind", ["png", "webp", "avif", "jxl"])
def test_extended_xmp_is_joined_where_a_container_has_no_limit(kind: Kind) -> None:
    whole = picture(("xmPp", MAIN), *portions(MORE))
    packet = packet_of(write(whole, kind))
    texts = {name: value for item in ElementTree.fromstring(packet).iter() for name, value in item.attrib.items()}
    assert texts["{http://ns.adobe.com/xap/1.0/}Rating"] == "5"
    assert texts["{http://ns.adobe.com/camera-raw-settings/1.0/}Shadows"] == "12"
    assert b"HasExtendedXMP" not in packet and b"crs:Shadows" in packet
    assert left_behind(whole, kind) == ()


def test_extended_xmp_that_cannot_be_joined_is_named() -> None:
    for broken in (portions(MORE)[1:], portions(MORE[:-9]), [("xeXt", b"short")]):
        cut = picture(("xmPp", MAIN), *broken)
        assert packet_of(write(cut, "png")).endswith(MAIN)
        assert left_behind(cut, "png") == ("portion of extended XMP",)
        assert left_behind(cut, "jpeg") == ()


def test_a_packet_too_long_for_a_segment_becomes_extended_xmp() -> None:
    packet = MORE.replace(b"Shadows", b"S" * 150_000)
    found = {"xmPp": [], "xeXt": []}  # type: dict[str, list[Block]]
    for block in inspect(write(picture(("xmPp", packet)), "jpeg")).blocks:
        found[block.tag].append(block)
    assert len(found["xmPp"]) == 1 and len(found["xeXt"]) == 3
    assert b"".join(block.content[40:] for block in found["xeXt"]) == packet
    assert xmp.whole([*found["xmPp"], *found["xeXt"]]) is not None
    assert xmp.joins([*found["xmPp"], *found["xeXt"]])


def test_an_ultra_hdr_jpeg_comes_back_with_its_gain_map_in_place() -> None:
    source = with_pictures([(0, GAIN_MAP)], segment(0xE1, XMP + DIRECTORY))
    read = read_source(source).picture
    assert read is not None
    written = write(read, "jpeg")
    parts = {part.role: part for part in inspect(written).parts}
    place = parts[Role.AUXILIARY]
    assert written[place.offset : place.offset + place.length] == GAIN_MAP
    assert place.offset + place.length == len(written)
    with Image.open(io.BytesIO(written)) as image:
        listed = image._getmp()  # type: ignore[attr-defined]  # a second reader of the list
    assert listed[0xB001] == 2
    assert [entry["Size"] for entry in listed[0xB002]] == [place.offset, place.length]
    assert [entry["DataOffset"] > 0 for entry in listed[0xB002]] == [False, True]
    assert left_behind(read, "jpeg") == ()
    assert left_behind(read, "png") == ("auxiliary picture",)


def test_the_gain_map_of_a_turned_picture_is_turned_with_it() -> None:
    turned = picture(("exIf", exif(6)), ("xmPp", DIRECTORY), ("auXP", b"gain map (MPF)\0" + GAIN_MAP), orientation=6)
    written = write(turned, "jpeg")
    structure = inspect(written)
    place = next(part for part in structure.parts if part.role is Role.AUXILIARY)
    inner = written[place.offset : place.offset + place.length]
    before, after = (np.asarray(Image.open(io.BytesIO(data))).astype(int) for data in (GAIN_MAP, inner))
    assert after.shape == (32, 24, 3)
    assert abs(np.rot90(before, -1) - after).mean() < 2
    assert b'hdrgm:Version="1.0"' in inner
    assert b'Item:Length="%d"' % place.length in packet_of(written)
    assert structure.orientation == 1 and mpf.is_gain_map(inner, b"")


def test_resolution_travels_into_every_kind() -> None:
    sparse = picture(("phYs", struct.pack("<B4I", 1, 300, 1, 300, 1)))
    for kind in ("png", "jpeg", "webp", "avif"):
        with Image.open(io.BytesIO(write(sparse, kind))) as image:  # type: ignore[arg-type]
            dpi = image.info.get("dpi") or (image.getexif()[282], image.getexif()[283])
            assert [round(float(value)) for value in dpi] == [300, 300]
    assert b"Exif\0\0\0\0II*\0" in write(sparse, "jxl")


def test_what_has_no_place_in_a_kind_of_file_is_named() -> None:
    everything = picture(
        ("exIf", exif()), ("xmPp", MAIN), ("ipTc", b"\x1c\x02"), ("psIr", b"Photoshop 3.0\0"), ("coMm", b"c"),
        ("teXt", b"tEXtTitle\0a"), ("phYs", struct.pack("<B4I", 1, 72, 1, 72, 1)), ("unKn", b"JPEG APP7\0who"),
        alpha=True,
    )  # fmt: skip
    few = ("IPTC record", "PNG text", "Photoshop resources", "comment", "metadata of an unknown kind")
    expected = {"png": ("metadata of an unknown kind",), "jpeg": ("transparency",)}
    for kind in KINDS:
        assert left_behind(everything, kind) == expected.get(kind, few)  # type: ignore[arg-type]
    long = picture(("exIf", exif() + bytes(70_000)), ("coMm", bytes(70_000)))
    assert left_behind(long, "jpeg") == ("EXIF block", "comment") and left_behind(long, "png") == ()


def test_compressed_texts_become_readable_comments() -> None:
    texts = (
        b"zTXta\0\0" + zlib.compress(b"one"),
        b"iTXtb\0\1\0de\0B\0" + zlib.compress(b"two"),
        b"iTXtc\0\0\0\0\0three",
    )
    broken = b"zTXtd\0\0no"
    written = write(picture(*(("teXt", text) for text in (*texts, broken))), "jpeg")
    comments = [block.content for block in inspect(written).blocks if block.tag == "coMm"]
    assert comments == [b"a: one", b"b: two", b"c: three"]


def test_jpeg_xl_comes_back_exactly() -> None:
    assert np.array_equal(imagecodecs.jpegxl_decode(write(picture(), "jxl")), PIXELS)
