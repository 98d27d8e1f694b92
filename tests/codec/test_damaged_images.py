"""Damaged, hostile and oversized image files: each is found, and costs one line and bounded time and memory."""

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, TiffImagePlugin

from codec.errors import ImageError, ImageLimitError
from codec.images import check_image, read_image
from tests.conftest import synthetic
from tests.support.image_files import png, stored

PIXELS = synthetic(24, 40)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF"])
@pytest.mark.parametrize("part", [0.02, 0.5, 0.9])
def test_a_file_cut_short_is_found(kind: str, part: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = stored(noise, kind)
    with pytest.raises(ImageError) as caught:
        read_image(data[: int(len(data) * part)])
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "data",
    [
        *(stored(PIXELS, kind) for kind in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF")),
        stored(PIXELS, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"),
        stored(PIXELS, exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0" * 9),
        stored(np.zeros((4, 6), np.uint16), "TIFF"),
        stored(Image.fromarray(PIXELS).convert("CMYK"), "JPEG"),
    ],
)
def test_a_check_says_of_a_picture_what_reading_it_says(data: bytes) -> None:
    picture = read_image(data)
    assert check_image(data) == (picture.source_format, picture.width, picture.height)


@pytest.mark.parametrize(
    "data",
    [
        stored(PIXELS, "JPEG")[:-200],
        stored(PIXELS)[:-200],
        stored(np.zeros((4, 4), np.int32), "TIFF"),
        png(20_000, 20_000, 8, 2),
        b"no picture",
        b"",
    ],
)
def test_a_check_refuses_what_reading_refuses(data: bytes) -> None:
    with pytest.raises(ImageError) as read:
        read_image(data)
    with pytest.raises(ImageError) as checked:
        check_image(data)
    assert (type(read.value), str(read.value)) == (type(checked.value), str(checked.value))


def test_a_progressive_jpeg_cut_short_is_found() -> None:
    data = stored(PIXELS, "JPEG", progressive=True)
    with pytest.raises(ImageError, match="truncated"):
        read_image(data[: len(data) * 3 // 4])


def test_settings_of_pillow_are_left_alone() -> None:
    before = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS
    read_image(stored(PIXELS))
    assert before == (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"\0" * 1000, "not a picture"),
        (b"this is no picture\n", "not a picture"),
        (b"\xff\xd8\xff", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        (png(0, 0, 8, 2), "not a picture|damaged"),
    ],
    ids=["empty", "zeros", "text", "three bytes", "EPS", "no area"],
)
def test_what_is_no_picture_is_refused_in_one_line(data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message) as caught:
        read_image(data)
    assert "\n" not in str(caught.value)


def test_text_named_jpg_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "note.jpg").write_text("dear diary")
    with pytest.raises(ImageError, match=r"note\.jpg is not a picture"):
        read_image(tmp_path / "note.jpg")


def test_a_path_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="No such file"):
        read_image(tmp_path / "absent.png")
    with pytest.raises(ImageError, match="directory"):
        read_image(tmp_path)


def test_a_damaged_checksum_is_found() -> None:
    data = bytearray(stored(PIXELS))
    data[data.index(b"IDAT") + 40] ^= 1
    with pytest.raises(ImageError, match="damaged"):
        read_image(bytes(data))


@pytest.mark.parametrize(("width", "height"), [(12000, 10000), (14000, 12000), (60000, 60000), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_is_refused_by_its_declared_size_before_decoding(
    width: int, height: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("a bomb was decoded"))
    with pytest.raises(ImageError, match=f"declares ({width} x {height}|more) pixels|not a picture"):
        read_image(png(width, height, 8, 2, bytes(3)))


def test_the_limit_on_pixels_can_be_set() -> None:
    data = stored(PIXELS)
    assert read_image(data, max_pixels=960).width == 40
    with pytest.raises(ImageLimitError, match="declares 40 x 24 pixels, more than 959"):
        read_image(data, max_pixels=959)


def test_compressed_text_that_explodes_is_refused() -> None:
    bomb = b"k\0\0" + zlib.compress(bytes(200_000_000), 9)
    with pytest.raises(ImageError, match="damaged"):
        read_image(png(2, 1, 8, 2, bytes(6), extra=(b"zTXt", bomb)))


@pytest.mark.parametrize("error", [RuntimeError("a\nb"), struct.error("x"), RecursionError(), ZeroDivisionError("y")])
def test_whatever_a_decoder_raises_is_an_image_error(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    with pytest.raises(ImageError) as caught:
        read_image(stored(PIXELS))
    assert "\n" not in str(caught.value)


def test_no_warning_of_pillow_leaks() -> None:
    ifd = TiffImagePlugin.ImageFileDirectory_v2()
    ifd[270] = "text"
    data = bytearray(stored(PIXELS, "TIFF", tiffinfo=ifd))
    palette = stored(Image.fromarray(PIXELS).quantize(4), transparency=bytes([0, 9, 99, 255]))
    large = stored(Image.new("1", (10000, 9500)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read_image(bytes(data))
        read_image(palette)
        read_image(large)
    assert [str(warning.message) for warning in caught] == []
