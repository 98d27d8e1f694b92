"""What a picture has beside its colors comes back byte for byte, costs what is said, and cannot be made a bomb."""

import lzma
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from codec import BitstreamError, Codec, ImageError, Picture, encode_png, read_image
from codec.bundle import Bundle
from codec.format.bitstream import FdcFile, pack, parse
from codec.format.chunks import (
    ALL_CONTENT_LIMIT,
    CONTENT_LIMIT,
    Chunk,
    code_alpha,
    compressed,
    of_picture,
    parse_alpha,
    parse_content,
)  # fmt: skip
from codec.format.tags import ALPHA, EXIF, ICC, MetadataBlock
from codec.quantization.parameters import QuantizationParameters
from tests.conftest import synthetic
from tests.support.image_files import DISPLAY_P3, profile

RAMP = np.tile(np.arange(90, dtype=np.uint8) * 2, (70, 1))
"""A soft mask for a picture of 90 x 70."""
ICC_PROFILE = profile(2.2, DISPLAY_P3)


def exif_block() -> bytes:
    exif = Image.Exif()
    exif[0x010F] = "maker"
    exif[0x0132] = "2020:02:02 20:20:20"
    return exif.tobytes().removeprefix(b"Exif\0\0")


BLOCKS = (
    MetadataBlock(EXIF, exif_block()),
    MetadataBlock("coMm", b"first"),
    MetadataBlock("coMm", b"second"),
    MetadataBlock("teXt", b"tEXtTitle\0a picture"),
)
EVERYTHING = Picture(synthetic(70, 90), alpha=RAMP, icc=ICC_PROFILE, blocks=BLOCKS, orientation=6)


def file_with(chunks: tuple[Chunk, ...], width: int = 90, height: int = 70) -> FdcFile:
    return FdcFile(width, height, False, "0123456789abcdef", 3, QuantizationParameters((128,), 8), b"abcd", chunks)


def raw_lzma(content: bytes) -> bytes:
    return lzma.compress(content, lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "preset": 9}])


@pytest.fixture(scope="module")
def codec(bundle: Bundle) -> Codec:
    return Codec.load(bundle)


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=40)))
def test_any_alpha_plane_comes_back(plane: NDArray[np.uint8]) -> None:
    chunk = code_alpha(plane)
    assert parse_alpha(chunk.coded, plane.shape[1], plane.shape[0]) == chunk
    assert chunk.content == plane.tobytes()


@pytest.mark.parametrize("way", range(3))
def test_each_way_to_code_a_plane_is_the_documented_one(way: int) -> None:
    values = [[1, 2, 4], [250, 5, 5]]
    differences = [[[1, 2, 4], [250, 5, 5]], [[1, 1, 2], [250, 11, 0]], [[1, 2, 4], [249, 3, 1]]]
    coded = bytes([way]) + raw_lzma(np.array(differences[way], np.uint8).tobytes())
    assert parse_alpha(coded, 3, 2).content == np.array(values, np.uint8).tobytes()


def test_masks_cost_less_than_the_same_plane_as_png() -> None:
    mask = Image.new("L", (384, 256))
    ImageDraw.Draw(mask).ellipse((50, 40, 300, 235), fill=255)
    for image in (mask, mask.filter(ImageFilter.GaussianBlur(1)), mask.filter(ImageFilter.GaussianBlur(8))):
        plane = np.asarray(image)
        assert len(code_alpha(plane).coded) < 0.7 * len(encode_png(plane))


@given(st.binary(min_size=1, max_size=3000))
def test_any_metadata_comes_back(content: bytes) -> None:
    assert parse_content(compressed(content), "EXIF block") == content


def test_a_picture_keeps_all_it_has_beside_its_colors(codec: Codec) -> None:
    encoded = codec.encode(EVERYTHING)
    restored = codec.decode_picture(encoded.data)
    assert restored.alpha is not None and np.array_equal(restored.alpha, RAMP)
    assert (restored.icc, restored.exif, restored.orientation) == (ICC_PROFILE, exif_block(), 6)
    assert set(restored.blocks) == set(BLOCKS)
    assert [block.content for block in restored.blocks if block.tag == "coMm"] == [b"first", b"second"]
    assert np.array_equal(restored.pixels, codec.decode(encoded.data))
    assert restored.source_format == "FDC2" and not restored.gray
    plain = codec.encode(Picture(EVERYTHING.pixels))
    assert np.array_equal(plain.symbols, encoded.symbols), "what is beside the colors changed them"
    assert codec.decode_picture(plain.data).alpha is codec.decode_picture(plain.data).exif is None


def test_the_target_rate_counts_the_chunks(codec: Codec) -> None:
    assert 8 * len(codec.encode_to_bpp(EVERYTHING, 3).data) <= 3 * 90 * 70


def test_a_restored_png_has_all_that_the_source_had(codec: Codec) -> None:
    restored = read_image(encode_png(codec.decode_picture(codec.encode(replace(EVERYTHING, icc=None)).data)))
    assert restored.alpha is not None and np.array_equal(restored.alpha, np.rot90(RAMP, -1)), "turned upright"
    kept = Image.Exif()
    kept.load(restored.exif or b"")
    assert dict(kept) == {0x010F: "maker", 0x0132: "2020:02:02 20:20:20"}


def mode_and_profile(picture: Picture, tmp_path: Path) -> tuple[str, bytes | None]:
    (tmp_path / "out.png").write_bytes(encode_png(picture))
    with Image.open(tmp_path / "out.png") as image:
        return image.mode, image.info.get("icc_profile")


def test_a_gray_picture_becomes_a_gray_png_with_a_profile_that_fits(codec: Codec, tmp_path: Path) -> None:
    gray = np.repeat(synthetic(20, 30)[..., :1], 3, axis=2)
    restored = codec.decode_picture(codec.encode(Picture(gray, gray=True)).data)
    assert restored.gray and mode_and_profile(restored, tmp_path) == ("L", None)
    clear = replace(restored, alpha=RAMP[:20, :30])
    assert mode_and_profile(clear, tmp_path) == ("LA", None)
    for_gray = profile(2.2)
    assert mode_and_profile(replace(restored, icc=for_gray), tmp_path) == ("L", for_gray)
    assert mode_and_profile(replace(restored, icc=ICC_PROFILE), tmp_path) == ("RGB", ICC_PROFILE)
    assert mode_and_profile(replace(restored, gray=False, icc=for_gray), tmp_path) == ("RGB", None)
    assert mode_and_profile(replace(clear, gray=False), tmp_path) == ("RGBA", None)
    assert read_image(encode_png(clear)).gray


def test_metadata_beyond_the_limits_is_refused_by_the_encoder() -> None:
    with pytest.raises(ImageError, match=f"EXIF block has {CONTENT_LIMIT + 1} bytes"):
        of_picture(Picture(synthetic(8, 8), blocks=(MetadataBlock(EXIF, bytes(CONTENT_LIMIT + 1)),)))
    with pytest.raises(ImageError, match="in 257 blocks"):
        of_picture(Picture(synthetic(8, 8), blocks=(MetadataBlock("coMm", b"x"),) * 257))
    with pytest.raises(ImageError, match=f"at most {ALL_CONTENT_LIMIT} in"):
        of_picture(Picture(synthetic(8, 8), blocks=(MetadataBlock("auXP", bytes(CONTENT_LIMIT)),) * 5))


def test_a_picture_too_wide_for_the_header_is_refused_by_the_encoder(codec: Codec) -> None:
    with pytest.raises(ImageError, match="1048576 x 1 pixels"):
        codec.encode(Picture(np.zeros((1, 2**20, 3), np.uint8)))


GOOD = code_alpha(RAMP).coded


@pytest.mark.parametrize(
    ("chunk", "message"),
    [
        (Chunk(ALPHA, b"", b""), "unknown coding mode"),
        (Chunk(ALPHA, b"\x03" + GOOD[1:], b""), "unknown coding mode"),
        (Chunk(ALPHA, GOOD[:-1], b""), "does not end where its chunk ends"),
        (Chunk(ALPHA, GOOD + b"\0", b""), "does not end where its chunk ends"),
        (Chunk(ALPHA, b"\0\xff" + GOOD[2:], b""), "not LZMA2 data"),
        (Chunk(ALPHA, b"\0" + raw_lzma(bytes(6299)), b""), "6299 values, not 6300"),
        (Chunk(ALPHA, b"\0" + raw_lzma(bytes(6301)), b""), "longer than 6300"),
        (Chunk(ICC, b"", b""), "color profile does not end"),
        (Chunk(ICC, raw_lzma(b""), b""), "color profile at byte .* is empty"),
        (Chunk(EXIF, raw_lzma(bytes(CONTENT_LIMIT + 1)), b""), "EXIF block is longer than 16777216"),
        (Chunk(EXIF, raw_lzma(b"abc") * 2, b""), "EXIF block does not end where"),
    ],
)
def test_a_hostile_chunk_is_refused(chunk: Chunk, message: str) -> None:
    with pytest.raises(BitstreamError, match=message):
        parse(pack(file_with((chunk,))))


def test_chunks_that_hold_more_than_all_may_are_refused() -> None:
    coded = raw_lzma(bytes(CONTENT_LIMIT))
    with pytest.raises(BitstreamError, match=f"more than {ALL_CONTENT_LIMIT} bytes"):
        parse(pack(file_with(tuple(Chunk("auXP", coded, b"") for _ in range(5)))))


@pytest.mark.parametrize("side", [100, 1000, 3000])
def test_a_bomb_allocates_no_more_than_the_picture_it_declares(side: int) -> None:
    bomb = raw_lzma(bytes(10**8))
    data = pack(file_with((Chunk(ALPHA, b"\0" + bomb, b""),), side, side))
    assert len(data) < 20_000
    tracemalloc.start()
    try:
        with pytest.raises(BitstreamError, match="longer than"):
            parse(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * len(data) + 3 * side**2 + 2**21
