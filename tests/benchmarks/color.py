"""python -m tests.benchmarks.color FOLDER [--bundle FOLDER] [--photos N] [-o FILE]: do colors drift?

Root mean squared error of the means of 8x8 pixels, in 8-bit units of luma and both chromas (BT.601), at lambda 1, 8 and
64, and of AVIF and HEVC in files of the same size: the largest that is not larger. A mean of 64 pixels has no texture
and no noise: what is left is a wrong shade. Ratios are ours over theirs, with bootstrap intervals over the photos.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codec import Codec, Picture, read_image
from codec.evaluation.baselines import Baseline, available, largest_within
from tests.benchmarks import on_photos

QUALITIES = (1.0, 8.0, 64.0)
OTHERS = ("avif", "hevc")
BLOCK = 8
PLANES = ("luma", "Cb", "Cr")
FROM_RGB = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
"""Y, Cb and Cr (without their offset of 128) of R, G and B, as in JFIF."""
DRAWS = 2000
Pixels = NDArray[np.uint8]


def block_means(pixels: Pixels) -> NDArray[np.float64]:
    """(H, W, 3) 8-bit RGB -> (H // 8, W // 8, 3) means of luma, Cb and Cr; what is left at right and bottom is cut."""
    rows = pixels.shape[0] // BLOCK
    columns = pixels.shape[1] // BLOCK
    whole = pixels[: rows * BLOCK, : columns * BLOCK].astype(np.float64)
    means = whole.reshape(rows, BLOCK, columns, BLOCK, 3).mean((1, 3))
    return np.asarray(means @ FROM_RGB.T)


def drift(original: Pixels, decoded: Pixels) -> NDArray[np.float64]:
    """The root mean squared error of the blocks' means, (3,): luma, Cb, Cr."""
    error = block_means(decoded) - block_means(original)
    return np.asarray(np.sqrt(np.square(error).mean((0, 1))))


def at_size(baseline: Baseline, pixels: Pixels, size: int) -> Pixels:
    """What a codec's largest file of at most so many bytes decodes to, or its smallest file."""
    made: dict[float, bytes] = {}

    def length(setting: float) -> int:
        if setting not in made:
            made[setting] = baseline.encode(pixels, setting)
        return len(made[setting])

    setting = largest_within(baseline.settings, size, length, {}, 1.0)
    length(setting)  # makes the file if the search has not tried it
    return baseline.decode(made[setting])


def interval(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> tuple[float, float]:
    """95 % bootstrap interval of the ratio of means over photos, (N,) each."""
    draws = np.random.default_rng(0).integers(len(ours), size=(DRAWS, len(ours)))
    low, high = np.quantile(ours[draws].mean(1) / theirs[draws].mean(1), (0.025, 0.975))
    return float(low), float(high)


def table(codec: Codec, others: Sequence[Baseline], photos: Sequence[Path]) -> str:
    """Mean errors by lambda, codec and plane, and how ours compare."""
    lines = ["| lambda | codec | " + " | ".join(PLANES) + " | " + " | ".join(f"ours / it, {p}" for p in PLANES) + " |"]
    lines.append("|---" * 8 + "|")
    for quality in QUALITIES:
        errors: dict[str, list[NDArray[np.float64]]] = {"ours": []}
        for other in others:
            errors[other.name] = []
        for path in photos:
            original = read_image(path).pixels
            data = codec.encode(Picture(original), quality=quality).data
            errors["ours"].append(drift(original, codec.decode(data)))
            for other in others:
                errors[other.name].append(drift(original, at_size(other, original, len(data))))
        ours = np.array(errors["ours"])
        for name, values in errors.items():
            theirs = np.array(values)
            cells = [f"{mean:.2f}" for mean in theirs.mean(0)]
            for plane in range(3):
                cells.append("" if name == "ours" else _ratio(ours[:, plane], theirs[:, plane]))
            lines.append(f"| {quality:g} | {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _ratio(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> str:
    low, high = interval(ours, theirs)
    return f"{ours.mean() / theirs.mean():.2f} ({low:.2f} to {high:.2f})"


def main() -> int:
    """Run and report, with what could not be compared."""
    others, missing = available(OTHERS)
    lacks = "".join(f"\n{name} is not here: {why}\n" for name, why in missing.items())
    heading = "Colors of 8x8 means"
    return on_photos.run("color", heading, lambda codec, photos: table(codec, others, photos) + lacks, photos=40)


if __name__ == "__main__":
    sys.exit(main())
