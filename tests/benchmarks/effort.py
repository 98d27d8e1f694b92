"""python -m tests.benchmarks.effort FOLDER [--photos N] [--side PIXELS] [-o FILE]: what does refining a latent gain?

For each lambda and effort: bytes, and at equal bytes the difference to effort 0 in PSNR, LPIPS and SSIMULACRA 2, and
bytes at equal quality by each, all with the 95 % interval of a bootstrap over photos. Effort 0 at other bytes is read
off its own files at rates around, linearly in log bytes. The squared error and LPIPS (AlexNet) are in the objective of
both efforts, DISTS, which shares its network with LPIPS (VGG), in that of effort 2; SSIMULACRA 2 is in none.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from codec import Codec, Metrics, Picture, read_image
from codec.evaluation.bd_rate import at_rate, bootstrap_interval
from codec.evaluation.experiments import spread
from codec.quantization.quantizer import alpha_code_of_quality

AROUND = range(-12, 61, 8)
"""Alpha codes around that of a lambda at which effort 0 is measured: 0.85 to 2.1 times the bytes. A gain beyond these
counts as the last of them."""
Values = dict[str, float]
Similarity = Callable[[NDArray[np.uint8], NDArray[np.uint8]], float | None]


def ssimulacra2_or_reason() -> Similarity | str:
    """The metric, or why it cannot be computed here."""
    try:
        from codec.metrics.outside import ssimulacra2
    except ImportError as error:
        return str(error)
    return ssimulacra2


def middle(pixels: NDArray[np.uint8], side: int) -> Picture:
    """The square in the middle; the whole picture if side is 0."""
    height, width = pixels.shape[:2]
    rows, columns = min(side or height, height), min(side or width, width)
    top, left = (height - rows) // 2, (width - columns) // 2
    return Picture(np.ascontiguousarray(pixels[top : top + rows, left : left + columns]))


class Measured:
    """Measures files of a codec; larger values are better in all but `bytes`."""

    def __init__(self, codec: Codec, similarity: Similarity | None) -> None:
        self._codec = codec
        self._similarity = similarity
        self._metrics = Metrics("psnr", "lpips", "lpips-vgg")

    def of(self, picture: Picture, data: bytes) -> Values:
        """The figures of one file."""
        decoded = self._codec.decode(data)
        quality = self._metrics.measure(picture.pixels, decoded)
        values = {"bytes": float(len(data)), "PSNR": quality.psnr_db or 0.0}
        values |= {"LPIPS alex": -(quality.lpips or 0.0), "LPIPS vgg": -(quality.lpips_vgg or 0.0)}
        if self._similarity is not None:
            values["SSIMULACRA 2"] = self._similarity(picture.pixels, decoded) or 0.0
        return values


def compared(made: Values, plain: list[Values]) -> Values:
    """Differences at equal bytes by name, and `bytes at equal NAME` as the logarithm of their ratio."""
    found = {}
    rates = [values["bytes"] for values in plain]
    for name in made.keys() - {"bytes"}:
        qualities = np.maximum.accumulate([values[name] for values in plain])
        own = at_rate(rates, [values[name] for values in plain], made["bytes"])
        found[name] = made[name] - (float("nan") if own is None else own)
        needed = np.interp(made[name], qualities, np.log(rates))
        found[f"bytes at equal {name}"] = float(np.log(made["bytes"]) - needed)
    return found


def row(label: str, columns: list[str], rows: list[Values], seconds: float, sizes: list[float]) -> str:
    """One line of the table."""
    cells = [f"{100 * (np.exp(np.mean(sizes)) - 1):+.1f} %"]
    for name in columns:
        values = np.array([values[name] for values in rows])
        low, high = bootstrap_interval(values)
        if name.startswith("bytes"):
            mean, low, high = (100 * float(np.expm1(value)) for value in (values.mean(), low, high))
            cells.append(f"{mean:+.1f} % ({low:+.1f} to {high:+.1f})")
        else:
            sign = -1 if name.startswith("LPIPS") else 1
            low, high = sorted((sign * low, sign * high))
            digits = 4 if name.startswith("LPIPS") else 2
            cells.append(f"{sign * values.mean():+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})")
    return f"| {label} | " + " | ".join(cells) + f" | {seconds:.1f} |"


def main() -> int:
    """Measure, print, and write the page."""
    options = argparse.ArgumentParser(prog="python -m tests.benchmarks.effort", description=__doc__)
    options.add_argument("folder", type=Path)
    options.add_argument("--bundle", default="", help="folder of a trained codec; the embedded one if empty")
    options.add_argument("--photos", type=int, default=8)
    options.add_argument("--side", type=int, default=256, help="of the square in the middle; 0: whole photos")
    options.add_argument("--quality", type=float, nargs="+", default=[2.0, 8.0, 32.0])
    options.add_argument("--effort", type=int, nargs="+", default=[1, 2])
    options.add_argument("-o", "--output", type=Path)
    given = options.parse_args()
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    similarity = ssimulacra2_or_reason()
    if isinstance(similarity, str):
        print(f"without SSIMULACRA 2: {similarity}")
    codec = Codec.load(given.bundle or None)
    measured = Measured(codec, None if isinstance(similarity, str) else similarity)
    found = sorted(path for path in given.folder.iterdir() if path.is_file())
    pictures = [middle(read_image(path).pixels, given.side) for path in spread(found, given.photos)]

    columns: list[str] = []
    lines: list[str] = []
    for quality in given.quality:
        middle_code = alpha_code_of_quality(quality, codec.bundle.config.alpha_at_one)
        curves = []
        for picture in pictures:
            y = codec._latent(picture)
            files = [codec._at_alpha(picture, (), y, middle_code + step).data for step in AROUND]
            curves.append([measured.of(picture, data) for data in files])
        for effort in given.effort:
            rows, sizes = [], []
            spent = 0.0
            for picture, curve in zip(pictures, curves, strict=True):
                plain = len(codec.encode(picture, quality=quality).data)
                started = time.process_time()
                data = codec.encode(picture, quality=quality, effort=effort).data
                spent += time.process_time() - started
                sizes.append(float(np.log(len(data) / plain)))
                rows.append(compared(measured.of(picture, data), curve))
            if not columns:
                columns = sorted(rows[0], key=lambda name: (name.startswith("bytes"), name))
                head = ["", "bytes", *(name.removeprefix("bytes ") for name in columns), "processor s/MP"]
                lines += ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
            pixels = sum(picture.width * picture.height for picture in pictures)
            lines.append(row(f"lambda {quality:g}, effort {effort}", columns, rows, spent / pixels * 1e6, sizes))
            print(lines[-1], flush=True)
    text = f"# Refining a latent, bundle {codec.bundle.id[:8]}, {len(pictures)} held-out photos\n\n"
    text += (
        f"`python -m tests.benchmarks.effort FOLDER {' '.join(sys.argv[2:])}`: one thread, load average {load:.1f}\n"
    )
    text += "beforehand. Differences to effort 0 at equal bytes, then bytes at equal quality, with 95 % intervals.\n\n"
    text += "\n".join(lines) + "\n"
    print(text, end="")
    if given.output:
        given.output.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
