"""Pictures of any size have every metric, and in pieces it is what the whole picture gives."""

import math

import numpy as np
import pytest
import torch

from codec.metrics import quality, tiled
from codec.metrics.names import DEFAULT, FIELDS
from codec.metrics.perceptual import Dists, lpips_network
from codec.metrics.quality import Metrics
from tests.codec.metrics.test_quality import Pixels, noisy
from tests.conftest import synthetic

SIZES = [(461, 163), (163, 461)]
"""No side is a multiple of 16, or of 2 at each scale of MS-SSIM; three tiles beside each other."""


@pytest.fixture(scope="module")
def metrics() -> Metrics:
    return Metrics()


def textured(height: int, width: int) -> Pixels:
    """A picture that differs everywhere, as its reconstruction differs from it."""
    noise = np.random.default_rng(2).integers(-40, 40, (height, width, 3))
    return np.clip(synthetic(height, width) + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("size", SIZES)
def test_in_tiles_every_metric_is_that_of_the_whole_picture(
    size: tuple[int, int], metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = textured(*size)
    decoded = noisy(original, 12)
    monkeypatch.setattr(tiled, "CORE", 192)
    whole = metrics.measure(original, decoded)
    monkeypatch.setattr(quality, "WHOLE_PIXELS", 1)
    pieces = metrics.measure(original, decoded)
    for field in FIELDS.values():
        assert getattr(pieces, field) == pytest.approx(getattr(whole, field), abs=1e-5), field


@torch.no_grad()
@pytest.mark.parametrize("height", [16, 97, 211])
def test_fine_stages_see_bands_and_give_what_the_whole_tile_gives(height: int) -> None:
    x = torch.from_numpy(textured(height, 53)).movedim(2, 0)[None].float() / 255
    network = Dists()
    rows: list[int] = []
    for convolution in network.modules():
        if isinstance(convolution, torch.nn.Conv2d):
            convolution.register_forward_hook(lambda *call: rows.append(call[2].shape[-2]))
    for number, stage in enumerate((network.stage1, network.stage2)):
        expected = stage(x)
        rows.clear()
        stride, reach = tiled.IN_BANDS[number]
        found = tiled._in_bands(stage, x, stride, reach)
        assert found.shape == expected.shape
        assert (found - expected).abs().max() < 1e-5
        assert max(rows) <= (tiled.BAND + 2 * reach) // stride + 1, "memory grows with a band, not with the tile"
        x = expected


@torch.no_grad()
def test_a_narrower_reach_of_bands_would_be_seen() -> None:
    x = torch.from_numpy(textured(150, 40)).movedim(2, 0)[None].float() / 255
    stage = Dists().stage1
    assert (tiled._in_bands(stage, x, 1, 1) - stage(x)).abs().max() > 1e-3


def test_a_narrower_border_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    original = textured(461, 163)
    decoded = noisy(original, 12)
    network = lpips_network("alex")
    whole = tiled.lpips_distance(network, original, decoded, "cpu")
    monkeypatch.setattr(tiled, "CORE", 192)
    monkeypatch.setattr(tiled, "BORDER", 16)
    assert abs(tiled.lpips_distance(network, original, decoded, "cpu") - whole) > 1e-5


@pytest.mark.parametrize("length", [1, 16, 1024, 1025, 1100, 2304, 10_000])
def test_tiles_count_every_pixel_once_and_cost_at_most_1_8_times(length: int) -> None:
    spans = tiled.spans(length)
    assert [span.first for span in spans] + [length] == [0, *(span.last for span in spans)]
    assert all(span.start % tiled.GRID == 0 for span in spans)
    for span in spans:
        assert span.first - span.start in (0, tiled.BORDER) or span.start == 0
        assert span.stop - span.start <= tiled.CORE + 2 * tiled.BORDER + tiled.GRID
    assert (sum(span.stop - span.start for span in spans) / length) ** 2 <= 1.8


def test_a_picture_of_more_than_25_megapixels_has_every_metric_of_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lpips_distance", "ms_ssim"):  # which take half a minute
        monkeypatch.setattr(tiled, name, lambda *_: 0.25)
    original = np.zeros((4096, 6400, 3), np.uint8)
    found = Metrics(*DEFAULT).measure(original, original + np.uint8(1))
    assert set(found.reasons) == {"lpips_vgg", "dists"}
    assert found.psnr_db is not None and found.ms_ssim == found.lpips == 0.25


def test_arrays_that_cannot_be_written_are_measured_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    original = textured(200, 180)
    decoded = noisy(original, 12)
    expected = tiled.ms_ssim(original, decoded, "cpu")
    original.setflags(write=False)
    assert tiled.ms_ssim(original, decoded, "cpu") == expected
    assert not recwarn.list


def test_psnr_goes_through_all_rows() -> None:
    black = np.zeros((tiled.ROWS + 1, 2, 3), np.uint8)
    other = black.copy()
    other[-1, 0, 0] = 51
    assert quality.psnr(black, other) == 10 * math.log10(255**2 * black.size / 51**2)
