"""PNG: each chunk is named, carried or keeps the file."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from codec.containers.inspect import inspect
from codec.containers.judgement import judge
from codec.containers.reasons import Reason
from codec.containers.writing import write
from codec.format.tags import MetadataBlock
from codec.images import Picture
from tests.support.containers import PNG_SIGNATURE, exif, photo, png_chunks, png_with
from tests.support.image_files import chunk, stored


def reason(data: bytes) -> Reason | None:
    structure = inspect(data)
    assert sum(part.length for part in structure.parts) == len(data)
    return judge(structure).reason


def test_metadata_comes_back_to_the_byte() -> None:
    xmp = b"XML:com.adobe.xmp\0\0\0\0\0<x:xmpmeta/>"
    data = png_with(
        (b"tEXt", b"Title\0a"),
        (b"zTXt", b"Comment\0\0" + zlib.compress(b"text")),
        (b"iTXt", xmp),
        (b"eXIf", exif(3)),
        (b"tIME", bytes(7)),
        (b"pHYs", struct.pack(">IIB", 2835, 2835, 1)),
        (b"npTc", b"private"),
        (b"sRGB", b"\0"),
    )
    structure = inspect(data)
    assert structure.orientation == 3
    assert judge(structure).blocks == (
        MetadataBlock("teXt", b"tEXtTitle\0a"),
        MetadataBlock("teXt", b"zTXtComment\0\0" + zlib.compress(b"text")),
        MetadataBlock("teXt", b"iTXt" + xmp),
        MetadataBlock("exIf", exif(3)),
        MetadataBlock("unKn", b"PNG tIME\0" + bytes(7)),
        MetadataBlock("phYs", struct.pack("<B4I", 3, 2835, 1, 2835, 1)),
        MetadataBlock("unKn", b"PNG npTc\0private"),
    )


def test_a_suggested_palette_is_carried() -> None:
    assert judge(inspect(png_with((b"PLTE", bytes(6))))).blocks == (MetadataBlock("unKn", b"PNG PLTE\0" + bytes(6)),)


def test_chunks_about_stored_pixels_are_not_written_beside_others() -> None:
    carried = judge(inspect(png_with((b"PLTE", bytes(6)), (b"bKGD", bytes(6)), (b"npTc", b"own")))).blocks
    assert len(carried) == 3
    written = write(Picture(np.zeros((4, 4, 3), np.uint8), gray=True, blocks=carried))
    assert [part.name for part in inspect(written).parts if part.name in ("PLTE", "bKGD", "npTc")] == ["npTc"]


def test_color_chunks_become_fields() -> None:
    structure = inspect(png_with((b"gAMA", struct.pack(">I", 45455)), (b"cHRM", struct.pack(">8I", *range(8)))))
    assert structure.gamma == 0.45455
    assert structure.chromaticities == tuple(value / 100_000 for value in range(8))
    assert inspect(png_with((b"cICP", bytes([12, 13, 0, 1])))).cicp == (12, 13, 0, True)
    assert inspect(png_with((b"iCCP", b"name\0\0" + zlib.compress(b"profile")))).icc == b"profile"


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (b"cICP", b"\1"),
        (b"gAMA", b"12345"),
        (b"iCCP", b"name\0\0no stream"),
        (b"iCCP", b"name\0\0" + zlib.compress(b"profile") + b"hidden"),
        (b"ab1c", b""),
    ],
)
def test_a_picture_beside_a_broken_chunk_is_kept_as_irregular(kind: bytes, content: bytes) -> None:
    assert reason(png_with((kind, content))) is Reason.IRREGULAR


def test_a_wrong_checksum_is_damage_in_pixels_and_irregular_elsewhere() -> None:
    chunks = png_chunks(photo("PNG"))
    for number in range(len(chunks)):
        broken = [*chunks]
        broken[number] = chunks[number][:-1] + bytes([chunks[number][-1] ^ 1])
        assert reason(PNG_SIGNATURE + b"".join(broken)) is Reason.DAMAGED
    text = chunk(b"tEXt", b"Title\0a")[:-1] + b"?"
    assert reason(PNG_SIGNATURE + b"".join([chunks[0], text, *chunks[1:]])) is Reason.IRREGULAR


def test_animations_credentials_and_unknown_critical_chunks_keep_the_file() -> None:
    assert reason(png_with((b"acTL", bytes(8)))) is Reason.FRAMES
    assert reason(png_with((b"fdAT", bytes(8)), at=2)) is Reason.FRAMES
    assert reason(png_with((b"caBX", b"jumb"))) is Reason.SIGNED
    assert reason(png_with((b"ABCD", b""))) is Reason.UNSUPPORTED
    assert reason(photo("PNG") + b"behind") is Reason.TRAILING_DATA
    assert reason(photo("PNG") + photo("PNG")) is Reason.TRAILING_DATA
    assert reason(photo("PNG") + bytes(9)) is None


def test_image_data_that_is_missing_broken_or_too_much_is_found() -> None:
    head, *_, end = png_chunks(photo("PNG"))
    rows = bytes(48 * (1 + 3 * 64))
    packed = zlib.compress(rows)

    def with_data(*contents: bytes) -> bytes:
        return PNG_SIGNATURE + head + b"".join(chunk(b"IDAT", content) for content in contents) + end

    assert reason(with_data(packed)) is None
    assert reason(with_data(packed[:9], packed[9:])) is None
    assert reason(with_data(packed[:-9])) is Reason.DAMAGED
    assert reason(with_data(packed[:-1] + b"?")) is Reason.DAMAGED
    assert reason(with_data(zlib.compress(rows[1:]))) is Reason.DAMAGED
    assert reason(with_data(zlib.compress(rows + b"hidden"))) is Reason.IRREGULAR
    assert reason(with_data(packed + b"hidden")) is Reason.IRREGULAR
    assert reason(with_data(packed, b"hidden")) is Reason.IRREGULAR
    assert reason(photo("PNG")[:-12]) is Reason.DAMAGED


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_pictures_of_every_kind_have_as_much_image_data_as_is_due(mode: str) -> None:
    for size in ((1, 1), (5, 3), (9, 17)):
        assert reason(stored(Image.new(mode, size))) is None


def test_sixteen_bits_are_kept() -> None:
    assert reason(stored(Image.new("I;16", (4, 4)))) is Reason.DEPTH


def test_apples_variant_is_not_read() -> None:
    assert reason(png_with((b"CgBI", bytes(4)), at=0)) is Reason.UNSUPPORTED
