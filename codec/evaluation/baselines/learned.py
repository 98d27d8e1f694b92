"""Learned codecs of other packages, if package and weights are installed: CompressAI's zoo and MS-ILLM.

Nothing is downloaded: weights must be in torch.hub's checkpoint folder. A file consists of one byte of quality, the
sizes, and the package's strings with their lengths.
"""

import struct
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codec.diffusion.tiling import continued
from codec.errors import BitstreamError
from codec.evaluation.baselines.baseline import Baseline, Pixels, UnavailableError, module
from codec.images import to_pixels, to_tensor

ARCHITECTURES = (
    "bmshj2018-factorized",
    "bmshj2018-hyperprior",
    "mbt2018",
    "cheng2020-anchor",
    "cheng2020-attn",
    "elic2022-official",
)
"""CompressAI's models, trained for mean squared error."""
MSILLM_RATES = (0.035, 0.07, 0.14, 0.3, 0.45, 0.9)
MSILLM_WEIGHTS = {quality: f"msillm_target_{rate}bpp.ckpt" for quality, rate in enumerate(MSILLM_RATES, 1)}
STRIDE = 64
"""Required divisor of a picture's sides in CompressAI's models."""
HEADER = struct.Struct("<BHHHHB")
"""Quality, height, width, the package's height and width, number of strings."""


def compressai(architecture: str) -> Baseline:
    """A model of CompressAI's zoo; its setting is the zoo's quality."""
    package = module("compressai", "compressai")
    zoo = module("compressai.zoo", "compressai")
    model_urls: Mapping[str, Any] = module("compressai.zoo.image", "compressai").model_urls
    urls: Mapping[int, str] = model_urls.get(architecture, {}).get("mse", {})
    if architecture not in zoo.models or not urls:
        raise UnavailableError(f"compressai {package.__version__} has no trained {architecture}")
    qualities = _present({quality: Path(url).name for quality, url in urls.items()})

    @lru_cache(1)  # one at a time: the models are large, and settings come in order
    def model(quality: int) -> Any:
        loaded = zoo.models[architecture](quality, metric="mse", pretrained=True).eval()
        loaded.update()
        return loaded

    def encode(pixels: Pixels, setting: float) -> bytes:
        with torch.no_grad():
            made = model(int(setting)).compress(continued(_unit(pixels), STRIDE))
        strings = [batch[0] for batch in made["strings"]]
        return _pack(int(setting), pixels, tuple(made["shape"]), strings)

    def decode(data: bytes) -> Pixels:
        quality, size, shape, strings = _unpack(data)
        with torch.no_grad():
            restored = model(quality).decompress([[string] for string in strings], shape)["x_hat"]
        return _pixels(restored, size)

    version = f"compressai {package.__version__}, mse, setting = quality"
    return Baseline(architecture, version, qualities, encode, decode, qualities)


def msillm() -> Baseline:
    """MS-ILLM (Muckley et al., 2023), the ILLM of the published comparison; its setting is the zoo's quality."""
    zoo = module("neuralcompression.zoo", "neuralcompression")
    outputs = module("neuralcompression._outputs", "neuralcompression")
    qualities = _present(MSILLM_WEIGHTS)

    @lru_cache(1)
    def model(quality: int) -> Any:
        loaded = getattr(zoo, f"msillm_quality_{quality}")(pretrained=True).eval()
        loaded.update()
        loaded.update_tensor_devices("compress")
        return loaded

    def encode(pixels: Pixels, setting: float) -> bytes:
        with torch.no_grad():
            made = model(int(setting)).compress(_unit(pixels))
        return _pack(int(setting), pixels, made.padded_size, [made.latent_strings[0], made.hyper_latent_strings[0]])

    def decode(data: bytes) -> Pixels:
        quality, size, padded, (latent, hyper) = _unpack(data)
        made = outputs.HyperpriorCompressedOutput(
            latent_strings=[latent], hyper_latent_strings=[hyper], image_size=size, padded_size=padded
        )
        with torch.no_grad():
            return _pixels(model(quality).decompress(made), size)

    return Baseline("ms-illm", "neuralcompression's zoo, setting = quality", qualities, encode, decode, qualities)


def makers() -> dict[str, Callable[[], Baseline]]:
    """Constructors of learned codecs by name."""
    found: dict[str, Callable[[], Baseline]] = {name: partial(compressai, name) for name in ARCHITECTURES}
    found["ms-illm"] = msillm
    return found


def _present(weights: Mapping[int, str]) -> tuple[float, ...]:
    """The qualities whose weights are in torch.hub's folder. Raises UnavailableError if there are none."""
    folder = Path(torch.hub.get_dir(), "checkpoints")  # where the packages would download them to
    found = tuple(float(quality) for quality, name in sorted(weights.items()) if (folder / name).exists())
    if not found:
        raise UnavailableError(f"no weights in {folder}: it has none of {', '.join(weights.values())}")
    return found


def _pack(quality: int, pixels: Pixels, shape: tuple[int, int], strings: list[bytes]) -> bytes:
    data = HEADER.pack(quality, *pixels.shape[:2], *shape, len(strings))
    for string in strings:
        data += struct.pack("<I", len(string)) + string
    return data


def _unpack(data: bytes) -> tuple[int, tuple[int, int], tuple[int, int], list[bytes]]:
    try:
        quality, height, width, rows, columns, count = HEADER.unpack_from(data)
        position = HEADER.size
        strings = []
        for _ in range(count):
            (length,) = struct.unpack_from("<I", data, position)
            strings.append(data[position + 4 : position + 4 + length])
            position += 4 + length
    except struct.error as error:
        raise BitstreamError(f"a file of a learned codec is truncated: {error}") from None
    return quality, (height, width), (rows, columns), strings


def _unit(pixels: Pixels) -> Tensor:
    """(H, W, 3) -> (1, 3, H, W) in [0, 1]."""
    return (to_tensor(pixels)[None] + 1) / 2


def _pixels(unit: Tensor, size: tuple[int, int]) -> Pixels:
    return to_pixels(2 * unit[0, :, : size[0], : size[1]] - 1)
