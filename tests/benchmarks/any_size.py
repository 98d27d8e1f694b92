"""python -m tests.benchmarks.any_size [SIDE ...]: time and peak memory of large pictures, and what is left of seams.

Each square picture (by default of 1024, 2048, 4096 and 8192 pixels; a mirrored photo of scikit-image) is encoded and
decoded by the embedded bundle, each in a process of its own that reads and writes files. A table goes to the screen and
to results/any_size.md; status 1 where a process takes 6 GB, a size is not restored, or a seam is visible.
"""

import itertools
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from skimage import data

from codec import Codec, encode_png, read_image

SIDES = (1024, 2048, 4096, 8192)
PERIOD = 1536
"""The picture repeats, mirrored, after this many pixels."""
LARGEST_BYTES = 6e9
LARGEST_GAP_DB = 0.3
LARGEST_STEP = 0.5
"""In levels of 255."""
NEAR = 8
"""Columns to each side of a seam that count as being at it."""
RESULTS = Path(__file__).parent / "results" / "any_size.md"
HEADINGS = (
    "side (pixels)",
    "encode (s)",
    "decode (s)",
    "encode (processor s/MP)",
    "decode (processor s/MP)",
    "encode (GB)",
    "decode (GB)",
    "bpp",
    "PSNR (dB)",
    "at seams (dB)",
    "elsewhere (dB)",
    "step at seams",
    "step elsewhere",
)
EXPLANATION = """# Pictures of any size, embedded default, lambda 8

`python -m tests.benchmarks.any_size {sides}`: a photo of scikit-image enlarged to 1536 x 1536 and continued by its
mirror images; encoding and decoding each in a process of its own, with reading and writing PNG, on {threads} thread(s).
GB (10^9 bytes) is the process's peak resident memory. Seconds are the wall's, also where other work shares the machine.

Seams: PSNR of the {near} columns to each side of all seams of all networks, against all other columns that show the
same column of the photo; the largest mean color difference, in levels of 255, that decoding adds between the two
columns at a seam, against the largest at other borders of latents that show the same. "-": one tile
holds the picture, or no other columns show the same.
"""


def large_photo(side: int) -> NDArray[np.uint8]:
    """A square picture: a photo enlarged three times and continued by its mirror images."""
    photo = np.asarray(Image.fromarray(data.astronaut()).resize((PERIOD, PERIOD), Image.Resampling.LANCZOS))
    more = max(0, side - PERIOD)
    return np.pad(photo, ((0, more), (0, more), (0, 0)), mode="symmetric")[:side, :side]


def work(action: str, source: Path, target: Path) -> None:
    """Encode or decode one file; print seconds, the processor's seconds and peak resident bytes as JSON."""
    codec = Codec.load()
    # Behind the loading of models, which does not grow with the picture.
    start = time.perf_counter()
    processor_start = time.process_time()
    if action == "encode":
        target.write_bytes(codec.encode(read_image(source)).data)
    else:
        target.write_bytes(encode_png(codec.decode(source.read_bytes())))
    seconds = time.perf_counter() - start
    processor = time.process_time() - processor_start
    print(json.dumps([seconds, processor, 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))


def in_a_process(action: str, source: Path, target: Path) -> tuple[float, float, float]:
    """What `work` measures, in a process that does nothing else."""
    command = [sys.executable, "-m", "tests.benchmarks.any_size", action, str(source), str(target)]
    answer = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    return answer[0], answer[1], answer[2]


def seam_columns(codec: Codec, side: int) -> list[int]:
    """The pixel columns that begin a tile's part of the picture, for all three networks."""
    tilings = codec.backbone.tilings
    columns = set()
    for tiling in (tilings.encoder, tilings.decoder, tilings.unet):
        for before, after in itertools.pairwise(tiling.cut(-(-side // 8))):
            columns.add(8 * ((before.stop + after.start) // 2))  # tiles overlap, and meet in the middle of that
    return sorted(columns)


def column_errors(
    original: NDArray[np.uint8], decoded: NDArray[np.uint8]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean squared error of each column (W,), and mean signed error of each column and color (W, 3)."""
    squared = np.zeros(original.shape[1])
    signed = np.zeros((original.shape[1], 3))
    # In strips: differences of a whole picture as 64-bit integers would take eight times its memory.
    for row in range(0, len(original), 256):
        difference = decoded[row : row + 256].astype(np.int64) - original[row : row + 256]
        squared += np.square(difference).sum((0, 2))
        signed += difference.sum(0)
    return squared / (3 * len(original)), signed / len(original)


def decibels(squared: NDArray[np.float64]) -> float:
    """PSNR of columns; not a number where there are none."""
    return 10 * math.log10(255**2 / squared.mean()) if len(squared) else math.nan


def seam_figures(original: NDArray[np.uint8], decoded: NDArray[np.uint8], seams: list[int]) -> tuple[float, ...]:
    """PSNR of all columns, of those at seams, of their like elsewhere; largest step at seams and elsewhere."""
    squared, signed = column_errors(original, decoded)
    columns = np.arange(len(squared))
    # The photo is mirrored at every PERIOD, so each of its columns is seen several times, at seams and elsewhere:
    # only columns that show the same are compared.
    place = columns % (2 * PERIOD)
    shown = np.minimum(place, 2 * PERIOD - 1 - place)
    near = np.zeros(len(squared), bool)
    for seam in seams:
        near[seam - NEAR : seam + NEAR] = True
    like = ~near & np.isin(shown, shown[near])
    matched = near & np.isin(shown, shown[like])
    borders = np.arange(8, len(squared), 8)
    steps = np.abs(signed[borders] - signed[borders - 1]).max(1)
    at_seam = np.isin(borders, seams)
    turned = borders % (2 * PERIOD)
    crossed = np.minimum(turned, 2 * PERIOD - turned)
    alike = ~at_seam & np.isin(crossed, crossed[at_seam])
    near_figures = (decibels(squared[matched]), decibels(squared[like]))
    return decibels(squared), *near_figures, largest(steps[at_seam]), largest(steps[alike])


def largest(steps: NDArray[np.float64]) -> float:
    """The largest of some steps; not a number where there are none."""
    return float(steps.max()) if len(steps) else math.nan


def measure(side: int, codec: Codec, scratch: Path) -> tuple[tuple[float, ...], bool]:
    """One row of the table, and whether it keeps the promises."""
    source = scratch / "source.png"
    coded = scratch / "coded.fdc"
    restored = scratch / "restored.png"
    original = large_photo(side)
    source.write_bytes(encode_png(original))
    encode = in_a_process("encode", source, coded)
    decode = in_a_process("decode", coded, restored)
    decoded = read_image(restored).pixels
    if decoded.shape != original.shape:
        raise AssertionError(f"{original.shape} came back as {decoded.shape}")
    figures = seam_figures(original, decoded, seam_columns(codec, side))
    _, at_seams, elsewhere, step, usual_step = figures
    megapixels = side**2 / 1e6
    row = (
        *(float(side), encode[0], decode[0], encode[1] / megapixels, decode[1] / megapixels),
        *(encode[2] / 1e9, decode[2] / 1e9, 8 * coded.stat().st_size / side**2, *figures),
    )
    small = max(encode[2], decode[2]) < LARGEST_BYTES
    # Figures that are not a number, where there is no seam, are no visible one.
    visible = elsewhere - at_seams > LARGEST_GAP_DB or step > usual_step + LARGEST_STEP
    return row, small and not visible


def table(rows: list[tuple[float, ...]]) -> str:
    """The rows in Markdown, and how far time is from growing linearly."""
    lines = ["| " + " | ".join(HEADINGS) + " |", "|" + "---|" * len(HEADINGS)]
    for row in rows:
        cells = ["-" if math.isnan(value) else f"{value:.2f}" for value in row[1:]]
        lines.append("| " + " | ".join([f"{row[0]:.0f}", *cells]) + " |")
    ratios = [f"{rows[-1][column] / rows[0][column]:.2f} ({HEADINGS[column].split()[0]})" for column in (3, 4)]
    lines += ["", f"Processor time a pixel, largest picture over smallest: {', '.join(ratios)}."]
    return "\n".join(lines) + "\n"


def main(sides: Sequence[int]) -> int:
    """Measure pictures of these sides."""
    codec = Codec.load()
    rows = []
    kept = True
    with tempfile.TemporaryDirectory() as scratch:
        for side in sides:
            row, good = measure(side, codec, Path(scratch))
            rows.append(row)
            kept &= good
            print(table(rows), flush=True)
    explanation = EXPLANATION.format(sides=" ".join(map(str, sides)), threads=torch.get_num_threads(), near=NEAR)
    RESULTS.write_text(explanation + "\n" + table(rows))
    return int(not kept)


if __name__ == "__main__":
    if sys.argv[1:2] in (["encode"], ["decode"]):
        work(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        sys.exit(main([int(side) for side in sys.argv[1:]] or SIDES))
