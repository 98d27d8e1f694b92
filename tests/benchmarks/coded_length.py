"""python -m tests.benchmarks.coded_length BUNDLE FOLDER: what exactness and real streams cost in bits.

For every picture and rate: the stream's bits, the integer model's own cross-entropy (from its tables, with escapes),
and the bits of the float model: the same network without any grid and with Gaussians of any mean and scale. Its weights
are the bundle's, or those of --weights, the entropy.safetensors that training left. Prints sums and ratios by rate.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from codec import Codec, read_image
from codec.entropy.arithmetic import Simulated
from codec.entropy.coder import SymbolEncoder
from codec.entropy.distribution import FRACTIONS, RateConstants
from codec.entropy.entroformer import Entroformer
from codec.entropy.grids import Grid
from codec.entropy.rate import coded_bits, hyper_latent
from codec.entropy.stream import compress, tiles
from codec.entropy.tables import TOTAL, Tables
from codec.images import to_tensor
from codec.quantization.parameters import QuantizationParameters
from codec.quantization.quantizer import alpha_code_of_quality, quantize


class Continuous(Simulated):
    """Arithmetic without grids: numbers are only kept within their limits."""

    def snap(self, x: Tensor, grid: Grid) -> Tensor:
        limit = grid.limit / grid.units
        return x.clamp(-limit, limit)


class Counting(SymbolEncoder):
    """An encoder that also adds up what its tables say that each symbol costs."""

    def __init__(self, tables: Tables) -> None:
        super().__init__(tables)
        self.cross_entropy = 0.0

    def write(self, symbols: NDArray[np.int32], means: NDArray[np.int64], levels: NDArray[np.int64]) -> None:
        super().write(symbols, means, levels)
        whole = means // FRACTIONS
        residuals = symbols - whole
        radii = self.tables.radii[levels]
        escaped = np.abs(residuals) > radii
        entries = np.where(escaped, 2 * radii + 1, residuals + radii)  # the last entry is the escape
        table = levels * FRACTIONS + means - whole * FRACTIONS
        counts = self.tables.counts[self.tables.starts[table] + entries]
        # FORMAT.md, section 2: behind an escape stands a zigzag number in Exp-Golomb bits, 2 n - 1 of them.
        values = np.where(residuals > 0, 2 * (residuals - radii - 1), 2 * (-residuals - radii - 1) + 1)[escaped] + 1
        self.cross_entropy += float(-np.log2(counts / TOTAL).sum() + (2 * np.floor(np.log2(values)) + 1).sum())


@torch.no_grad()
def measure(codec: Codec, model: Entroformer, path: Path, quality: float) -> tuple[int, int, float, float]:
    """Pixels, stream bits, the integer model's cross-entropy, the float model's bits."""
    picture = read_image(path)
    y = codec.backbone.encode(to_tensor(picture.pixels)[None])
    parameters = QuantizationParameters((alpha_code_of_quality(quality, codec.bundle.config.alpha_at_one),), 0)
    codes = parameters.channel_codes
    scaled = parameters.alpha * y
    constants = RateConstants.computed()
    symbols = quantize(scaled, torch.ones(1), codec.dither(y))[0].int().numpy()
    hyper = []
    ideal = 0.0
    for rows, columns in tiles(*y.shape[-2:]):
        tile = scaled[..., rows, columns]
        hyper.append(hyper_latent(codec.encoder, tile, codes, constants)[0].round().int().numpy())
        ideal += float(sum(coded_bits(model, tile, codes, constants, math=Continuous())))
    counting = Counting(codec.tables)
    data = compress(codec.entropy, codec.tables, symbols, hyper, codes, encoder=counting).data
    return picture.width * picture.height, 8 * len(data), counting.cross_entropy, ideal


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--qualities", type=float, nargs="+", default=[0.5, 2.0, 8.0, 32.0])
    given = parser.parse_args()
    codec = Codec.load(given.bundle)
    model = codec.bundle.trainable_entropy()
    if given.weights:
        model.load_state_dict(load_file(given.weights))
    print("| lambda | bpp | stream bits | over cross-entropy | per picture at most | integer over float model |")
    print("|---|---|---|---|---|---|")
    paths = sorted(given.folder.iterdir())
    for quality in given.qualities:
        rows = np.array([measure(codec, model, path, quality) for path in paths])
        pixels, stream, cross_entropy, ideal = rows.sum(0)
        worst = (rows[:, 1] - rows[:, 2]).max()
        print(
            f"| {quality:g} | {stream / pixels:.4f} | {stream:.0f} | {stream / cross_entropy - 1:+.3%} "
            f"| {worst:.0f} bits | {cross_entropy / ideal - 1:+.3%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
