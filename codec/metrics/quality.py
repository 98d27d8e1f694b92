"""Quality of 8-bit reconstructions: PSNR, MS-SSIM, LPIPS, DISTS; None with a reason if undefined."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_msssim import ms_ssim
from torch import Tensor, nn

from codec.images import to_tensor
from codec.metrics import tiled
from codec.metrics.names import ALL, FIELDS, NOT_MEASURED, chosen
from codec.metrics.perceptual import Dists, Lpips, dists_network, lpips_network

SMALLEST_SIDE = {"ms_ssim": 161, "lpips": 31, "lpips_vgg": 16, "dists": 16}
"""Smallest side each metric supports: five scales of an 11-pixel window; networks: one cell in the last feature map."""
WHOLE_PIXELS, TOGETHER_PIXELS = 1_000_000, 2_500_000
"""Largest pictures that networks process whole: a single pair (2.4 GB per megapixel), and pairs that share an
original's features. Larger pictures are measured in tiles, in at most 2 GB in addition to the pictures."""


@dataclass(frozen=True)
class Quality:
    """Metrics of one picture. A metric that is undefined or was not requested is None, with a reason."""

    psnr_db: float | None = None
    ms_ssim: float | None = None
    lpips: float | None = None
    """With AlexNet."""
    lpips_vgg: float | None = None
    dists: float | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)
    """The reason for each field that is None."""


class Metrics:
    """Measures pairs of pictures with the named metrics, by default all. Networks are loaded once.

    Raises SettingsError for an unknown name, or if a network's weights are missing.
    """

    def __init__(self, *names: str, device: str = "cpu") -> None:
        self.names, self.device = chosen(names or (ALL,)), device
        self._alex = lpips_network("alex", device) if "lpips" in self.names else None
        self._vgg = lpips_network("vgg", device) if "lpips-vgg" in self.names else None
        self._dists = dists_network(device) if "dists" in self.names else None

    def measure(
        self, original: NDArray[np.uint8], decoded: NDArray[np.uint8], *, leave_out: Collection[str] = ()
    ) -> Quality:
        """Compares two 8-bit (H, W, 3) pictures of the same size. Raises ValueError otherwise."""
        _check(original, decoded)
        wanted = [name for name in self.names if name not in leave_out]
        return next(iter(self._measured(original, [decoded], wanted, WHOLE_PIXELS)))

    def measure_all(
        self, original: NDArray[np.uint8], decoded: Sequence[NDArray[np.uint8]], *, leave_out: Collection[str] = ()
    ) -> list[Quality]:
        """Compares several reconstructions with one original, whose features are computed once per batch."""
        for pixels in decoded:
            _check(original, pixels)
        wanted = [name for name in self.names if name not in leave_out]
        return list(self._measured(original, decoded, wanted, TOGETHER_PIXELS))

    def _measured(
        self, original: NDArray[np.uint8], decoded: Sequence[NDArray[np.uint8]], wanted: Collection[str], whole: int
    ) -> Iterator[Quality]:
        """Measures pictures of at most `whole` pixels in batches, larger ones in tiles."""
        if original.shape[0] * original.shape[1] > whole:
            for pixels in decoded:
                yield self._tiled(original, pixels, wanted)
            return
        for batch in _batches(decoded):
            yield from self._measure(original, batch, wanted)

    def _tiled(self, original: NDArray[np.uint8], decoded: NDArray[np.uint8], wanted: Collection[str]) -> Quality:
        why, pair = _reasons(original, decoded, wanted), (original, decoded, self.device)
        measures: dict[str, Callable[[], float]] = {
            "psnr_db": lambda: psnr(original, decoded),
            "ms_ssim": lambda: tiled.ms_ssim(*pair),
            "lpips": lambda: tiled.lpips_distance(cast(Lpips, self._alex), *pair),
            "lpips_vgg": lambda: tiled.lpips_distance(cast(Lpips, self._vgg), *pair),
            "dists": lambda: tiled.dists_distance(cast(Dists, self._dists), *pair),
        }
        return Quality(**{name: measure() for name, measure in measures.items() if name not in why}, reasons=why)

    @torch.no_grad()
    def _measure(
        self, original: NDArray[np.uint8], decoded: Sequence[NDArray[np.uint8]], wanted: Collection[str]
    ) -> list[Quality]:
        reasons = [_reasons(original, pixels, wanted) for pixels in decoded]
        undefined, shared = set.intersection(*map(set, reasons)), {"lpips-vgg", "dists"} <= set(wanted)
        first = to_tensor(original)[None].to(self.device)
        others = torch.stack([to_tensor(pixels) for pixels in decoded]).to(self.device)
        measures: dict[str, Callable[[], Sequence[float] | Tensor]] = {
            "psnr_db": lambda: [psnr(original, pixels) for pixels in decoded],
            "ms_ssim": lambda: _ms_ssim(first.expand_as(others), others),
            "lpips": lambda: cast(nn.Module, self._alex)(first, others),
            "lpips_vgg": lambda: cast(nn.Module, self._vgg)(first, others, keep_finest=shared),
            "dists": lambda: cast(nn.Module, self._dists)(first, others, self._vgg and self._vgg.finest(others)),
        }
        columns = {name: list(map(float, measure())) for name, measure in measures.items() if name not in undefined}
        found = []
        for index, why in enumerate(reasons):
            values = {name: None if name in why else columns[name][index] for name in measures}
            found.append(Quality(**values, reasons=why))
        return found


def _reasons(original: NDArray[np.uint8], decoded: NDArray[np.uint8], wanted: Collection[str]) -> dict[str, str]:
    """The reason for each metric of this pair that is None."""
    reasons = {FIELDS[name]: NOT_MEASURED for name in FIELDS if name not in wanted}
    if np.array_equal(original, decoded):
        reasons.setdefault("psnr_db", "identical")
    height, width, _ = original.shape
    for metric, smallest in SMALLEST_SIDE.items():
        if min(height, width) < smallest:
            reasons.setdefault(metric, f"side below {smallest}")
    return reasons


def psnr(original: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio in dB over all pixels and channels; infinite for identical pictures."""
    error = 0
    for top in range(0, len(original), tiled.ROWS):  # in integers: exact
        difference = np.subtract(original[top : top + tiled.ROWS], decoded[top : top + tiled.ROWS], dtype=np.int64)
        error += int(np.square(difference).sum())
    return 10 * math.log10(255**2 * original.size / error) if error else math.inf


def _ms_ssim(first: Tensor, second: Tensor) -> Tensor:
    """Of each pair in [-1, 1], (B,)."""
    return cast(Tensor, ms_ssim(127.5 * (first + 1), 127.5 * (second + 1), data_range=255, size_average=False))


def _batches(decoded: Sequence[NDArray[np.uint8]]) -> Iterator[Sequence[NDArray[np.uint8]]]:
    """Number of pictures per batch that fits, at least one."""
    if decoded:
        together = max(1, TOGETHER_PIXELS // max(1, decoded[0].shape[0] * decoded[0].shape[1]))
        for start in range(0, len(decoded), together):
            yield decoded[start : start + together]


def _check(original: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> None:
    same = original.shape == decoded.shape and original.dtype == decoded.dtype
    if not (same and original.dtype == np.uint8 and original.ndim == 3 and original.shape[2] == 3):
        raise ValueError(
            "metrics compare two 8-bit (H, W, 3) pictures of one size, not "
            f"{original.dtype} {original.shape} and {decoded.dtype} {decoded.shape}"
        )
