"""python -m tests.benchmarks.lattice FOLDER [--bundle FOLDER] [--photos N] [-o FILE]: does the decoder print a grid?

A pattern of a fixed period stands out in the spectrum of rows, columns and diagonals. For each photo, the power of its
luma at 1/8, 1/4, 3/8 and 1/2 cycles a pixel is divided by the median of its neighbors, and that by the larger of 1 and
the same of the original: 1 is no grid. `weave` is the same for a band anywhere between 0.1 and 0.42 cycles a pixel, as
a pattern makes that keeps its period and not its phase: the largest ratio of a band's power to the geometric mean of
those 0.08 below and above. Sharpness stands beside them, since blur lowers the ratios too: the mean squared Laplacian,
as a share of the original's. The autoencoder alone, nothing quantized, shows whose grid it is.
"""

import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codec import Codec, read_image
from codec.images import to_pixels
from tests.benchmarks import on_photos

QUALITIES = (1.0, 8.0, 64.0)
FREQUENCIES = (1 / 8, 1 / 4, 3 / 8, 1 / 2)
NEIGHBORS = 0.04
"""How far away, in cycles a pixel, the neighbors of a frequency are that it is compared with."""
EXCLUDED = 0.006
"""How near to a frequency the spectrum still belongs to it."""
BAND = 0.02
"""Width in cycles a pixel of the bands in which a weave is looked for."""
APART = 4
"""Bands between a band and those that it is compared with."""
LOWEST = 5
"""The first band that is looked at: 0.1 cycles a pixel."""
Plane = NDArray[np.float64]


def luma(pixels: NDArray[np.uint8]) -> Plane:
    """(H, W, 3) 8-bit -> (H, W), BT.601 weights."""
    return np.asarray(pixels.astype(np.float64) @ (0.299, 0.587, 0.114))


def diagonals(plane: Plane) -> Plane:
    """The plane sheared by one pixel a row, so that its columns are diagonals; squares only."""
    side = min(plane.shape)
    square = plane[:side, :side]
    places = (np.arange(side)[:, None] + np.arange(side)) % side
    return np.take_along_axis(square, places, 1)


def ratios(plane: Plane) -> dict[str, list[float]]:
    """For rows, columns and diagonals, the ratio at each of FREQUENCIES."""
    directions = {"rows": plane, "columns": plane.T, "diagonals": diagonals(plane).T}
    return {name: _ratios(lines) for name, lines in directions.items()}


def weave(plane: Plane) -> NDArray[np.float64]:
    """For rows and columns, the ratio of each band's power to that of the bands around it: (2, bands)."""
    found = []
    for lines in (plane, plane.T):
        power, frequencies = _spectrum(lines)
        edges = np.arange(LOWEST - APART, round(0.5 / BAND) + 1) * BAND
        inside = [(frequencies >= low) & (frequencies < low + BAND) for low in edges[:-1]]
        bands = np.array([np.log(power[chosen]).mean() for chosen in inside])
        around = (bands[: -2 * APART] + bands[2 * APART :]) / 2
        found.append(np.exp(bands[APART:-APART] - around))
    return np.array(found)


def _spectrum(lines: Plane) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Power along the second axis, averaged over lines, and its frequencies in cycles a pixel."""
    # Without a window, a picture's unlike borders would leak into all frequencies.
    window = np.hanning(lines.shape[1])
    centered = (lines - lines.mean(1, keepdims=True)) * window
    power = (np.abs(np.fft.rfft(centered, axis=1)) ** 2).mean(0)
    return np.asarray(power), np.asarray(np.fft.rfftfreq(lines.shape[1]))


def _ratios(lines: Plane) -> list[float]:
    """The power at each frequency over the median of its neighbors."""
    power, frequencies = _spectrum(lines)
    found = []
    for frequency in FREQUENCIES:
        distance = np.abs(frequencies - frequency)
        own = power[distance <= EXCLUDED].max()
        around = np.median(power[(distance > EXCLUDED) & (distance <= NEIGHBORS)])
        found.append(float(own / around))
    return found


def sharpness(plane: Plane) -> float:
    """The mean squared Laplacian."""
    center = plane[1:-1, 1:-1]
    sides = plane[:-2, 1:-1] + plane[2:, 1:-1] + plane[1:-1, :-2] + plane[1:-1, 2:]
    return float(np.square(sides - 4 * center).mean())


def measured(original: Plane, decoded: Plane) -> tuple[dict[str, list[float]], float]:
    """Ratios over the larger of 1 and the original's, and sharpness as a share of the original's."""
    own = ratios(decoded)
    base = ratios(original)
    relative: dict[str, list[float]] = {}
    for name, values in own.items():
        # A frequency that is weak in the original would make anything there look like a grid: hence the 1.
        relative[name] = [value / max(1.0, before) for value, before in zip(values, base[name], strict=True)]
    return relative, sharpness(decoded) / sharpness(original)


def table(codec: Codec, photos: Sequence[Path]) -> str:
    """The worst ratio of each photo by direction and frequency: its mean and its largest value over the photos."""
    ways: dict[str, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {}
    for quality in QUALITIES:
        ways[f"lambda {quality:g}"] = partial(_through, codec, quality)
    ways["autoencoder alone"] = partial(_autoencoder, codec)
    lines = ["| | direction | 1/8 | 1/4 | 3/8 | 1/2 | worst photo | weave | sharpness |", "|---" * 9 + "|"]
    originals = [read_image(path).pixels for path in photos]
    for way, through in ways.items():
        decoded = [through(pixels) for pixels in originals]
        found = [measured(luma(pixels), luma(shown)) for pixels, shown in zip(originals, decoded, strict=True)]
        woven = np.mean([_woven(pixels, shown) for pixels, shown in zip(originals, decoded, strict=True)], 0)
        sharp = statistics.mean(share for _, share in found)
        for direction, own in zip(("rows", "columns", "diagonals"), (*woven, None), strict=True):
            values = np.array([relative[direction] for relative, _ in found])
            cells = " | ".join(f"{mean:.2f}" for mean in values.mean(0))
            band = "" if own is None else f"{own:.2f}"
            lines.append(f"| {way} | {direction} | {cells} | {values.max():.2f} | {band} | {sharp:.2f} |")
    return "\n".join(lines) + "\n"


def _woven(original: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The largest ratio of a band, over the larger of 1 and the original's, for rows and columns: (2,)."""
    relative = weave(luma(decoded)) / np.maximum(1.0, weave(luma(original)))
    return np.asarray(relative.max(1))


def _through(codec: Codec, quality: float, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    from codec import Picture

    return codec.decode(codec.encode(Picture(pixels), quality=quality).data)


def _autoencoder(codec: Codec, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    latent = codec.backbone.encode_pixels(pixels)
    return to_pixels(codec.backbone.decode(latent, (pixels.shape[0], pixels.shape[1]))[0])


def main() -> int:
    """Run and report."""
    return on_photos.run("lattice", "The grid of the decoder", table, photos=24)


if __name__ == "__main__":
    sys.exit(main())
