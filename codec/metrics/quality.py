"""Quality of 8-bit reconstructions: PSNR, MS-SSIM, LPIPS, DISTS; None with a reason where one is undefined."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_msssim import ms_ssim
from torch import Tensor, nn

from codec.errors import SettingsError
from codec.images import to_tensor
from codec.metrics.perceptual import Network, dists_network, lpips_network

SMALLEST_SIDE = {"ms_ssim": 161, "alex": 31, "vgg": 16, "dists": 16}
"""Where each metric begins: five scales of an 11-pixel window; one place left in a network's last feature map."""
MOST_PIXELS = {"ms_ssim": 25_000_000, "alex": 25_000_000, "vgg": 2_500_000, "dists": 4_000_000}
"""Where each metric ends: at about 6 GB of memory (measured: 0.25, 0.23, 2.4 and 1.5 GB a megapixel)."""


NOT_MEASURED = "not measured"
"""The reason of a metric that was not asked for."""


@dataclass(frozen=True)
class Quality:
    """Metrics of one picture; an undefined one is None and has its reason."""

    psnr_db: float | None
    ms_ssim: float | None
    lpips: float | None
    dists: float | None
    lpips_net: str
    reasons: Mapping[str, str] = field(default_factory=dict)


class Metrics:
    """Measures pairs of pictures. Networks are loaded once. Without `pixels`, neither PSNR nor MS-SSIM is measured.

    Raises SettingsError when there is no such network or its weights cannot be had.
    """

    def __init__(
        self, lpips_net: Network = "alex", device: str = "cpu", dists: bool = True, pixels: bool = True
    ) -> None:
        if lpips_net not in ("alex", "vgg"):
            raise SettingsError(f"there is no LPIPS network {lpips_net!r}; choose alex or vgg")
        self.lpips_net, self.device, self._pixels = lpips_net, device, pixels
        self._lpips = lpips_network(lpips_net, device)
        self._dists = dists_network(device) if dists else None

    def measure(self, original: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> Quality:
        """Compare two 8-bit (H, W, 3) pictures of one size. Raises ValueError for others."""
        return self.measure_all(original, [decoded])[0]

    def measure_all(self, original: NDArray[np.uint8], decoded: Sequence[NDArray[np.uint8]]) -> list[Quality]:
        """Compare several reconstructions with one original, whose features are computed once for a batch of them."""
        for pixels in decoded:
            if not _comparable(original, pixels):
                raise ValueError(
                    "metrics compare two 8-bit (H, W, 3) pictures of one size, not "
                    f"{original.dtype} {original.shape} and {pixels.dtype} {pixels.shape}"
                )
        return [quality for batch in _batches(decoded) for quality in self._measure(original, batch)]

    @torch.no_grad()
    def _measure(self, original: NDArray[np.uint8], decoded: Sequence[NDArray[np.uint8]]) -> list[Quality]:
        reasons = [self._reasons(original, pixels) for pixels in decoded]
        undefined, shared = set.intersection(*map(set, reasons)), self.lpips_net == "vgg" and self._dists is not None
        first = to_tensor(original)[None].to(self.device)
        others = torch.stack([to_tensor(pixels) for pixels in decoded]).to(self.device)
        measures: dict[str, Callable[[], Sequence[float] | Tensor]] = {
            "psnr_db": lambda: [psnr(original, pixels) for pixels in decoded],
            "ms_ssim": lambda: _ms_ssim(first.expand_as(others), others),
            "lpips": lambda: self._lpips(first, others, keep_finest=shared),
            "dists": lambda: cast(nn.Module, self._dists)(first, others, self._lpips.finest(others)),
        }
        columns = {name: list(map(float, measure())) for name, measure in measures.items() if name not in undefined}
        rows = [
            {name: None if name in why else columns[name][place] for name in measures}
            for place, why in enumerate(reasons)
        ]
        return [Quality(**row, lpips_net=self.lpips_net, reasons=why) for row, why in zip(rows, reasons, strict=True)]

    def _reasons(self, original: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> dict[str, str]:
        """Why a metric of this pair is undefined, for each that is."""
        reasons = {}
        if np.array_equal(original, decoded):
            reasons["psnr_db"] = "identical"
        if self._dists is None:
            reasons["dists"] = NOT_MEASURED
        if not self._pixels:
            reasons |= {"psnr_db": NOT_MEASURED, "ms_ssim": NOT_MEASURED}
        height, width, _ = original.shape
        for metric, name in {"ms_ssim": "ms_ssim", "lpips": self.lpips_net, "dists": "dists"}.items():
            if min(height, width) < SMALLEST_SIDE[name]:
                reasons.setdefault(metric, f"side below {SMALLEST_SIDE[name]}")
            if height * width > MOST_PIXELS[name]:
                reasons.setdefault(metric, f"more than {MOST_PIXELS[name]} pixels")
        return reasons


def psnr(original: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio in dB over all pixels and channels; infinite for identical pictures."""
    difference = np.subtract(original, decoded, dtype=np.int64)
    error = np.square(difference).sum()  # in integers: exact
    return 10 * math.log10(255**2 * difference.size / error) if error else math.inf


def _ms_ssim(first: Tensor, second: Tensor) -> Tensor:
    """Of each pair in [-1, 1], (B,)."""
    return cast(Tensor, ms_ssim(127.5 * (first + 1), 127.5 * (second + 1), data_range=255, size_average=False))


def _batches(decoded: Sequence[NDArray[np.uint8]]) -> Iterator[Sequence[NDArray[np.uint8]]]:
    """As many pictures at a time as the hungriest network has room for, and at least one."""
    if decoded:
        together = max(1, MOST_PIXELS["vgg"] // max(1, decoded[0].shape[0] * decoded[0].shape[1]))
        for start in range(0, len(decoded), together):
            yield decoded[start : start + together]


def _comparable(original: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> bool:
    same = original.shape == decoded.shape and original.dtype == decoded.dtype
    return same and original.dtype == np.uint8 and original.ndim == 3 and original.shape[2] == 3
