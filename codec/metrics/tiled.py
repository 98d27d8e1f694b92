"""MS-SSIM, LPIPS and DISTS of pictures of any size, computed in tiles that add up to the whole picture's value.

Networks see tiles of 768 x 768 pixels with a border of 128 on each side, more than the largest receptive field
(106). Tiles start on the coarsest grid (16 pixels), so the inner part of a tile equals the whole picture's features.
The overhead is at most a factor of 1.78. Each stage is computed for both pictures, summed in float64 and released, so
memory does not depend on the picture. MS-SSIM goes through each scale in bands of rows.
"""

import itertools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import codec.support.torchvision_shim  # noqa: F401

import lpips
import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_msssim.ssim import _fspecial_gauss_1d, _ssim
from torch import Tensor, nn
from torch.nn import functional as F

from codec.images import to_tensor
from codec.metrics.perceptual import Dists, Lpips

Pixels = NDArray[np.uint8]

CORE = 768
BORDER = 128
GRID = 16
BAND = 48
"""Rows of a tile that pass through a stage at a time."""
IN_BANDS = {0: (1, 2), 1: (2, 8)}
"""Stages of VGG16 that go in bands: their stride, and the rows beyond a band that two 3 x 3 convolutions, and a pooling
before them, can see."""
ROWS = 64
"""Rows of pixels that are summed at a time."""
FEATURE_ROWS = 8
"""Rows of features that are summed at a time in float64: few, so that freed ones leave no large gaps in the heap."""
STRIDES = {"alex": (4, 8, 16, 16, 16), "vgg": (1, 2, 4, 8, 16)}
"""Pixels per cell of each stage's feature map."""
SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Weights of MS-SSIM's five scales (Wang et al., 2003)."""
WINDOW = 11


@dataclass(frozen=True)
class Span:
    """A tile along one side: start..stop is computed, first..last is used; `ends` if it reaches the picture's end."""

    start: int
    stop: int
    first: int
    last: int
    ends: bool

    def counted(self, stride: int) -> slice:
        """The used part of the tile's features, one cell per `stride` pixels."""
        first = (self.first - self.start) // stride
        if self.ends:  # the last cell may be a partial one, which a division would drop
            return slice(first, None)
        return slice(first, (self.last - self.start) // stride)


def spans(length: int) -> list[Span]:
    """The tiles along a side: nearly equal, each using at most CORE pixels; a single one if that suffices."""
    if length <= CORE + 2 * BORDER:
        return [Span(0, length, 0, length, True)]
    count = -(-length // CORE)
    edges = [GRID * round(index * length / count / GRID) for index in range(count)]
    edges.append(length)
    found = []
    for first, last in itertools.pairwise(edges):
        start = max(0, first - BORDER)
        stop = min(length, last + BORDER)
        found.append(Span(start, stop, first, last, last == length))
    return found


@torch.no_grad()
def lpips_distance(network: Lpips, original: Pixels, decoded: Pixels, device: str) -> float:
    """The network's value for the whole pictures."""
    trunk = network.network.net
    heads = network.network.lins
    strides = STRIDES[network.net]
    stages = [getattr(trunk, f"slice{number}") for number in range(1, len(strides) + 1)]
    sums = np.zeros(len(stages))
    cells = np.zeros(len(stages))
    for rows, columns, pair in _tiles(original, decoded, device):
        features = [network.network.scaling_layer(pixels) for pixels in pair]
        for number, stage in enumerate(stages):
            _advance(features, stage, IN_BANDS.get(number) if network.net == "vgg" else None)
            for x, y in _counted(features, rows, columns, strides[number]):
                difference = lpips.normalize_tensor(x) - lpips.normalize_tensor(y)
                distances = heads[number](difference**2)
                sums[number] += float(distances.double().sum())
                cells[number] += distances.numel()
    return float((sums / cells).sum())


@torch.no_grad()
def dists_distance(network: Dists, original: Pixels, decoded: Pixels, device: str) -> float:
    """The network's value for the whole pictures."""
    stages = [nn.Identity(), *(getattr(network, f"stage{number}") for number in range(1, 6))]
    strides = (1, *STRIDES["vgg"])
    totals = [_Moments(channels, device) for channels in network.chns]
    for rows, columns, pair in _tiles(original, decoded, device):
        features = [(pixels + 1) / 2 for pixels in pair]
        for number, (total, stage, stride) in enumerate(zip(totals, stages, strides, strict=True)):
            _advance(features, stage, IN_BANDS.get(number - 1))
            for x, y in _counted(features, rows, columns, stride):
                total.add(x[0].flatten(1), y[0].flatten(1))
            # DISTS compares the pixels themselves first; only the network's stages see normalized ones.
            if number == 0:
                features = [(x - network.mean) / network.std for x in features]
    alphas = _split(network, network.alpha)
    betas = _split(network, network.beta)
    alike = torch.zeros((), dtype=torch.float64, device=device)
    for total, alpha, beta in zip(totals, alphas, betas, strict=True):
        alike += (alpha * total.texture()).sum() + (beta * total.structure()).sum()
    weights = network.alpha.double().sum() + network.beta.double().sum()
    return 1 - float(alike / weights)


class _Moments:
    """Means, variances and covariance of two pictures' features, channel by channel, in float64."""

    def __init__(self, channels: int, device: str) -> None:
        self._cells = 0
        self._sums = torch.zeros(5, channels, dtype=torch.float64, device=device)

    def add(self, x: Tensor, y: Tensor) -> None:
        """Features (channels, places)."""
        x = x.double()
        y = y.double()
        self._cells += x.shape[1]
        self._sums += torch.stack([part.sum(1) for part in (x, y, x * x, y * y, x * y)])

    def texture(self) -> Tensor:
        """DISTS's S1 of each channel."""
        x, y = self._sums[:2] / self._cells
        alike: Tensor = (2 * x * y + 1e-6) / (x * x + y * y + 1e-6)
        return alike

    def structure(self) -> Tensor:
        """DISTS's S2 of each channel."""
        x, y, xx, yy, xy = self._sums / self._cells
        alike: Tensor = (2 * (xy - x * y) + 1e-6) / (xx - x * x + yy - y * y + 1e-6)
        return alike


def _split(network: Dists, weights: Tensor) -> tuple[Tensor, ...]:
    parts: tuple[Tensor, ...] = weights.double().flatten().split(network.chns)
    return parts


def _tiles(original: Pixels, decoded: Pixels, device: str) -> Iterator[tuple[Span, Span, list[Tensor]]]:
    """Yields both pictures tile by tile, (1, 3, h, w) in [-1, 1] each."""
    height, width, _ = original.shape
    for rows in spans(height):
        for columns in spans(width):
            part = (slice(rows.start, rows.stop), slice(columns.start, columns.stop))
            pair = [to_tensor(pixels[part])[None].to(device) for pixels in (original, decoded)]
            yield rows, columns, pair


def _advance(features: list[Tensor], stage: nn.Module, bands: tuple[int, int] | None) -> None:
    """Replaces both pictures' features by the next stage's, one after the other, to release memory early."""
    for index, before in enumerate(features):
        features[index] = stage(before) if bands is None else _in_bands(stage, before, *bands)


def _in_bands(stage: nn.Module, x: Tensor, stride: int, reach: int) -> Tensor:
    """A stage on bands of rows, each with `reach` further rows on both sides: only its result is ever whole.

    At full resolution each intermediate result of VGG16 has 64 channels, a quarter of a gigabyte a tile.
    """
    height = x.shape[-2]
    whole: Tensor | None = None
    # from below, since only the last band shows how many rows come out of an odd number
    for top in reversed(range(0, height, BAND)):
        start = max(0, top - reach)
        stop = min(height, top + BAND + reach)
        band: Tensor = stage(x[..., start:stop, :])[..., (top - start) // stride :, :]
        first = top // stride
        if whole is None:
            whole = band.new_empty((*band.shape[:-2], first + band.shape[-2], band.shape[-1]))
        rows = min(BAND // stride, whole.shape[-2] - first)
        whole[..., first : first + rows, :] = band[..., :rows, :]
    if whole is None:
        raise ValueError("a tile without rows")
    return whole


def _counted(features: list[Tensor], rows: Span, columns: Span, stride: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields the used features of both pictures, some rows at a time."""
    part = (..., rows.counted(stride), columns.counted(stride))
    first, second = features
    yield from zip(
        first[part].float().split(FEATURE_ROWS, -2), second[part].float().split(FEATURE_ROWS, -2), strict=True
    )


@torch.no_grad()
def ms_ssim(original: Pixels, decoded: Pixels, device: str) -> float:
    """Multi-scale structural similarity on the 8-bit range, equal to pytorch_msssim on the whole pictures."""
    pair = [_as_tensor(pixels).movedim(2, 0)[None] for pixels in (original, decoded)]
    window = _fspecial_gauss_1d(WINDOW, 1.5).repeat(3, 1, 1, 1)
    factors = []
    # Contrast and structure at each scale, luminance at the coarsest alone (equation 7).
    for weight in SCALES[:-1]:
        _, contrast = _similarities(pair, window, device)
        factors.append(contrast.relu() ** weight)
        pair = [_halved(pixels, device) for pixels in pair]
    similarity, _ = _similarities(pair, window, device)
    factors.append(similarity.relu() ** SCALES[-1])
    return float(torch.stack(factors).prod(0).mean())


def _as_tensor(pixels: Pixels) -> Tensor:
    """The array as a tensor on the same memory, which is only read: a copy of 100 megapixels would take 0.3 GB."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about arrays that are not writable
        return torch.from_numpy(np.ascontiguousarray(pixels))


def _similarities(pair: list[Tensor], window: Tensor, device: str) -> tuple[Tensor, Tensor]:
    """SSIM and its contrast and structure term, the mean of each channel (3,) float64, at one scale."""
    sums = torch.zeros(2, 3, dtype=torch.float64)
    cells = pair[0].shape[-2] - WINDOW + 1
    for top in range(0, cells, ROWS):
        count = min(ROWS, cells - top)
        bands = [pixels[..., top : top + count + WINDOW - 1, :].to(device).float() for pixels in pair]
        means = torch.stack(_ssim(*bands, data_range=255, win=window.to(device), size_average=False))
        sums += count * means[:, 0].double().cpu()
    similarity, contrast = sums / cells
    return similarity, contrast


def _halved(pixels: Tensor, device: str) -> Tensor:
    """(1, 3, h, w) -> means of 2 x 2 pixels, float32; odd sides get zeros in front, as in pytorch_msssim."""
    height, width = pixels.shape[-2:]
    odd = height % 2
    # filled band by band: a list of bands and their concatenation would be the whole twice
    halved = torch.empty((*pixels.shape[:-2], (height + odd) // 2, width // 2 + width % 2), dtype=torch.float32)
    row = 0
    # Bands of even height, so that no pair of rows is torn; for an odd height the first one begins in the padding.
    for top in range(-odd, height, 2 * ROWS):
        band = pixels[..., max(0, top) : top + 2 * ROWS, :].to(device).float()
        band = F.pad(band, (0, 0, max(0, -top), 0))
        band = band[..., : band.shape[-2] // 2 * 2, :]
        rows = F.avg_pool2d(band, 2, padding=(0, width % 2)).cpu()
        halved[..., row : row + rows.shape[-2], :] = rows
        row += rows.shape[-2]
    return halved
