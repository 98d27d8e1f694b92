"""Networks exported as ONNX compute what PyTorch computes, and other backbones are refused in one line."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from typer.testing import CliRunner

from codec.browser import networks
from codec.browser.checking import TOLERANCE, checked_networks
from codec.bundle import Bundle, BundleConfig, write_bundle
from codec.bundle_id import DEFAULT_BUNDLE
from codec.cli import app
from codec.diffusion.backbone import Backbone
from codec.errors import BundleError
from codec.quantization.estimator import AdapterSettings
from tests.support.tiny_bundles import TINY, tiny_entropy


def test_the_shipped_networks_are_those_of_pytorch() -> None:
    checked = checked_networks(Bundle.open(DEFAULT_BUNDLE))
    assert 0 < checked.unet_difference < TOLERANCE
    assert 0 < checked.decoder_difference < TOLERANCE
    assert len(checked.unet) < 7_000_000  # float16, as in the bundle


@pytest.mark.parametrize("sides", [(4, 4), (8, 24)])
def test_any_size_is_the_same_network(sides: tuple[int, int], bundle: Bundle) -> None:
    mini = networks.MiniNetworks.of(bundle.path)
    decoder = ReferenceEvaluator(onnx.load_from_string(networks.decoder_model(mini)))
    latent = torch.randn(1, 4, *sides)
    with torch.no_grad():
        expected = bundle.load_backbone().decode(latent, (8 * sides[0], 8 * sides[1])).numpy()
    assert np.allclose(decoder.run(None, {"latent": latent.numpy()})[0], expected, atol=TOLERANCE)


def test_a_network_that_differs_is_refused(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "EPSILON", 0.1)
    with pytest.raises(BundleError, match=r"the exported U-Net of .* differs from PyTorch's by"):
        checked_networks(bundle)


def export(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["export-onnx", *map(str, arguments)])
    return done.exit_code, done.output


def test_the_command_writes_both_and_states_the_difference(bundle: Bundle, tmp_path: Path) -> None:
    status, output = export(bundle.path, "-o", tmp_path / "made")
    assert status == 0 and output.count("largest difference from PyTorch") == 2
    for name in (networks.UNET, networks.DECODER):
        onnx.checker.check_model(str(tmp_path / "made" / name), full_check=True)
    status, output = export(bundle.path, "-o", tmp_path / "made")
    assert status == 1 and "already exists" in output


def test_a_bundle_of_another_backbone_is_refused_in_one_line(backbone: Backbone, folder: Path, tmp_path: Path) -> None:
    config = BundleConfig("other", backbone.content_hash, str(folder), TINY, AdapterSettings(channels=(4, 4, 4)))
    write_bundle(tmp_path / "other", config, tiny_entropy(), backbone=backbone)
    status, output = export(tmp_path / "other", "-o", tmp_path / "made")
    assert status == 1
    assert output.startswith("error: ") and output.count("\n") == 1
    assert "no embedded backbone" in output
