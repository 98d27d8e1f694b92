"""python -m tests.benchmarks.entropy_grids FOLDER -o FILE: what narrow grids cost in bits and save in time.

Rounds a bundle's entropy model to both kinds of grids, without training, and codes the same symbols with both, in turn:
bytes of the streams, and processor seconds a megapixel to decode them, on one thread.
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np
import torch

from codec import Codec, read_image
from codec.entropy.export import export
from codec.entropy.grids import GRIDS, GridsName
from codec.entropy.integer import ExactEntropyModel
from codec.entropy.rate import hyper_latent
from codec.entropy.stream import compress, decompress, tiles

QUALITIES = (1.0, 8.0, 64.0)


def rounded(codec: Codec, grids: GridsName) -> ExactEntropyModel:
    """A bundle's entropy model on these grids."""
    model = codec.bundle.trainable_entropy().with_grids(grids)
    return ExactEntropyModel(export(model), model.settings)


@torch.no_grad()
def measure(codec: Codec, folder: Path) -> tuple[dict[tuple[GridsName, float], int], dict[GridsName, float], int]:
    """Bytes by grids and lambda, processor seconds a megapixel by grids, and the number of pictures."""
    models = {grids: rounded(codec, grids) for grids in GRIDS}
    sizes = {(grids, quality): 0 for grids in models for quality in QUALITIES}
    seconds = dict.fromkeys(models, 0.0)
    pixels = 0
    paths = sorted(folder.iterdir())
    for path in paths:
        picture = read_image(path)
        latent = codec.backbone.encode_pixels(picture.pixels)
        for quality in QUALITIES:
            encoded = codec.encode(picture, quality=quality)
            parameters = codec._parameters(latent, quality)
            codes = parameters.channel_codes
            scaled = parameters.alpha * latent
            hyper = []
            for rows, columns in tiles(*encoded.symbols.shape[1:]):
                z = hyper_latent(codec.encoder, scaled[..., rows, columns], codes, codec.constants)[0]
                hyper.append(z.round().int().numpy())
            pixels += picture.width * picture.height
            for grids, model in models.items():
                data = compress(model, codec.tables, encoded.symbols, hyper, codes).data
                sizes[grids, quality] += len(data)
                shape = (encoded.symbols.shape[1], encoded.symbols.shape[2])
                start = time.process_time()
                decoded = decompress(model, codec.tables, data, shape, codes)
                seconds[grids] += time.process_time() - start
                if not np.array_equal(decoded, encoded.symbols):
                    raise AssertionError(f"{path} decoded to other symbols")
    return sizes, {grids: 1e6 * own / pixels for grids, own in seconds.items()}, len(paths)


def report(codec: Codec, folder: Path) -> str:
    """The page."""
    sizes, seconds, count = measure(codec, folder)
    lines = [
        "# Narrow grids: what float32 costs in bits and saves in time",
        "",
        f"`python -m tests.benchmarks.entropy_grids FOLDER`, {count} photos, bundle {codec.bundle.id[:8]} rounded to "
        "either kind of grids without training;",
        f"one thread, load average {os.getloadavg()[0]:.1f}, {torch.backends.cpu.get_cpu_capability()}. "
        "Processor seconds are those of decoding the symbols, both in turn.",
        "",
        "| grids | " + " | ".join(f"bytes at lambda {quality:g}" for quality in QUALITIES) + " | seconds a megapixel |",
        "|---|" + "---|" * (len(QUALITIES) + 1),
    ]
    for grids in GRIDS:
        row = " | ".join(f"{sizes[grids, quality]:,}" for quality in QUALITIES)
        lines.append(f"| {grids} | {row} | {seconds[grids]:.2f} |")
    ratios = [sizes["narrow", quality] / sizes["wide", quality] - 1 for quality in QUALITIES]
    row = " | ".join(f"{ratio:+.3%}" for ratio in ratios)
    lines.append(f"| narrow against wide | {row} | {seconds['narrow'] / seconds['wide']:.2f} of it |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Entry point of python -m tests.benchmarks.entropy_grids."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="pictures that were not trained on")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--bundle", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    page = report(Codec.load(given.bundle), given.folder)
    print(page)
    if given.output:
        given.output.write_text(page)


if __name__ == "__main__":
    main()
