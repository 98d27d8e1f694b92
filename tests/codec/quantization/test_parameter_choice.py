"""Bin widths and timestep of a file: what the estimator promises, and that every search asks it."""

from pathlib import Path

import pytest
import torch
from numpy.typing import NDArray

from codec import Codec, Picture
from codec.entropy.distribution import CODE_OF_ONE
from codec.errors import BundleError
from codec.format.bitstream import parse
from codec.quantization.estimator import AdapterSettings, ParameterEstimator
from codec.quantization.parameter_choice import Predicted
from tests.conftest import synthetic
from tests.golden.make import GOLDEN, bundles
from tests.support.tiny_bundles import tiny_backbone, tiny_bundle

QUALITIES = [2.0 ** (level / 8) for level in range(-16, 80)]


def trained(alphas: int = 1, seed: int = 3) -> ParameterEstimator:
    """An estimator with random weights in all of its layers."""
    torch.manual_seed(seed)
    estimator = ParameterEstimator(AdapterSettings(channels=(4, 4, 4), alphas=alphas), alpha_at_one=0.5)
    with torch.no_grad():
        for parameter in estimator.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
    return estimator.requires_grad_(False)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    """A tiny codec whose estimator, with random weights, predicts a bin width for each channel."""
    adapter = AdapterSettings(channels=(4, 4, 4), alphas=4)
    folder = tmp_path_factory.mktemp("learned") / "bundle"
    codec = Codec.load(tiny_bundle(folder, parameters="learned", adapter=adapter))
    codec.estimator = trained(alphas=4)
    return codec


@pytest.fixture(scope="module")
def photo() -> NDArray:
    return synthetic(72, 88, seed=4)


@pytest.mark.parametrize("seed", range(6))
def test_bins_become_narrower_with_lambda_whatever_the_weights(seed: int) -> None:
    choice = Predicted(tiny_backbone(), trained(seed=seed))
    y = torch.randn(1, 4, 9, 11, generator=torch.Generator().manual_seed(seed))
    codes = [choice.alpha_code(y, quality) for quality in QUALITIES]
    assert codes == sorted(codes)
    slope = float(choice.estimator.line(choice.estimator.pooled(y))[1])
    assert 0.25 <= slope <= 0.75


def test_lambda_and_alpha_code_lead_to_each_other() -> None:
    choice = Predicted(tiny_backbone(), trained())
    y = torch.randn(1, 4, 9, 11, generator=torch.Generator().manual_seed(1))
    for code in (40, 100, 128, 200):
        assert choice.alpha_code(y, choice.quality(y, code)) == code


def test_the_timestep_is_that_of_the_bins_as_sent(learned: Codec, photo: NDArray) -> None:
    estimator = learned.estimator
    assert estimator is not None
    file = parse(learned.encode(Picture(photo), quality=5).data)
    y = learned.backbone.encode_pixels(photo)
    sent = (file.parameters.channel_codes - CODE_OF_ONE) / 32
    expected = learned.backbone.timestep_of(float(estimator.alpha_bar(estimator.pooled(y), sent)))
    assert file.parameters.timestep == pytest.approx(expected, abs=1 / 16)


def test_each_channel_has_the_bins_that_the_estimator_gives_it(learned: Codec, photo: NDArray) -> None:
    estimator = learned.estimator
    assert estimator is not None
    y = learned.backbone.encode_pixels(photo)
    log2_alpha = estimator.log2_alpha(estimator.pooled(y), torch.tensor([5.0]))[0]
    codes = parse(learned.encode(Picture(photo), quality=5).data).parameters.alpha_codes
    assert len(set(codes)) == 4
    for code, value in zip(codes, (CODE_OF_ONE + 32 * log2_alpha).tolist(), strict=True):
        assert code == pytest.approx(min(255, max(0, value)), abs=1.1)  # rounded twice, with lambda's own code


def test_searches_for_a_rate_and_a_quality_ask_the_estimator(
    learned: Codec, photo: NDArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They fell back to measured timesteps, one bin width for all channels, and lambda by the table."""
    monkeypatch.setattr("codec.quantization.quantizer.with_timestep", None)
    wanted = 8 * len(learned.encode(Picture(photo), quality=5).data) / photo.shape[0] / photo.shape[1]
    y = learned.backbone.encode_pixels(photo)
    offsets = [code - 128 for code in learned.choice.parameters(y, 128).alpha_codes]
    found = [
        learned.encode_to_bpp(Picture(photo), wanted),
        learned.encode_to_quality(Picture(photo), min_psnr_db=10),
        learned.encode_to_quality(Picture(photo), min_psnr_db=10, above=2),
    ]
    for encoded in found:
        own = parse(encoded.data).parameters
        assert len(set(own.alpha_codes)) > 1
        common = max(own.alpha_codes) - max(offsets)  # of the channel whose code no bound has clamped
        assert own == learned.choice.parameters(y, common)


def test_a_bundle_with_an_estimator_of_the_first_form_decodes_and_says_why_it_does_not_encode(
    tmp_path: Path, photo: NDArray
) -> None:
    codec = Codec.load(bundles(tmp_path)["conditioned"])
    assert codec.bundle.config.parameters == "learned"
    data = (GOLDEN / "conditioned-plain.fdc").read_bytes()
    assert codec.decode(data).shape == (64, 96, 3)
    with pytest.raises(BundleError, match="train its adapter stage anew"):
        codec.encode(Picture(photo))


def test_a_bundle_whose_estimator_has_no_numbers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.no_grad(), monkeypatch.context() as patch:
        patch.setattr(torch.nn.init, "zeros_", lambda tensor: tensor.fill_(float("nan")))
        bundle = tiny_bundle(tmp_path / "bundle", parameters="learned")
    with pytest.raises(BundleError, match="not finite"):
        Codec.load(bundle)
