"""Any image file becomes upright 8-bit sRGB pixels."""

import io
import struct
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageCms

from codec.containers.writing import encode_png
from codec.errors import ImageLimitError
from codec.images import (
    COLORS,
    COLORS_BEYOND,
    DEPTH,
    FRAMES,
    read_image,
    to_pixels,
    to_tensor,
)
from tests.conftest import synthetic
from tests.support.image_files import DISPLAY_P3, SRGB_PRIMARIES, png, profile, stored, tiff

PIXELS = synthetic(24, 40)
RAMP = np.tile(np.arange(256, dtype=np.uint8), (4, 1))
"""Every level of gray, (4, 256)."""
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def test_pixels_of_a_lossless_file_come_back_as_they_are() -> None:
    for kind in ("PNG", "BMP", "TIFF", "PPM"):
        picture = read_image(stored(PIXELS, kind))
        assert np.array_equal(picture.pixels, PIXELS)
        assert (picture.width, picture.height, picture.source_format) == (40, 24, kind)
        assert not picture.gray and picture.alpha is None and picture.icc is None and picture.exif is None


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF", "AVIF"])
def test_every_format_of_the_list_is_read(kind: str) -> None:
    picture = read_image(stored(PIXELS, kind))
    assert picture.pixels.shape == PIXELS.shape and picture.pixels.dtype == np.uint8
    assert picture.source_format == kind
    assert np.abs(picture.pixels.astype(int) - PIXELS).mean() < 12


def test_a_path_is_read_like_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.b.png").write_bytes(stored(PIXELS))
    for source in (tmp_path / "a.b.png", str(tmp_path / "a.b.png")):
        assert np.array_equal(read_image(source).pixels, PIXELS)


@pytest.mark.parametrize("orientation", range(9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_every_exif_orientation_ends_upright(orientation: int, kind: str) -> None:
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :16] = 255  # the corner that marks the upper left
    turned = {
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }.get(orientation, upright)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.Make] = "maker"
    options = {"lossless": True} if kind == "WEBP" else {}
    picture = read_image(stored(np.ascontiguousarray(turned), kind, exif=exif, **options))
    assert np.abs(picture.pixels.astype(int) - upright).max() <= 2
    if picture.exif is not None:
        kept = Image.Exif()
        kept.load(picture.exif)
        assert kept.get(ExifTags.Base.Orientation, 1) in (0, 1), "a viewer would turn the upright picture again"
        assert kept[ExifTags.Base.Make] == "maker"


def test_a_broken_exif_block_costs_the_block_and_not_the_picture() -> None:
    broken = b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0\xff\xff\xff\xff\xff\xff\xff\xff" * 3
    picture = read_image(stored(PIXELS, exif=broken))
    assert np.array_equal(picture.pixels, PIXELS)


def test_gray_is_flagged_whatever_its_mode() -> None:
    level = RAMP[:, 60:100]
    for image in (
        Image.fromarray(level),
        Image.fromarray(level).convert("LA"),
        Image.fromarray(level).convert("P"),
        Image.fromarray(level).convert("RGB"),
    ):
        picture = read_image(stored(image))
        assert picture.gray and picture.alpha is None
        assert np.array_equal(picture.pixels, np.repeat(level[..., None], 3, 2))
    assert read_image(stored(Image.fromarray(level), "JPEG")).gray
    assert not read_image(stored(PIXELS)).gray


def test_one_bit_pictures_are_black_and_white() -> None:
    bits = PIXELS[..., 0] > 100
    for kind in ("PNG", "TIFF", "BMP", "PPM"):
        picture = read_image(stored(Image.fromarray(bits), kind))
        assert picture.gray
        assert np.array_equal(picture.pixels[..., 0], np.where(bits, 255, 0))


def test_palettes_are_resolved() -> None:
    image = Image.fromarray(PIXELS).quantize(64)
    for kind in ("PNG", "GIF", "BMP", "TIFF"):
        assert np.array_equal(read_image(stored(image, kind)).pixels, np.asarray(image.convert("RGB")))


def test_transparency_is_kept_apart_from_the_colors() -> None:
    alpha = RAMP[:, 100:140].repeat(6, 0)
    picture = read_image(stored(np.dstack([PIXELS, alpha])))
    assert np.array_equal(picture.pixels, PIXELS)
    assert picture.alpha is not None and np.array_equal(picture.alpha, alpha)
    gray = read_image(stored(Image.merge("LA", [Image.fromarray(PIXELS[..., 0]), Image.fromarray(alpha)])))
    assert gray.gray and np.array_equal(gray.pixels[..., 0], PIXELS[..., 0])
    assert gray.alpha is not None and np.array_equal(gray.alpha, alpha)


def test_an_opaque_alpha_channel_is_no_transparency() -> None:
    assert read_image(stored(np.dstack([PIXELS, np.full((24, 40), 255, np.uint8)]))).alpha is None


def test_transparent_colors_of_palettes_and_color_keys_become_alpha() -> None:
    palette = Image.fromarray(PIXELS).quantize(16)
    first = np.asarray(palette)
    levels = bytes(range(0, 160, 10))
    picture = read_image(stored(palette, transparency=levels))
    assert picture.alpha is not None and np.array_equal(picture.alpha, np.frombuffer(levels, np.uint8)[first])
    key = tuple(int(value) for value in PIXELS[3, 5])
    keyed = read_image(stored(PIXELS, transparency=key))
    assert keyed.alpha is not None
    assert np.array_equal(keyed.alpha == 0, (PIXELS[3, 5] == PIXELS).all(2)) and set(np.unique(keyed.alpha)) == {0, 255}
    assert read_image(stored(palette, "GIF", transparency=int(first[0, 0]))).alpha is not None


def test_16_bit_gray_is_scaled_and_not_clipped() -> None:
    values = np.arange(0, 65536, 16, dtype=np.uint16).reshape(32, 128)
    expected = np.rint(values / 257)
    ppm = b"P5 128 32 65535 " + values.astype(">u2").tobytes()
    for data in (stored(values), stored(values, "TIFF"), ppm):
        picture = read_image(data)
        assert picture.gray and np.array_equal(picture.pixels[..., 2], expected)


def test_dark_16_bit_gray_stays_dark() -> None:
    assert read_image(stored(np.full((4, 4), 200, np.uint16))).pixels.max() == 1


def test_16_bit_gray_with_a_transparent_value_keeps_its_transparency() -> None:
    values = np.array([[256, 257], [40000, 65535]], ">u2")
    picture = read_image(png(2, 2, 16, 0, *map(bytes, values), extra=(b"tRNS", struct.pack(">H", 257))))
    assert np.array_equal(picture.pixels[..., 0], [[1, 1], [156, 255]])
    assert picture.alpha is not None and np.array_equal(picture.alpha, [[255, 0], [255, 255]])


def test_16_bit_color_and_gray_with_alpha_keep_their_high_bytes() -> None:
    rgb = np.array([[[0, 257, 65535], [4 * 257, 5 * 257, 6 * 257]]], ">u2")
    assert np.array_equal(read_image(png(2, 1, 16, 2, rgb.tobytes())).pixels, [[[0, 1, 255], [4, 5, 6]]])
    gray = np.array([[[65535, 0], [7 * 257, 65535]]], ">u2")
    picture = read_image(png(2, 1, 16, 4, gray.tobytes()))
    assert picture.gray and np.array_equal(picture.pixels[..., 0], [[255, 7]])
    assert picture.alpha is not None and np.array_equal(picture.alpha, [[0, 255]])


def test_12_bit_gray_reaches_white() -> None:
    picture = read_image(tiff(bytes([0x00, 0x0F, 0xFF, 0x80, 0x00, 0x00]), 12, 4, 1))
    assert picture.pixels[0, :, 0].tolist() == [0, 255, 128, 0]


def test_inverted_16_bit_gray_is_turned_over() -> None:
    picture = read_image(tiff(np.array([0, 65535, 257], "<u2").tobytes(), 16, 3, 1, photometric=0))
    assert picture.pixels[0, :, 0].tolist() == [255, 0, 254]


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_samples_without_a_defined_white_are_refused(kind: type) -> None:
    with pytest.raises(ImageLimitError, match="white is not defined"):
        read_image(stored(np.zeros((4, 4), kind), "TIFF"))


@pytest.mark.parametrize(
    ("data", "reduced"),
    [
        (stored(PIXELS), None),
        (stored(Image.fromarray(PIXELS).quantize(16), transparency=bytes(range(16))), None),
        (stored(Image.fromarray(PIXELS).convert("YCbCr"), "TIFF"), None),
        (stored(Image.fromarray(PIXELS[..., 0] > 99)), None),
        (png(2, 1, 16, 2, bytes(12)), DEPTH),
        (png(2, 1, 16, 6, bytes(16)), DEPTH),
        (stored(np.zeros((4, 4), np.uint16), "TIFF"), DEPTH),
        (b"P6 1 1 1023 " + bytes(6), DEPTH),
        (b"P5 1 1 65535 " + bytes(2), DEPTH),
        (b"P6 1 1 100 " + bytes(3), None),
        (bytes(imagecodecs.avif_encode(np.zeros((16, 16, 3), np.uint16), bitspersample=10)), DEPTH),
        (bytes(imagecodecs.avif_encode(np.zeros((16, 16, 3), np.uint8))), None),
        (stored(Image.fromarray(PIXELS).convert("CMYK"), "JPEG"), COLORS_BEYOND),
        (stored(Image.fromarray(PIXELS, "LAB"), "TIFF"), COLORS_BEYOND),
        *(
            (stored(Image.fromarray(PIXELS), kind, save_all=True, append_images=[Image.new("RGB", (40, 24))]), FRAMES)
            for kind in ("GIF", "WEBP", "PNG", "TIFF", "AVIF", "MPO")
        ),
    ],
)
def test_what_eight_bits_of_rgb_do_not_hold_is_said(data: bytes, reduced: str | None) -> None:
    assert read_image(data).reduced == reduced


def test_cmyk_becomes_rgb() -> None:
    ink = np.zeros((16, 16, 4), np.uint8)
    ink[..., 0] = 255
    for kind in ("JPEG", "TIFF"):
        pixels = read_image(stored(Image.fromarray(ink, "CMYK"), kind)).pixels
        assert np.abs(pixels.astype(int) - (0, 255, 255)).max() <= 3


def test_lab_becomes_srgb() -> None:
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    image = ImageCms.applyTransform(Image.fromarray(PIXELS), to_lab)
    assert image is not None
    picture = read_image(stored(image, "TIFF"))
    assert np.abs(picture.pixels.astype(int) - PIXELS).mean() < 3 and picture.icc is None


def test_a_wide_color_space_is_converted_to_srgb() -> None:
    icc = profile(2.2, DISPLAY_P3)
    half = np.full((8, 8, 3), (180, 90, 60), np.uint8)
    picture = read_image(stored(half, icc_profile=icc))
    assert picture.icc is None
    red, green, blue = (int(value) for value in picture.pixels[0, 0])
    assert red > 183 and green < 90 and blue < 60, "the same color needs more saturated numbers in sRGB"
    neutral = read_image(stored(np.full((8, 8, 3), 128, np.uint8), icc_profile=icc))
    assert neutral.gray and abs(int(neutral.pixels[0, 0, 0]) - 128) <= 1


def test_palettes_and_transparent_pictures_are_converted_too() -> None:
    icc = profile(2.2, DISPLAY_P3)
    half = np.full((8, 8, 3), (180, 90, 60), np.uint8)
    wanted = read_image(stored(half, icc_profile=icc)).pixels
    palette = read_image(stored(Image.fromarray(half).quantize(2), icc_profile=icc))
    clear = read_image(stored(np.dstack([half, np.full((8, 8), 9, np.uint8)]), icc_profile=icc))
    assert np.array_equal(palette.pixels, wanted) and np.array_equal(clear.pixels, wanted)
    assert clear.alpha is not None and (clear.alpha == 9).all()


def test_pictures_in_srgb_keep_their_pixels_though_their_profile_rounds_otherwise() -> None:
    sampled = profile(None, SRGB_PRIMARIES | {"red": (0.6405, 0.330)})
    transform = ImageCms.buildTransform(io.BytesIO(sampled), ImageCms.createProfile("sRGB"), "RGB", "RGB")
    moved = ImageCms.applyTransform(Image.fromarray(COLORS), transform)
    assert not np.array_equal(np.asarray(moved), COLORS), "this profile would move colors by a level"
    for icc in (SRGB, sampled):
        picture = read_image(stored(COLORS, icc_profile=icc))
        assert np.array_equal(picture.pixels, COLORS) and picture.icc is None


def test_gray_with_a_profile_of_gray_or_of_color_stays_gray() -> None:
    for icc in (profile(1.0), profile(1.0, DISPLAY_P3)):
        picture = read_image(stored(RAMP, icc_profile=icc))
        assert picture.gray and picture.icc is None
        assert abs(int(picture.pixels[0, 128, 0]) - 188) <= 1, "linear light of one half is level 188 in sRGB"


@pytest.mark.parametrize(
    ("image", "icc"),
    [
        (Image.fromarray(PIXELS), b"no profile at all"),
        (Image.fromarray(PIXELS), SRGB[:200]),
        (Image.fromarray(PIXELS), profile(1.0)),
        (Image.fromarray(PIXELS).convert("CMYK"), SRGB),
    ],
    ids=["text", "truncated", "gray profile of a color picture", "RGB profile of a CMYK picture"],
)
def test_a_profile_that_cannot_be_applied_is_kept_beside_unconverted_pixels(image: Image.Image, icc: bytes) -> None:
    picture = read_image(stored(image, "TIFF", icc_profile=icc))
    assert picture.icc == icc
    assert np.array_equal(picture.pixels, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_is_read(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    picture = read_image(stored(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    assert (picture.pixels == (255, 0, 0)).all()


def test_a_png_holds_the_pixels_exactly() -> None:
    assert np.array_equal(read_image(encode_png(PIXELS)).pixels, PIXELS)


def test_every_level_survives_the_tensor_and_back() -> None:
    pixels = np.repeat(RAMP[..., None], 3, 2)
    tensor = to_tensor(pixels)
    assert tensor.shape == (3, 4, 256) and tensor.dtype == torch.float32
    assert tensor.min() == -1 and tensor.max() == 1
    assert np.array_equal(to_pixels(tensor), pixels)


def test_pixels_beyond_the_range_are_clamped() -> None:
    assert to_pixels(torch.tensor([-3.0, 0.0, 3.0]).view(3, 1, 1)).tolist() == [[[0, 128, 255]]]
