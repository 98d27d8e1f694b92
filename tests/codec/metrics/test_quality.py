"""Metrics of 8-bit pictures have their published values, or none and a reason."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pytorch_msssim import ms_ssim

from codec.errors import SettingsError
from codec.images import read_image
from codec.metrics import quality as quality_module
from codec.metrics.perceptual import Network, lpips_network
from codec.metrics.quality import Metrics, psnr
from tests.conftest import synthetic

Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def metrics() -> Metrics:
    return Metrics()


def noisy(pixels: Pixels, strength: float = 8) -> Pixels:
    noise = np.random.default_rng(1).normal(0, strength, pixels.shape)
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


def test_psnr_agrees_with_hand_calculations() -> None:
    black = np.zeros((2, 2, 3), np.uint8)
    assert psnr(black, black + np.uint8(255)) == 0
    assert psnr(black, black + np.uint8(1)) == pytest.approx(48.1308, abs=1e-4)  # 20 log10 255
    one = black.copy()
    one[0, 0, 0] = 51  # a fifth of the range in one of twelve samples: 10 log10(25 * 12)
    assert psnr(black, one) == psnr(one, black) == pytest.approx(24.7712, abs=1e-4)
    assert psnr(black, black) == math.inf


def test_psnr_is_exact_where_single_precision_is_not() -> None:
    black = np.zeros((3000, 2000, 3), np.uint8)
    other = black.copy()
    other[0, 0, 0] = 1
    assert psnr(black, other) == 10 * math.log10(255**2 * 18e6)


def test_lpips_has_the_published_values_on_pixels(metrics: Metrics, photos: Path) -> None:
    reference, first, second = (read_image(photos / "lpips" / f"ex_{name}.png").pixels for name in ("ref", "p0", "p1"))
    assert metrics.measure(reference, first).lpips == pytest.approx(0.722, abs=5e-4)
    quality = metrics.measure(reference, second)
    assert quality.lpips == pytest.approx(0.138, abs=5e-4)
    assert quality.lpips_vgg != quality.lpips


def test_ms_ssim_of_a_uniform_shift_is_its_luminance_term(metrics: Metrics) -> None:
    first, second = (np.full((192, 176, 3), level, np.uint8) for level in (100, 130))
    c1 = (0.01 * 255) ** 2
    luminance = (2 * 100 * 130 + c1) / (100**2 + 130**2 + c1)
    # contrast and structure are 1 at each scale; the luminance enters at the coarsest, whose weight is 0.1333
    assert metrics.measure(first, second).ms_ssim == pytest.approx(luminance**0.1333, abs=1e-4)


def test_ms_ssim_is_taken_on_the_8_bit_range(metrics: Metrics) -> None:
    clean = synthetic(170, 200)
    first, second = (torch.from_numpy(p.astype(np.float64)).permute(2, 0, 1)[None] for p in (clean, noisy(clean)))
    expected = float(ms_ssim(first, second, data_range=255))
    assert metrics.measure(clean, noisy(clean)).ms_ssim == pytest.approx(expected, abs=1e-5)


def test_a_photo_sized_pair_has_every_metric_and_no_reason(metrics: Metrics) -> None:
    clean = synthetic(170, 200)
    quality = metrics.measure(clean, noisy(clean))
    assert quality.reasons == {}
    assert quality.psnr_db is not None and 25 < quality.psnr_db < 35
    assert quality.ms_ssim is not None and 0.5 < quality.ms_ssim < 1
    assert quality.lpips is not None and 0 < quality.lpips < 1
    assert quality.dists is not None and 0 < quality.dists < 1


def test_many_reconstructions_measure_as_each_alone(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    clean = synthetic(170, 200)
    decoded = [noisy(clean, 4), clean.copy(), noisy(clean, 16)]
    monkeypatch.setattr(quality_module, "TOGETHER_PIXELS", 2 * 170 * 200)  # batches of two and one
    together = metrics.measure_all(clean, decoded)
    for alone, quality in zip((metrics.measure(clean, pixels) for pixels in decoded), together, strict=True):
        assert quality.reasons == alone.reasons
        for name in ("psnr_db", "ms_ssim", "lpips", "lpips_vgg", "dists"):
            assert getattr(quality, name) == (
                None if getattr(alone, name) is None else pytest.approx(getattr(alone, name), abs=1e-6)
            )
    assert metrics.measure_all(clean, []) == []


def test_identical_pictures_have_no_finite_psnr(metrics: Metrics) -> None:
    clean = synthetic(170, 200)
    quality = metrics.measure(clean, clean.copy())
    assert quality.psnr_db is None and quality.reasons == {"psnr_db": "identical"}
    assert quality.ms_ssim == pytest.approx(1, abs=1e-6)
    assert quality.lpips == 0
    assert quality.dists == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("side", [160, 161])
def test_ms_ssim_begins_at_161_pixels(side: int, metrics: Metrics) -> None:
    clean = synthetic(side, 400)
    quality = metrics.measure(clean, noisy(clean))
    assert quality.reasons == ({"ms_ssim": "side below 161"} if side == 160 else {})
    assert (quality.ms_ssim is None) == (side == 160)


@pytest.mark.parametrize(("net", "field", "side"), [("alex", "lpips", 31), ("vgg", "lpips_vgg", 16)])
def test_lpips_begins_where_its_last_feature_map_has_a_place(
    net: Network, field: str, side: int, metrics: Metrics
) -> None:
    clean = synthetic(side, 64)
    assert getattr(metrics.measure(clean, noisy(clean)), field) is not None
    quality = metrics.measure(clean[1:], noisy(clean)[1:])
    assert getattr(quality, field) is None and quality.reasons[field] == f"side below {side}"
    with pytest.raises(RuntimeError, match="too small"):
        lpips_network(net)(torch.zeros(1, 3, side - 1, 64), torch.zeros(1, 3, side - 1, 64))


@pytest.mark.parametrize("shape", [(1, 1), (1, 400), (15, 15), (30, 30)])
def test_tiny_pictures_have_what_is_defined_and_reasons_for_the_rest(shape: tuple[int, int], metrics: Metrics) -> None:
    clean = synthetic(*shape)
    quality = metrics.measure(clean, np.bitwise_xor(clean, 1, dtype=np.uint8))
    assert quality.psnr_db == pytest.approx(48.1308, abs=1e-4)
    values = {name: getattr(quality, name) for name in ("ms_ssim", "lpips", "lpips_vgg", "dists")}
    assert {name for name, value in values.items() if value is None} == set(quality.reasons)
    assert "lpips" in quality.reasons and ("dists" in quality.reasons) == (min(shape) < 16)


def test_metrics_may_be_left_out() -> None:
    clean = synthetic(170, 170)
    quality = Metrics("lpips", "dists").measure(clean, noisy(clean), leave_out=["dists"])
    assert (quality.psnr_db, quality.ms_ssim) == (None, None) and quality.lpips is not None
    assert quality.reasons["psnr_db"] == quality.reasons["ms_ssim"] == "not asked for"
    assert quality.dists is None and quality.reasons["dists"] == "not asked for"


def test_pictures_that_cannot_be_compared_are_refused(metrics: Metrics) -> None:
    clean = synthetic(20, 30)
    for other in (clean[1:], clean[:, 1:], clean[..., :1], clean[..., 0], clean.astype(np.float32)):
        for pair in ((clean, other), (other, clean)):
            with pytest.raises(ValueError, match="two 8-bit"):
                metrics.measure(*pair)
    with pytest.raises(ValueError, match="two 8-bit"):
        metrics.measure(clean[..., 0], clean[..., 0])


def test_an_unknown_metric_is_a_wrong_setting() -> None:
    with pytest.raises(SettingsError, match=r"metrics knows psnr, .*, all and none, not 'vmaf'"):
        Metrics("vmaf")
    with pytest.raises(SettingsError, match="metrics none cannot be combined"):
        Metrics("none", "psnr")
