"""python -m tests.benchmarks.example OUTPUT.png: README's picture, a photo beside its files at equal bytes.

The photo is `skimage.data.coffee()` (CC0, Rachel Michetti), shown whole at lambda 8 beside HEVC intra and AVIF by
their smallest files of at least as many bytes.
"""

import sys
import tempfile
from pathlib import Path

import skimage.data
from PIL import Image

from codec import Codec
from codec.evaluation.baselines import available
from codec.evaluation.experiments.sheets import sheet
from tests.benchmarks.crops import decoded


def main(output: str) -> int:
    """Write the figure; prints the labels, and what could not be compared."""
    others, missing = available(["hevc", "avif"])
    for name, reason in missing.items():
        print(f"without {name}: {reason}")
    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder) / "coffee.png"
        Image.fromarray(skimage.data.coffee()).save(photo)
        tiles = decoded(Codec.load(), others, photo)
    print(", ".join(label for label, _ in tiles))
    sheet(tiles, columns=3).quantize(256, dither=Image.Dither.FLOYDSTEINBERG).save(output, optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
