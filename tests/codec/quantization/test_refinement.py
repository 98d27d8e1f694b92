"""Refining a latent: deterministic, never worse by its objective, in tiles as whole, within the targets asked for."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec import Codec, Picture, QualityError, SettingsError
from codec.diffusion.tiling import Tiling
from codec.images import to_tensor
from codec.metrics.quality import psnr
from codec.quantization.efforts import EFFORTS, Effort
from codec.quantization.parameters import QuantizationParameters
from codec.quantization.rate_control import GROWTH, refined_reaching, refined_within
from codec.quantization.refinement import _Search, _tiles, refined
from tests.codec.quantization.test_rate_control import Made
from tests.conftest import synthetic
from tests.support.tiny_bundles import TINY, tiny_bundle

QUALITY = 64.0
"""High: the gradient of a random entropy model is not one to follow."""
SHORT = Effort(3, 0.05)


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    """With dither, so that the offsets of every tile count."""
    folder = tmp_path_factory.mktemp("dithered") / "bundle"
    return Codec.load(tiny_bundle(folder, entropy=dataclasses.replace(TINY, dither=True)))


@pytest.fixture
def two_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def prepared(codec: Codec, picture: Picture, quality: float = QUALITY) -> tuple[Tensor, QuantizationParameters]:
    y = codec._latent(picture)
    with torch.no_grad():
        return y, codec._parameters(y, quality)


def cost(codec: Codec, picture: Picture, y: Tensor, quality: float = QUALITY) -> float:
    """The objective of a whole picture coded as a latent, at the parameters of effort 0."""
    parameters = prepared(codec, picture, quality)[1]
    search = _Search(codec, parameters, quality, SHORT, gray=picture.gray)
    original = to_tensor(picture.pixels)[None]
    with torch.no_grad():
        offsets = codec.dither(y).expand_as(y)
        coded = (original, parameters.alpha * y, offsets)
        return float(search.rate(*coded) + search.distortion(*coded))


@pytest.mark.parametrize("effort", [1, 2])
def test_refining_gives_the_same_bytes_each_time_and_on_any_number_of_threads(
    effort: int, codec: Codec, two_threads: None
) -> None:
    picture = Picture(synthetic(40, 48))
    files = [codec.encode(picture, quality=QUALITY, effort=effort).data]
    torch.set_num_threads(1)
    files.append(Codec.load(codec.bundle).encode(picture, quality=QUALITY, effort=effort).data)
    assert files[0] == files[1] != codec.encode(picture, quality=QUALITY).data


def test_effort_zero_is_encoding_as_before(codec: Codec, photo: NDArray[np.uint8]) -> None:
    assert codec.encode(Picture(photo), effort=0).data == codec.encode(Picture(photo)).data


@pytest.mark.parametrize("quality", [32.0, 64.0])
def test_the_objective_gets_better(quality: float, codec: Codec) -> None:
    picture = Picture(synthetic(64, 80))
    y, parameters = prepared(codec, picture, quality)
    better = refined(codec, picture, y, parameters, quality, SHORT)
    assert cost(codec, picture, better, quality) < cost(codec, picture, y, quality)


def test_the_objective_never_gets_worse(codec: Codec) -> None:
    picture = Picture(synthetic(64, 80))
    y, parameters = prepared(codec, picture)
    far_too_large = Effort(3, 50.0)
    assert torch.allclose(refined(codec, picture, y, parameters, QUALITY, far_too_large), y, atol=1e-6)


def test_tiles_gain_what_the_whole_does(codec: Codec) -> None:
    picture = Picture(synthetic(120, 200))
    y, parameters = prepared(codec, picture)
    whole = refined(codec, picture, y, parameters, QUALITY, SHORT)
    tiled = refined(codec, picture, y, parameters, QUALITY, dataclasses.replace(SHORT, side=16, margin=3))
    moved = (tiled - y).abs().amax(1)[0]
    assert (moved > 0).float().mean() > 0.95, "every tile's inside is written"
    before, after, in_tiles = (cost(codec, picture, latent) for latent in (y, whole, tiled))
    assert after < before
    assert before - in_tiles == pytest.approx(before - after, rel=0.25)


@pytest.mark.parametrize("effort", EFFORTS[1:])
@pytest.mark.parametrize("length", [1, 48, 81, 200, 1573])
def test_tiles_are_bounded_and_their_insides_cover_a_side_once(effort: Effort, length: int) -> None:
    found = list(_tiles(length, Tiling(effort.side, effort.margin)))
    covered = [place for _, inner in found for place in range(inner.start, inner.stop)]
    assert covered == list(range(length))
    for span, inner in found:
        assert span.stop - span.start <= effort.side, "so that memory does not grow with the picture"
        for edge, end, border in ((inner.start, span.start, 0), (span.stop, inner.stop, length)):
            assert edge - end >= effort.margin or edge == border or end == border


def test_a_refined_file_states_what_an_unrefined_one_does_and_decodes_to_its_symbols(codec: Codec) -> None:
    picture = Picture(synthetic(50, 61))
    plain = codec.encode(picture, quality=QUALITY)
    made = codec.encode(picture, quality=QUALITY, effort=1)
    assert (made.quality, made.timestep, made.content.alpha_codes) == (
        plain.quality,
        plain.timestep,
        plain.content.alpha_codes,
    )
    assert np.array_equal(codec.symbols(made.data), made.symbols)
    assert not np.array_equal(made.symbols, plain.symbols)


@pytest.mark.parametrize("shape", [(1, 1), (3, 70), (37, 38), (39, 40)])
def test_pictures_of_any_size_are_refined(shape: tuple[int, int], codec: Codec) -> None:
    made = codec.encode(Picture(synthetic(*shape)), effort=1)
    assert codec.decode(made.data).shape == (*shape, 3)


def test_gray_pictures_are_refined_as_they_are_decoded(codec: Codec) -> None:
    plane = synthetic(48, 48)[..., :1].repeat(3, 2)
    made = codec.encode(Picture(plane, gray=True), effort=1)
    decoded = codec.decode(made.data)
    assert (decoded == decoded[..., :1]).all()


@pytest.mark.parametrize("effort", [-1, 3, 1.5])
def test_an_impossible_effort_is_refused(effort: int, codec: Codec, photo: NDArray[np.uint8]) -> None:
    for encode in (
        lambda: codec.encode(Picture(photo), effort=effort),
        lambda: codec.encode_to_bpp(Picture(photo), 1.0, effort=effort),
        lambda: codec.encode_to_quality(Picture(photo), min_psnr_db=20.0, effort=effort),
    ):
        with pytest.raises(SettingsError, match=r"^effort must be one of 0 to 2, not "):
            encode()


def test_a_refined_file_keeps_the_target_rate(codec: Codec) -> None:
    picture = Picture(synthetic(48, 64))
    for target in (0.8, 1.5):
        made = codec.encode_to_bpp(picture, target, effort=1)
        assert 8 * len(made.data) / (48 * 64) <= target


def test_a_refined_file_keeps_the_quality_bound_and_is_not_larger(codec: Codec) -> None:
    picture = Picture(synthetic(48, 64))
    bound = psnr(picture.pixels, codec.decode(codec.encode(picture).data))
    plain = codec.encode_to_quality(picture, min_psnr_db=bound)
    made = codec.encode_to_quality(picture, min_psnr_db=bound, effort=1)
    assert psnr(picture.pixels, codec.decode(made.data)) >= bound
    assert len(made.data) <= len(plain.data)
    with pytest.raises(QualityError):
        codec.encode_to_quality(picture, min_psnr_db=90.0, effort=1)


def test_a_search_for_a_rate_refines_at_most_three_files_and_takes_the_largest_that_fits() -> None:
    unlike = {code: int(1000 * np.exp(GROWTH * (code - 100))) for code in range(256)}
    plain = Made(unlike)
    smaller = Made({code: int(0.9 * size) for code, size in unlike.items()})
    found = refined_within(smaller, 1000, 100, plain(100))
    assert found.code == 108 and smaller.trials <= 3, "ln(1 / 0.9) is worth eight codes"
    larger = Made({code: int(1.1 * size) for code, size in unlike.items()})
    assert refined_within(larger, 1000, 100, plain(100)).code == 92
    far_too_large = Made(dict.fromkeys(range(256), 5000))
    assert len(refined_within(far_too_large, 1000, 100, plain(100)).data) == 1000, "the plain file"


def test_a_search_for_a_quality_takes_the_smallest_file_that_meets_it() -> None:
    plain, refine = Made()(50), Made()
    assert refined_reaching(refine, lambda made: made.code >= 45, 50, plain).code == 47
    assert refined_reaching(refine, lambda made: made.code >= 50, 50, plain).code == 50
    assert refined_reaching(refine, lambda made: made.code >= 52, 50, plain) is plain, "smaller than that at 52"
    assert refine.trials == 6


def test_effort_one_gains_on_a_photo_with_the_embedded_default() -> None:
    from codec import read_image
    from tests.codec.quantization.test_rate_control import CAT

    codec = Codec.load()
    picture = Picture(np.ascontiguousarray(read_image(CAT).pixels[60:188, 120:248]))
    plain = codec.encode(picture)
    made = codec.encode(picture, effort=1)
    assert len(made.data) <= 1.01 * len(plain.data)
    gain = psnr(picture.pixels, codec.decode(made.data)) - psnr(picture.pixels, codec.decode(plain.data))
    assert gain > 0.1


def test_efforts_are_what_the_format_of_runs_knows() -> None:
    assert [effort.steps for effort in EFFORTS] == sorted(effort.steps for effort in EFFORTS)
    assert EFFORTS[0].steps == 0
