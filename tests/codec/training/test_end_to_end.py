"""The end-to-end stage: what it leaves codes, and the rate, the latents and every lambda keep their measure."""

import json
import math
from pathlib import Path

import pytest
import torch

from codec import Codec, Picture
from codec.bundle import Bundle
from codec.training.__main__ import main
from codec.training.data import CropSampler, ShardedImages
from codec.training.draws import Draws
from codec.training.end_to_end import EndToEndStage
from codec.training.settings import StageSettings
from tests.conftest import synthetic
from tests.support.tiny_backbones import write_folder
from tests.support.tiny_bundles import tiny_backbone, tiny_entropy

STAGE = {
    "steps": 3,
    "batch_size": 4,
    "crop_size": 32,
    "warmup_steps": 1,
    "learning_rate": 1e-3,
    "perceptual": 0.0,
    "calibration_crops": 16,
    "structural_every": 2,
    "structural": 0.5,
}


def settings_file(folder: Path, **changes: object) -> Path:
    path = folder / "settings.json"
    values = {"name": "tiny", "evaluation_images": 0, "stages": {"end_to_end": STAGE}} | changes
    path.write_text(json.dumps(values))
    return path


def batches(count: int) -> list[tuple[torch.Tensor, Draws]]:
    torch.manual_seed(5)
    smooth = torch.nn.functional.interpolate(torch.rand(count * 4, 3, 5, 5), size=32, mode="bicubic")
    return [(part * 2 - 1, Draws(1, 60 * place)) for place, part in enumerate(smooth.split(4))]


def fresh(**changes: object) -> EndToEndStage:
    settings = StageSettings(**({"steps": 100, "perceptual": 0.0} | changes))  # type: ignore[arg-type]
    stage = EndToEndStage(settings, tiny_backbone(), tiny_entropy(), alpha_at_one=0.5)
    stage.calibrate(batches(6))
    return stage


@pytest.fixture(scope="module")
def trained(tars: Path, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("end-to-end")
    settings = settings_file(folder, start=str(bundle.path))
    assert main([str(settings), "--data", str(tars), "--output", str(folder / "out")]) == 0
    return folder / "out"


def test_the_export_encodes_decodes_and_verifies(trained: Path, bundle: Bundle) -> None:
    made = Bundle.open(trained / "bundle")
    assert made.id != bundle.id
    assert made.config.backbone_hash != bundle.config.backbone_hash
    assert made.config.known_answer != bundle.config.known_answer
    codec = Codec.load(made.path)
    encoded = codec.encode(Picture(synthetic(40, 50)))
    assert codec.decode(encoded.data).shape == (40, 50, 3)
    assert (codec.symbols(encoded.data) == encoded.content.symbols).all()


def test_killed_and_resumed_it_gives_the_same_bundle(
    tars: Path, bundle: Bundle, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_file(tmp_path, start=str(bundle.path), checkpoint_every=1)
    command = [str(settings), "--data", str(tars), "--output", str(tmp_path / "out")]
    forward = EndToEndStage.forward

    def killed(self: EndToEndStage, pixels: torch.Tensor, draws: Draws) -> object:
        if draws.step == 2:
            raise KeyboardInterrupt
        return forward(self, pixels, draws)

    with monkeypatch.context() as patch:
        patch.setattr(EndToEndStage, "forward", killed)
        with pytest.raises(KeyboardInterrupt):
            main(command)
    assert main(command) == 0
    assert Bundle.open(tmp_path / "out" / "bundle").id == Bundle.open(trained / "bundle").id


def test_exported_latents_have_unit_variance_in_each_channel_within_two_per_cent(trained: Path, tars: Path) -> None:
    codec = Codec.load(trained / "bundle")
    crops = CropSampler(ShardedImages([tars]), seed=9, batch_size=4096, crop_size=32)
    y = codec.backbone.encode(crops.batch(0)).transpose(0, 1).flatten(1)
    assert y.mean(1).tolist() == pytest.approx([0.0] * 4, abs=0.1)
    assert y.std(1).tolist() == pytest.approx([1.0] * 4, abs=0.02)


def test_a_foreign_backbone_stays_frozen(tars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entropy = {"dim": 32, "depth": 1, "heads": 2, "top_k": 8, "hyper_channels": 4}
    learned = {"steps": 1, "batch_size": 2, "crop_size": 32}
    settings = settings_file(
        tmp_path, backbone=str(write_folder(tmp_path / "sd")), entropy=entropy,
        stages={"entropy": learned, "end_to_end": STAGE},
    )  # fmt: skip
    assert main([str(settings), "--data", str(tars), "--output", str(tmp_path / "out")]) == 1
    assert "is not ours: it stays frozen" in capsys.readouterr().err.splitlines()[-1]


def test_before_any_step_every_lambda_weighs_the_same() -> None:
    losses = []
    for quality in (1.0, 8.0, 64.0):
        stage = fresh()
        stage.settings = StageSettings(steps=100, perceptual=0.0, quality=(quality, quality))
        with torch.no_grad():
            losses += [float(stage(pixels, draws)[0]) for pixels, draws in batches(6)]
    means = [sum(losses[i : i + 6]) / 6 for i in (0, 6, 12)]
    assert means == pytest.approx([1.0] * 3, abs=0.05)


def test_distortion_weighs_less_where_more_bits_are_spent_than_at_the_start() -> None:
    for excess, sign in ((0.2, -1), (-0.2, 1)):
        stage = fresh(rate_gain=0.1)
        before = float(stage.state.log_scale)
        stage.state.log_bits[0] -= excess  # as though the start had spent less
        pixels, draws = batches(1)[0]
        drift = float(stage(pixels, draws)[1]["rate_drift"])
        assert math.copysign(1, float(stage.state.log_scale) - before) == -math.copysign(1, drift)
        assert math.copysign(1, float(stage.state.log_scale) - before) == sign or abs(drift) < 0.2
    with torch.no_grad():
        stage(pixels, draws)
        kept = float(stage.state.log_scale)
        stage(pixels, draws)
    assert float(stage.state.log_scale) == kept, "a look at held-out crops changes nothing"


def test_no_gradient_scales_or_shifts_a_channel_of_the_latent() -> None:
    stage = fresh()
    raw = torch.randn(4, 4, 8, 8, requires_grad=True)
    weights = torch.randn(4, 4, 8, 8)
    (weights * stage._normalized(3 * raw + 1, learning=True)).sum().backward()
    gradient = raw.grad
    assert gradient is not None
    assert float(gradient.abs().sum()) > 1
    assert gradient.sum((0, 2, 3)).tolist() == pytest.approx([0.0] * 4, abs=1e-3)
    assert (gradient * raw.detach()).sum((0, 2, 3)).tolist() == pytest.approx([0.0] * 4, abs=1e-2)


def test_the_last_tenth_sees_rounded_symbols_and_what_comes_before_uniform_noise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[torch.Tensor] = []
    from codec.training import end_to_end

    original = end_to_end.coded_bits

    def watched(*arguments: object, symbols: torch.Tensor, **named: object) -> object:
        seen.append(symbols.detach())
        return original(*arguments, symbols=symbols, **named)

    stage = fresh()
    monkeypatch.setattr(end_to_end, "coded_bits", watched)
    for step in (0, 89, 90, 99):
        stage(batches(1)[0][0], Draws(1, step))
    whole = [bool((symbols == symbols.round()).all()) for symbols in seen]
    assert whole == [False, False, True, True]


def test_every_network_learns_and_the_unet_only_where_it_should() -> None:
    for train_unet in (True, False):
        stage = fresh(train_unet=train_unet)
        loss, _ = stage(*batches(1)[0])
        loss.backward()
        learns = {
            name: any(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
            for name, network in stage.trained.items()
        }
        assert learns == {"autoencoder": True, "unet": train_unet, "entropy": True, "state": False}
