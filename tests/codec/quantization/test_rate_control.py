"""Rate and quality targets are kept by real files, and a constraint that no file meets is said."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import skimage
from numpy.typing import NDArray

from codec import Codec, Metrics, Picture, QualityError, SettingsError, read_image
from codec.bundle import Bundle
from codec.format.bitstream import parse
from codec.metrics.quality import psnr
from codec.quantization.rate_control import QualityConstraint, coarsest_reaching, largest_within
from tests.conftest import synthetic

CAT = Path(skimage.__path__[0], "data", "chelsea.png")


@pytest.fixture(scope="module")
def codec(bundle: Bundle) -> Codec:
    return Codec.load(bundle)


class Made:
    """Stand-ins for files of 100 + 10 * code bytes, but where sizes say otherwise; counts how many were made."""

    def __init__(self, sizes: dict[int, int] | None = None) -> None:
        self.sizes, self.trials = sizes or {}, 0

    def __call__(self, code: int) -> Any:
        self.trials += 1
        return SimpleNamespace(data=bytes(self.sizes.get(code, 100 + 10 * code)), code=code)


def found(encode: Made, size: float) -> Any:
    return largest_within(encode, size)[1]


def shades(code: int) -> NDArray[np.uint8]:
    """A reconstruction of black that is one level closer with each code."""
    return np.full((8, 8, 3), 255 - code, np.uint8)


BLACK = np.zeros((8, 8, 3), np.uint8)


@pytest.mark.parametrize("code", [0, 1, 100, 254, 255])
def test_the_largest_file_within_a_size_is_found(code: int) -> None:
    for room in (0, 9):
        assert found(Made(), 100 + 10 * code + room).code == code


def test_a_size_out_of_reach_gets_the_nearest_file() -> None:
    assert found(Made(), 99).code == 0
    assert found(Made(), 1e12).code == 255


def test_a_size_is_found_in_few_trials() -> None:
    for growth in (0.010, 0.013, 0.017):
        grown = {code: round(1500 * math.exp(growth * (code - 110))) for code in range(256)}
        trials = []
        for code in range(80, 180):
            encode = Made(grown)
            assert found(encode, grown[code]).code == code
            trials.append(encode.trials)
        assert sum(trials) / len(trials) < 5.5
    for size in range(0, 3000, 7):
        encode = Made()
        found(encode, size)
        assert encode.trials <= 14


def test_sizes_that_fall_a_little_are_never_exceeded() -> None:
    dented = {code: 100 + 10 * code - 15 for code in range(3, 256, 7)}
    for size in range(100, 2700, 3):
        encode = Made(dented)
        file = found(encode, size)
        assert len(file.data) <= size
        assert file.code == 255 or len(encode(file.code + 1).data) > size


@pytest.mark.parametrize("code", [1, 15, 100, 239, 254])
def test_the_coarsest_code_that_meets_a_floor_is_found(code: int) -> None:
    constraint = QualityConstraint(min_psnr_db=psnr(shades(code), BLACK))
    assert coarsest_reaching(constraint, BLACK, shades) == code


def test_quality_that_falls_again_at_the_finest_bins_is_still_found() -> None:
    def dented(code: int) -> NDArray[np.uint8]:
        return shades(min(code, 400 - code))

    constraint = QualityConstraint(min_psnr_db=psnr(shades(190), BLACK))
    assert not psnr(dented(255), BLACK) >= (constraint.min_psnr_db or 0)
    assert coarsest_reaching(constraint, BLACK, dented) == 190


def test_a_floor_that_nothing_meets_names_the_best() -> None:
    def dull(code: int) -> NDArray[np.uint8]:
        return np.full((8, 8, 3), 51 if code == 239 else 255, np.uint8)

    with pytest.raises(QualityError, match=r"no file of this picture reaches a PSNR of 20 dB; the best is 13\.98 dB"):
        coarsest_reaching(QualityConstraint(min_psnr_db=20), BLACK, dull)


@pytest.mark.parametrize("missed", [-1, 77, 189, 190, 251, 255])
def test_a_search_above_what_missed_never_looks_below_it(missed: int) -> None:
    tried: list[int] = []

    def shade(code: int) -> NDArray[np.uint8]:
        tried.append(code)
        return shades(code)

    found = coarsest_reaching(QualityConstraint(min_psnr_db=12), BLACK, shade, missed)
    assert found == max(missed + 1, 191) or found == missed == 255
    assert min(tried) > missed or missed == 255


def test_a_bound_on_lpips_needs_a_picture_that_has_one() -> None:
    with pytest.raises(QualityError, match="LPIPS cannot be bounded for this picture: side below 31"):
        coarsest_reaching(QualityConstraint(max_lpips=0.1), BLACK, shades)


@pytest.mark.parametrize("bpp", [0, -1, math.nan, math.inf])
def test_impossible_rates_are_refused(bpp: float, codec: Codec) -> None:
    with pytest.raises(SettingsError, match="bits per pixel is impossible"):
        codec.encode_to_bpp(Picture(BLACK), bpp)


@pytest.mark.parametrize("bounds", [(), (0.0,), (-1.0,), (math.nan,), (math.inf,), (30.0, 0.0)])
def test_impossible_floors_are_refused(bounds: tuple[float, ...]) -> None:
    with pytest.raises(SettingsError, match="a quality constraint"):
        QualityConstraint(*bounds)


def test_a_file_decodes_to_what_the_search_looked_at(codec: Codec) -> None:
    for gray in (False, True):
        pixels = synthetic(70, 90)
        picture = Picture(np.repeat(pixels[..., :1], 3, axis=2) if gray else pixels, gray=gray)
        y = codec._latent(picture)
        for code in (0, 90, 130, 170, 255):
            decoded = codec.decode(codec._at_alpha(picture, (), y, code).data)
            assert np.array_equal(codec._preview(picture, y, code), decoded)


@pytest.mark.parametrize("floor", [{"min_psnr_db": 15.0}, {"max_lpips": 0.62}, {"min_psnr_db": 15.0, "max_lpips": 0.6}])
def test_the_file_meets_its_floor_and_the_next_coarser_one_does_not(floor: dict[str, float], codec: Codec) -> None:
    picture, metrics = Picture(synthetic(70, 90)), Metrics("psnr", "lpips")

    def meets(data: bytes) -> bool:
        quality = metrics.measure(picture.pixels, codec.decode(data))
        assert quality.psnr_db is not None and quality.lpips is not None
        return quality.psnr_db >= floor.get("min_psnr_db", 0) and quality.lpips <= floor.get("max_lpips", 1)

    encoded = codec.encode_to_quality(picture, **floor)
    assert meets(encoded.data)
    code = parse(encoded.data).parameters.alpha_codes[0]
    assert not meets(codec._at_alpha(picture, (), codec._latent(picture), code - 1).data)


def test_the_embedded_default_lands_within_three_per_cent_of_a_rate() -> None:
    codec, picture = Codec.load(), Picture(read_image(CAT).pixels[:256, 60:316])
    size = 0.2 * picture.width * picture.height / 8
    assert min(0.97 * size, size - 64) <= len(codec.encode_to_bpp(picture, 0.2).data) <= size


@pytest.mark.parametrize(("name", "bpp"), [("100007", 0.1), ("15062", 0.15), ("175083", 0.2)])
def test_photos_land_within_three_per_cent_of_a_rate(name: str, bpp: float, photos: Path) -> None:
    picture = read_image(photos / "train" / "bsds500" / f"test-{name}.jpg")
    size = bpp * picture.width * picture.height / 8
    assert min(0.97 * size, size - 64) <= len(Codec.load().encode_to_bpp(picture, bpp).data) <= size


def test_the_embedded_default_keeps_a_floor_or_says_what_it_reaches() -> None:
    codec, picture = Codec.load(), Picture(read_image(CAT).pixels[:128, 60:188])
    encoded = codec.encode_to_quality(picture, min_psnr_db=20)
    assert 20 <= psnr(picture.pixels, codec.decode(encoded.data)) < 20.5
    with pytest.raises(QualityError, match="no file of this picture reaches a PSNR of 60 dB; the best is 2"):
        codec.encode_to_quality(picture, min_psnr_db=60)
