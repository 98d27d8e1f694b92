"""Quality of 8-bit reconstructions: PSNR, MS-SSIM, LPIPS, DISTS; None with a reason where one is undefined."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_msssim import ms_ssim
from torch import Tensor, nn

from codec.errors import SettingsError
from codec.images import to_tensor
from codec.perceptual import Network, dists_network, lpips_network

SMALLEST_SIDE = {"ms_ssim": 161, "alex": 31, "vgg": 16, "dists": 16}
"""Where each metric begins: five scales of an 11-pixel window; one place left in a network's last feature map."""
MOST_PIXELS = {"ms_ssim": 25_000_000, "alex": 25_000_000, "vgg": 2_500_000, "dists": 4_000_000}
"""Where each metric ends: at about 6 GB of memory (measured: 0.25, 0.23, 2.4 and 1.5 GB a megapixel)."""


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
    """Measures pairs of pictures. Networks are loaded once.

    Raises SettingsError when there is no such network or its weights cannot be had.
    """

    def __init__(self, lpips_net: Network = "alex", device: str = "cpu", dists: bool = True) -> None:
        if lpips_net not in ("alex", "vgg"):
            raise SettingsError(f"there is no LPIPS network {lpips_net!r}; choose alex or vgg")
        self.lpips_net, self.device = lpips_net, device
        self._lpips = lpips_network(lpips_net, device)
        self._dists = dists_network(device) if dists else None

    @torch.no_grad()
    def measure(self, original: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> Quality:
        """Compare two 8-bit (H, W, 3) pictures of one size. Raises ValueError for others."""
        if not _comparable(original, decoded):
            raise ValueError(
                "metrics compare two 8-bit (H, W, 3) pictures of one size, not "
                f"{original.dtype} {original.shape} and {decoded.dtype} {decoded.shape}"
            )
        reasons = self._reasons(original, decoded)
        first, second = (to_tensor(pixels)[None].to(self.device) for pixels in (original, decoded))
        measures: dict[str, Callable[[], float | Tensor]] = {
            "psnr_db": lambda: psnr(original, decoded),
            "ms_ssim": lambda: ms_ssim(127.5 * (first + 1), 127.5 * (second + 1), data_range=255),
            "lpips": lambda: self._lpips(first, second),
            "dists": lambda: cast(nn.Module, self._dists)(first, second),
        }
        values = {name: None if name in reasons else float(measure()) for name, measure in measures.items()}
        return Quality(**values, lpips_net=self.lpips_net, reasons=reasons)

    def _reasons(self, original: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> dict[str, str]:
        """Why a metric of this pair is undefined, for each that is."""
        reasons = {}
        if np.array_equal(original, decoded):
            reasons["psnr_db"] = "identical"
        if self._dists is None:
            reasons["dists"] = "not measured"
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


def _comparable(original: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> bool:
    same = original.shape == decoded.shape and original.dtype == decoded.dtype
    return same and original.dtype == np.uint8 and original.ndim == 3 and original.shape[2] == 3
