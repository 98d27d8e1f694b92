"""Lossless JPEG XL gives back a JPEG to the byte and a PNG's samples, or is not used at all."""

from typing import Any

import imagecodecs
import numpy as np
import pytest
from PIL import ExifTags, Image

from codec import lossless
from codec.errors import ImageError
from tests.conftest import synthetic
from tests.support.image_files import DISPLAY_P3, profile, stored

PIXELS = synthetic(40, 64)
DEEP = PIXELS.astype(np.uint16) * 257 + 3


def exif() -> Image.Exif:
    block = Image.Exif()
    block[ExifTags.Base.Orientation], block[ExifTags.Base.Make] = 6, "maker"
    return block


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"progressive": True, "quality": 30},
        {"subsampling": 0, "exif": exif()},
        {"icc_profile": profile(2.2, DISPLAY_P3)},
        {"comment": b"a word"},
    ],
    ids=["plain", "progressive", "exif", "profile", "comment"],
)
def test_a_jpeg_comes_back_to_the_byte_and_is_smaller(options: dict[str, Any]) -> None:
    jpeg = stored(synthetic(160, 240), "JPEG", **options)
    coded = lossless.transcode(jpeg)
    assert coded is not None and lossless.is_jpeg_xl(coded)
    assert lossless.restore(coded) == jpeg
    assert len(coded) < len(jpeg)


def test_what_follows_a_jpeg_comes_back_too() -> None:
    jpeg = stored(PIXELS, "JPEG") + b"a film, say" * 99
    coded = lossless.transcode(jpeg)
    assert coded is not None and lossless.restore(coded) == jpeg


@pytest.mark.parametrize(
    "samples",
    [
        PIXELS,
        PIXELS[..., 0],
        PIXELS[..., :2],
        np.dstack([PIXELS, PIXELS[..., :1] // 200]),  # colors under full transparency are content too
        DEEP,
        DEEP[..., 0],
        DEEP[..., :2],
        np.dstack([DEEP, DEEP[..., :1]]),
        PIXELS[:1, :1],
    ],
    ids=["rgb", "gray", "gray alpha", "rgb alpha", "rgb 16", "gray 16", "gray alpha 16", "rgb alpha 16", "one pixel"],
)
def test_a_png_keeps_every_sample(samples: Any) -> None:
    png = bytes(imagecodecs.png_encode(np.ascontiguousarray(samples)))
    coded = lossless.transcode(png)
    assert coded is not None
    back = imagecodecs.png_decode(lossless.restore(coded))
    assert back.dtype == samples.dtype and np.array_equal(back, samples)


def test_a_palette_keeps_its_colors_and_transparency() -> None:
    palette = Image.fromarray(PIXELS).quantize(32)
    coded = lossless.transcode(stored(palette, transparency=bytes(range(32))))
    assert coded is not None
    expected = np.asarray(palette.convert("RGB"))
    assert np.array_equal(imagecodecs.png_decode(lossless.restore(coded))[..., :3], expected)


@pytest.mark.parametrize(
    "file",
    [
        stored(PIXELS, icc_profile=profile(2.2, DISPLAY_P3)),
        stored(PIXELS, exif=exif()),
        stored(PIXELS, dpi=(300, 300)),
        stored(PIXELS) + b"hid",
        stored(Image.fromarray(PIXELS), save_all=True, append_images=[Image.fromarray(PIXELS[::-1].copy())]),
        stored(PIXELS, "TIFF"),
        stored(PIXELS, "WEBP", lossless=True),
        stored(Image.fromarray(PIXELS).convert("CMYK"), "JPEG"),
        stored(PIXELS, "JPEG")[:-300],
        stored(PIXELS)[:-99],
        b"",
        b"\xff\xd8\xff",
        b"text",
    ],
    ids=[
        *("profile", "exif", "resolution", "trailing bytes", "animation", "TIFF", "WebP", "CMYK"),
        *("cut JPEG", "cut PNG", "empty", "three bytes", "text"),
    ],
)
def test_what_would_not_come_back_exactly_has_no_such_form(file: bytes) -> None:
    coded = lossless.transcode(file)
    assert coded is None or lossless.restore(coded) == file


def test_a_coder_that_errs_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    encode = imagecodecs.jpegxl_encode
    monkeypatch.setattr(imagecodecs, "jpegxl_encode", lambda samples, **options: encode(samples ^ 1, **options))
    assert lossless.transcode(stored(PIXELS)) is None
    other = imagecodecs.jpegxl_encode_jpeg(stored(PIXELS[::-1].copy(), "JPEG"))
    monkeypatch.setattr(imagecodecs, "jpegxl_encode_jpeg", lambda *_, **__: other)
    assert lossless.transcode(stored(PIXELS, "JPEG")) is None


@pytest.mark.parametrize("data", [b"\xff\x0a", lossless.SIGNATURES[1] + b"\0\0\0\x08jbrd", b"\xff\x0a" + bytes(99)])
def test_a_damaged_file_is_refused(data: bytes) -> None:
    with pytest.raises(ImageError, match="damaged"):
        lossless.restore(data)
