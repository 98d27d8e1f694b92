"""Dither: offsets that any decoder knows, an error like uniform noise, and coding that stays exact."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from codec import Codec, Picture
from codec.bundle import Bundle
from codec.diffusion.denoiser import clean_latent
from codec.entropy.dither import UNITS, dither, offsets
from codec.entropy.export import export
from codec.entropy.integer import ExactEntropyModel
from codec.entropy.rate import coded_bits, hyper_latent
from codec.entropy.stream import compress, decompress
from codec.entropy.tables import Tables, build_counts
from codec.evaluation.experiments.quantization_error import ks_statistic
from codec.quantization import quantizer
from codec.training.pretraining import denoised
from tests.conftest import synthetic
from tests.support.tiny_bundles import TINY, tiny_backbone, tiny_bundle, tiny_entropy

DITHERED = dataclasses.replace(TINY, dither=True)
CODES = torch.tensor([[140, 120, 150, 133]])


@pytest.fixture(scope="module")
def dithered(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("dithered") / "bundle", entropy=DITHERED)


def test_offsets_are_those_of_the_format() -> None:
    assert offsets(4, 2, 3).tolist() == [
        [[-16, 2, -12], [8, -6, 12]],
        [[-8, 10, -4], [-16, 2, -12]],
        [[0, -14, 4], [-8, 10, -4]],
        [[8, -6, 12], [0, -14, 4]],
    ]
    assert offsets(1, 5000, 7000)[0, 4999, 6999] == (3242174889 * 4999 + 2447445414 * 6999) % 2**32 // 2**27 - 16


def test_near_any_place_all_offsets_occur_alike_often() -> None:
    found = offsets(4, 200, 300)
    assert (found.min(), found.max()) == (-UNITS // 2, UNITS // 2 - 1)
    for channel, top, left in np.random.default_rng(0).integers((4, 184, 284), size=(20, 3)):
        counts = Counter(found[channel, top : top + 16, left : left + 16].flatten().tolist())
        assert len(counts) == UNITS
        assert max(counts.values()) <= 2 * 256 / UNITS


def test_the_error_is_uniform_where_plain_rounding_is_not() -> None:
    smooth = 0.2 * torch.randn(1, 4, 60, 60, generator=torch.Generator().manual_seed(0)).double()
    one, plain, u = torch.ones(1), torch.zeros(1), dither(smooth, wanted=True)
    errors = [quantizer.dequantize(quantizer.quantize(smooth, one, each), one, each) - smooth for each in (plain, u)]
    statistics = [ks_statistic(error.flatten().numpy()) for error in errors]
    assert statistics[0] > 0.1
    assert statistics[1] < 0.02


@pytest.mark.parametrize("order", ["parallel", "serial"])
@pytest.mark.parametrize("conditioned", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (19, 37), (2, 131)])
def test_every_order_decodes_to_its_symbols(
    order: Literal["parallel", "serial"], conditioned: bool, shape: tuple[int, int]
) -> None:
    settings = dataclasses.replace(TINY, order=order, channel_conditioning=conditioned, dither=True)
    model = ExactEntropyModel(export(tiny_entropy(settings).requires_grad_(False)), settings)
    tables, draws = Tables(build_counts()), np.random.default_rng(1)
    symbols = np.round(draws.standard_cauchy((4, *shape)) * 5).clip(-32767, 32767).astype(np.int32)
    widths = [min(128, shape[1] - left) for left in range(0, shape[1], 128)]
    hyper = [draws.integers(-3, 4, model.hyper_shape(shape[0], width)).astype(np.int32) for width in widths]
    data = compress(model, tables, symbols, hyper, CODES).data
    assert np.array_equal(decompress(model, tables, data, shape, CODES), symbols)


def test_a_stream_is_as_long_as_the_float_model_says() -> None:
    network = tiny_entropy(DITHERED).requires_grad_(False)
    model = ExactEntropyModel(export(network), DITHERED)
    scaled = torch.randn(1, 4, 24, 40, generator=torch.Generator().manual_seed(0))
    z = hyper_latent(network, scaled, CODES, model.constants)
    symbols = quantizer.quantize(scaled, torch.ones(1), dither(scaled, wanted=True))
    stream = compress(
        model, Tables(build_counts()), symbols[0].numpy().astype(np.int32), [z[0].numpy().astype(np.int32)], CODES
    )
    expected = sum(float(part) for part in coded_bits(network, scaled, CODES, model.constants))
    assert 8 * len(stream.data) == pytest.approx(expected, rel=0.01)


def test_a_file_decodes_to_its_symbols_within_half_a_bin_and_others_do_not_read_it(
    dithered: Bundle, tmp_path: Path
) -> None:
    codec, picture = Codec.load(dithered), Picture(synthetic(64, 96))
    encoded = codec.encode(picture, quality=8.0)
    assert np.array_equal(codec.symbols(encoded.data), encoded.symbols)
    y, alpha = codec.backbone.encode_pixels(picture.pixels), quantizer.alpha_code_of_quality(8.0, 0.5)
    scaled = 2.0 ** ((alpha - 128) / 32) * y
    seen = torch.from_numpy(encoded.symbols)[None] - dither(scaled, wanted=True)
    assert float((seen - scaled).abs().max()) <= 0.5 + 1e-4
    plain = Codec.load(tiny_bundle(tmp_path / "plain", entropy=TINY)).encode(picture, quality=8.0)
    assert (plain.symbols != encoded.symbols).any()


def test_training_rounds_as_the_codec_does() -> None:
    backbone, y = tiny_backbone(), torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    for wanted in (False, True):
        alpha, u = torch.full((1,), 2.0), dither(y, wanted)
        y_hat = quantizer.dequantize(quantizer.quantize(y, alpha, u), alpha, u)
        t = backbone.timestep_of(float(quantizer.measured_alpha_bar(y, y_hat)))
        expected = clean_latent(backbone, y_hat, torch.tensor([t]))
        torch.testing.assert_close(denoised(backbone, y, alpha, dithered=wanted), expected)
