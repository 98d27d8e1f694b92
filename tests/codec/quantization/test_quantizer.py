"""Bin widths, timesteps and their codes."""

import pytest
import torch

from codec.entropy.dither import dither
from codec.quantization import quantizer
from codec.quantization.parameters import QuantizationParameters, quality_of_code
from tests.support.tiny_bundles import tiny_backbone


def test_bin_width_matches_the_signal_to_noise_of_its_timestep() -> None:
    alpha_bar = torch.tensor([0.9516, 0.8942])
    assert quantizer.bin_width(alpha_bar).tolist() == pytest.approx([0.781, 1.191], abs=1e-3)
    assert quantizer.tied_alpha_bar(1 / quantizer.bin_width(alpha_bar)).tolist() == pytest.approx(alpha_bar.tolist())


def test_measured_timestep_is_that_of_the_error_the_encoder_sees() -> None:
    backbone = tiny_backbone()
    torch.manual_seed(0)
    y = torch.randn(1, 4, 64, 64)
    parameters = quantizer.with_timestep((128,), y, torch.zeros(1), backbone, "measured")
    error = float((torch.round(y) - y).square().mean())
    alpha_bar = float(backbone.alpha_bar(torch.tensor(parameters.timestep)))
    assert alpha_bar == pytest.approx(1 / (1 + error), abs=1e-3)
    fine = quantizer.with_timestep((192,), y, torch.zeros(1), backbone, "measured")
    assert 0 < fine.timestep < parameters.timestep


def test_tied_and_measured_agree_for_fine_bins_and_part_for_wide_ones() -> None:
    backbone = tiny_backbone()
    torch.manual_seed(0)
    y = torch.randn(1, 4, 64, 64)
    fine, wide = (160,), (64,)
    tied, measured = (quantizer.with_timestep(fine, y, torch.zeros(1), backbone, mode) for mode in ("tied", "measured"))
    assert tied.timestep == pytest.approx(measured.timestep, rel=0.05)
    tied, measured = (quantizer.with_timestep(wide, y, torch.zeros(1), backbone, mode) for mode in ("tied", "measured"))
    assert tied.timestep > 1.1 * measured.timestep


def test_quality_and_alpha_codes_are_monotone_and_invertible() -> None:
    alphas = [quantizer.alpha_code_of_quality(quality_of_code(code), 0.5) for code in range(256)]
    assert alphas == sorted(alphas)
    assert [quantizer.code_of_quality(quality_of_code(code)) for code in range(256)] == list(range(256))
    assert quantizer.quality_of_alpha_code(quantizer.alpha_code_of_quality(8.0, 0.5), 0.5) == pytest.approx(8, rel=0.05)


def test_four_alphas_reach_their_channels() -> None:
    parameters = QuantizationParameters((128, 160, 96, 128), 8)
    assert parameters.alpha.flatten().tolist() == [1, 2, 0.5, 1]
    assert QuantizationParameters((160,), 8).alpha.flatten().tolist() == [2, 2, 2, 2]
    assert parameters.timestep == 1


def test_quantizing_errs_by_at_most_half_a_bin_and_clamps() -> None:
    torch.manual_seed(0)
    y, alpha = 3 * torch.randn(1, 4, 8, 8), torch.full((1, 4, 1, 1), 2.0)
    for u in (torch.zeros(1), dither(y, wanted=True)):
        error = quantizer.dequantize(quantizer.quantize(y, alpha, u), alpha, u) - y
        assert float(error.abs().max()) <= 0.25 + 1e-6
    assert float(quantizer.quantize(torch.full((1, 4, 1, 1), 1e9), alpha, torch.zeros(1)).max()) == 2**15 - 1


def test_timestep_codes_are_eighths_in_range() -> None:
    assert quantizer.timestep_code(12.3) == 98
    assert quantizer.timestep_code(-1) == 0
    assert quantizer.timestep_code(5000) == 999 * 8


def test_offsets_make_the_bins_of_a_channel_narrower_and_stay_within_the_codes() -> None:
    assert quantizer.channel_codes(128, (8, 0, 0, -4)) == (136, 128, 128, 124)
    assert quantizer.channel_codes(128, (0, 0, 0, 0)) == (128,)
    assert quantizer.channel_codes(252, (8, 0, 0, -4)) == (255, 252, 252, 248)
    assert quantizer.channel_codes(1, (0, 0, 0, -4)) == (1, 1, 1, 0)
