"""JPEG XL and JPEG 2000: boxes, and what the heads of their codestreams say."""

import struct

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from codec.containers.inspect import inspect
from codec.containers.judgement import judge
from codec.containers.reasons import Reason
from codec.format.tags import MetadataBlock
from tests.conftest import synthetic
from tests.support.containers import box, exif, photo
from tests.support.image_files import stored

BARE = bytes(imagecodecs.jpegxl_encode(synthetic(24, 32), lossless=True, effort=1, numthreads=1))
HEAD = box(b"JXL ", b"\r\n\x87\n") + box(b"ftyp", b"jxl \0\0\0\0jxl ")
JP2 = stored(Image.fromarray(synthetic(24, 32)), "JPEG2000")


def reason(data: bytes) -> Reason | None:
    structure = inspect(data)
    assert sum(part.length for part in structure.parts) == len(data)
    return judge(structure).reason


def jxl(*boxes: bytes) -> bytes:
    return HEAD + box(b"jxlc", BARE) + b"".join(boxes)


def test_jpeg_xl_bare_in_a_container_or_made_of_a_jpeg_is_compressed() -> None:
    for data in (BARE, jxl(), HEAD + box(b"jxlp", b"\0\0\0\0" + BARE[:90]) + box(b"jxlp", b"\x80\0\0\1" + BARE[90:])):
        structure = inspect(data)
        assert (structure.container, structure.width, structure.height, structure.bits) == ("JXL", 32, 24, 8)
        assert judge(structure).reason is None
    assert reason(bytes(imagecodecs.jpegxl_encode_jpeg(photo(), usecontainer=True, numthreads=1))) is None


def test_metadata_boxes_of_jpeg_xl_come_back_to_the_byte() -> None:
    data = jxl(box(b"Exif", bytes(4), exif()), box(b"xml ", b"<xmp/>"), box(b"priv", b"?"), box(b"jumb", b"data"))
    assert judge(inspect(data)).blocks == (
        MetadataBlock("exIf", exif()),
        MetadataBlock("xmPp", b"<xmp/>"),
        MetadataBlock("unKn", b"JXL priv\0?"),
        MetadataBlock("unKn", b"JXL jumb\0data"),
    )


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (jxl(box(b"brob", b"xml ?")), Reason.METADATA),
        (jxl(box(b"jumb", b"c2pa")), Reason.SIGNED),
        (jxl(box(b"jxlc", BARE)), Reason.FRAMES),
        (jxl() + b"trailer", Reason.TRAILING_DATA),
        (HEAD + box(b"jxlp", b"\0\0\0\0" + BARE), Reason.DAMAGED),
        (HEAD, Reason.DAMAGED),
        (bytes(imagecodecs.jpegxl_encode(np.zeros((8, 8, 3), np.uint16), lossless=True)), Reason.DEPTH),
    ],
)
def test_what_jpeg_xl_cannot_carry_keeps_the_file(data: bytes, expected: Reason) -> None:
    assert reason(data) is expected


def codestream(*segments: bytes) -> bytes:
    """The codestream of the JPEG 2000 file with segments in its main header."""
    start = JP2.index(b"\xff\x4f\xff\x51")
    size = start + 4 + struct.unpack_from(">H", JP2, start + 4)[0]
    return JP2[start:size] + b"".join(segments) + JP2[size:]


def test_jpeg_2000_is_compressed_and_its_comments_come_back() -> None:
    structure = inspect(JP2)
    assert (structure.container, structure.width, structure.height) == ("JP2", 32, 24)
    assert judge(structure).reason is None
    comment = b"\xff\x64" + struct.pack(">H", 11) + b"\0\1comment"
    binary = b"\xff\x64" + struct.pack(">H", 9) + b"\0\0bytes"
    blocks = judge(inspect(codestream(comment, binary))).blocks
    assert MetadataBlock("coMm", b"comment") in blocks
    assert MetadataBlock("unKn", b"JP2 COM\0\0\0bytes") in blocks


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (JP2 + box(b"what", b"?"), Reason.METADATA),
        (JP2 + box(b"jp2c", codestream()), Reason.FRAMES),
        (JP2 + b"tail", Reason.TRAILING_DATA),
        (codestream() + b"tail", Reason.TRAILING_DATA),
        (codestream()[:-2], Reason.DAMAGED),
        (codestream()[:-30], Reason.DAMAGED),
        (stored(Image.new("LA", (8, 8)), "JPEG2000").replace(b"cdef", b"cdeg"), Reason.COLORS),
        (stored(Image.new("I;16", (8, 8)), "JPEG2000"), Reason.DEPTH),
    ],
)
def test_what_jpeg_2000_cannot_carry_keeps_the_file(data: bytes, expected: Reason) -> None:
    assert reason(data) is expected


def test_metadata_boxes_of_jpeg_2000_come_back_to_the_byte() -> None:
    xmp = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
    data = JP2 + box(b"uuid", xmp, b"<xmp/>") + box(b"uuid", bytes(16), b"own") + box(b"xml ", b"<a/>")
    blocks = judge(inspect(data)).blocks
    assert [block for block in blocks if block.tag != "coMm"] == [
        MetadataBlock("xmPp", b"<xmp/>"),
        MetadataBlock("unKn", b"JP2 uuid\0" + bytes(16) + b"own"),
        MetadataBlock("unKn", b"JP2 xml \0<a/>"),
    ]
