"""Quality of 8-bit reconstructions: PSNR, MS-SSIM, LPIPS, DISTS; None with a reason where one is undefined."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_msssim import ms_ssim
from torch import Tensor

from codec.images import to_tensor
from codec.perceptual import Network, dists_network, lpips_network

MS_SSIM_SIDE = 161
"""Smallest side of a picture whose MS-SSIM is defined: five scales of an 11-pixel window."""
LPIPS_SIDE = {"alex": 31, "vgg": 16}
"""Smallest side that leaves each network's last feature map non-empty."""
DISTS_SIDE = 16


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
    """Measures pairs of pictures. Networks are loaded once; SettingsError when their weights cannot be had."""

    def __init__(self, lpips_net: Network = "alex", device: str = "cpu", dists: bool = True) -> None:
        self.lpips_net, self.device = lpips_net, device
        self._lpips = lpips_network(lpips_net).to(device)
        self._dists = dists_network().to(device) if dists else None

    @torch.no_grad()
    def measure(self, original: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> Quality:
        """Compare two (H, W, 3) 8-bit pictures of one size. Raises ValueError for others."""
        if original.shape != decoded.shape or original.ndim != 3 or original.shape[2] != 3:
            raise ValueError(f"metrics need two (H, W, 3) pictures of one size, not {original.shape}, {decoded.shape}")
        side, reasons = min(original.shape[:2]), {}
        first, second = (to_tensor(pixels)[None].to(self.device) for pixels in (original, decoded))
        values: dict[str, float | None] = {"psnr_db": psnr(original, decoded)}
        if values["psnr_db"] is None:
            reasons["psnr_db"] = "identical"
        values["ms_ssim"] = values["lpips"] = values["dists"] = None
        if side < MS_SSIM_SIDE:
            reasons["ms_ssim"] = f"side below {MS_SSIM_SIDE}"
        else:
            values["ms_ssim"] = float(ms_ssim((first + 1) * 127.5, (second + 1) * 127.5, data_range=255))
        if side < LPIPS_SIDE[self.lpips_net]:
            reasons["lpips"] = f"side below {LPIPS_SIDE[self.lpips_net]}"
        else:
            values["lpips"] = float(cast(Tensor, self._lpips(first, second)))
        if self._dists is None:
            reasons["dists"] = "not measured"
        elif side < DISTS_SIDE:
            reasons["dists"] = f"side below {DISTS_SIDE}"
        else:
            values["dists"] = float(cast(Tensor, self._dists(first, second)))
        return Quality(**values, lpips_net=self.lpips_net, reasons=reasons)


def psnr(original: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> float | None:
    """Peak signal-to-noise ratio in dB over all pixels and channels, None when the pictures are identical."""
    error = float(np.mean((original.astype(np.float64) - decoded.astype(np.float64)) ** 2))
    return 10 * float(np.log10(255**2 / error)) if error else None
