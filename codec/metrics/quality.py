"""Quality of 8-bit reconstructions: PSNR, MS-SSIM, LPIPS, DISTS; None with a reason if undefined."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_msssim import ms_ssim
from torch import Tensor

from codec.images import to_tensor
from codec.metrics import tiled
from codec.metrics.names import ALL, FIELDS, NOT_MEASURED, chosen
from codec.metrics.perceptual import Dists, Lpips, dists_network, lpips_network

SMALLEST_SIDE = {"ms_ssim": 161, "lpips": 31, "lpips_vgg": 16, "dists": 16}
"""Smallest side each metric supports: five scales of an 11-pixel window; networks: one cell in the last feature map."""
WHOLE_PIXELS = 1_000_000
"""Largest single pair that networks process whole, at 2.4 GB per megapixel. Larger pictures are measured in tiles, in
at most 2 GB in addition to the pictures."""
TOGETHER_PIXELS = 2_500_000
"""The same for pairs that share an original's features."""
Pixels = NDArray[np.uint8]


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
        self.names = chosen(names or (ALL,))
        self.device = device
        # Only what is needed: loading a network costs time and memory.
        self._alex: Lpips | None = None
        self._vgg: Lpips | None = None
        self._dists: Dists | None = None
        if "lpips" in self.names:
            self._alex = lpips_network("alex", device)
        if "lpips-vgg" in self.names:
            self._vgg = lpips_network("vgg", device)
        if "dists" in self.names:
            self._dists = dists_network(device)

    def measure(self, original: Pixels, decoded: Pixels, *, leave_out: Collection[str] = ()) -> Quality:
        """Compares two 8-bit (H, W, 3) pictures of the same size. Raises ValueError otherwise."""
        _check(original, decoded)
        (quality,) = self._measured(original, [decoded], self._without(leave_out), WHOLE_PIXELS)
        return quality

    def measure_all(
        self, original: Pixels, decoded: Sequence[Pixels], *, leave_out: Collection[str] = ()
    ) -> list[Quality]:
        """Compares several reconstructions with one original, whose features are computed once per batch."""
        for pixels in decoded:
            _check(original, pixels)
        return list(self._measured(original, decoded, self._without(leave_out), TOGETHER_PIXELS))

    def _without(self, leave_out: Collection[str]) -> list[str]:
        return [name for name in self.names if name not in leave_out]

    def _measured(
        self, original: Pixels, decoded: Sequence[Pixels], wanted: Collection[str], whole: int
    ) -> Iterator[Quality]:
        """Measures pictures of at most `whole` pixels in batches, larger ones in tiles."""
        if original.shape[0] * original.shape[1] > whole:
            for pixels in decoded:
                yield self._tiled(original, pixels, wanted)
            return
        for batch in _batches(decoded):
            yield from self._together(original, batch, wanted)

    def _tiled(self, original: Pixels, decoded: Pixels, wanted: Collection[str]) -> Quality:
        why = _reasons(original, decoded, wanted)
        values = {}
        for name in FIELDS.values():
            if name not in why:
                values[name] = self._tiled_value(name, original, decoded)
        return Quality(**values, reasons=why)

    def _tiled_value(self, name: str, original: Pixels, decoded: Pixels) -> float:
        match name:
            case "psnr_db":
                return psnr(original, decoded)
            case "ms_ssim":
                return tiled.ms_ssim(original, decoded, self.device)
            case "lpips":
                return tiled.lpips_distance(cast(Lpips, self._alex), original, decoded, self.device)
            case "lpips_vgg":
                return tiled.lpips_distance(cast(Lpips, self._vgg), original, decoded, self.device)
            case _:
                return tiled.dists_distance(cast(Dists, self._dists), original, decoded, self.device)

    @torch.no_grad()
    def _together(self, original: Pixels, decoded: Sequence[Pixels], wanted: Collection[str]) -> list[Quality]:
        """Measures pictures in one batch. A metric is computed for all if it is defined for one of them."""
        reasons = [_reasons(original, pixels, wanted) for pixels in decoded]
        undefined = set.intersection(*map(set, reasons))
        columns: dict[str, list[float]] = {}
        if "psnr_db" not in undefined:
            columns["psnr_db"] = [psnr(original, pixels) for pixels in decoded]
        first = to_tensor(original)[None].to(self.device)
        others = torch.stack([to_tensor(pixels) for pixels in decoded]).to(self.device)
        for name in FIELDS.values():
            if name != "psnr_db" and name not in undefined:
                values = self._batch_values(name, first, others, wanted)
                columns[name] = [float(value) for value in values]
        found = []
        for index, why in enumerate(reasons):
            own = {name: column[index] for name, column in columns.items() if name not in why}
            found.append(Quality(**own, reasons=why))
        return found

    def _batch_values(self, name: str, first: Tensor, others: Tensor, wanted: Collection[str]) -> Tensor:
        """One metric of each pair, (B,): `first` (1, 3, H, W) with `others` (B, 3, H, W), in [-1, 1]."""
        values: Tensor
        if name == "ms_ssim":
            values = _ms_ssim(first.expand_as(others), others)
        elif name == "lpips":
            values = cast(Lpips, self._alex)(first, others)
        elif name == "lpips_vgg":
            # Measured before DISTS, whose network begins with the same stage of VGG16.
            shared = "lpips-vgg" in wanted and "dists" in wanted
            values = cast(Lpips, self._vgg)(first, others, keep_finest=shared)
        else:
            finest = None if self._vgg is None else self._vgg.finest(others)
            values = cast(Dists, self._dists)(first, others, finest)
        return values


def _reasons(original: Pixels, decoded: Pixels, wanted: Collection[str]) -> dict[str, str]:
    """The reason for each metric of this pair that is None."""
    reasons = {FIELDS[name]: NOT_MEASURED for name in FIELDS if name not in wanted}
    if np.array_equal(original, decoded):
        reasons.setdefault("psnr_db", "identical")
    height, width, _ = original.shape
    for metric, smallest in SMALLEST_SIDE.items():
        if min(height, width) < smallest:
            reasons.setdefault(metric, f"side below {smallest}")
    return reasons


def psnr(original: Pixels, decoded: Pixels) -> float:
    """Peak signal-to-noise ratio in dB over all pixels and channels; infinite for identical pictures."""
    error = 0
    # Bands of rows bound the memory; integers are exact, so the bands do not change the sum.
    for top in range(0, len(original), tiled.ROWS):
        difference = np.subtract(original[top : top + tiled.ROWS], decoded[top : top + tiled.ROWS], dtype=np.int64)
        error += int(np.square(difference).sum())
    if not error:
        return math.inf
    return 10 * math.log10(255**2 * original.size / error)


def _ms_ssim(first: Tensor, second: Tensor) -> Tensor:
    """Of each pair in [-1, 1], (B,)."""
    return cast(Tensor, ms_ssim(127.5 * (first + 1), 127.5 * (second + 1), data_range=255, size_average=False))


def _batches(decoded: Sequence[Pixels]) -> Iterator[Sequence[Pixels]]:
    """Yields as many pictures at a time as fit into TOGETHER_PIXELS, at least one."""
    if not decoded:
        return
    height, width = decoded[0].shape[:2]
    together = max(1, TOGETHER_PIXELS // max(1, height * width))
    for start in range(0, len(decoded), together):
        yield decoded[start : start + together]


def _check(original: Pixels, decoded: Pixels) -> None:
    same = original.shape == decoded.shape and original.dtype == decoded.dtype
    colors = original.dtype == np.uint8 and original.ndim == 3 and original.shape[2] == 3
    if not same or not colors:
        raise ValueError(
            "metrics compare two 8-bit (H, W, 3) pictures of one size, not "
            f"{original.dtype} {original.shape} and {decoded.dtype} {decoded.shape}"
        )
