"""python -m tests.benchmarks.entropy_arms --data TARS --held-out TARS --output FOLDER: what pays?

Trains the entropy model of entropy_arms.toml four times from the same seed: as it is, with each channel conditioned
on those before it, without the hyper-decoder's last block, and in serial order. Prints the bits that each saves on
held-out photos at equal symbols, with the 95 % interval of a paired bootstrap over photos. An arm that is trained
already is only measured.
"""

import argparse
import math
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from codec.bundle import Bundle
from codec.entropy.distribution import RateConstants
from codec.entropy.rate import coded_bits
from codec.evaluation.bd_rate import bootstrap_interval
from codec.images import read_image, to_tensor
from codec.training.__main__ import main as train
from codec.training.data import ShardedImages

SETTINGS = Path(__file__).with_suffix(".toml")
ARMS = {
    "parallel": [],
    "parallel, channels conditioned": ["entropy.channel_conditioning=true"],
    "parallel, without finest attention": ["entropy.finest_attention=false"],
    "serial": ["entropy.order=serial"],
}
ALPHAS = (0.7, 1.4, 2.8)


@torch.no_grad()
def held_out_bits(bundle: Bundle, photos: list[bytes]) -> NDArray[np.float64]:
    """Bits per pixel of latent and hyper-latent under the integer model as simulated, (alphas, photos)."""
    backbone = bundle.load_backbone()
    model = bundle.trainable_entropy()
    constants = RateConstants.computed()
    # As a file states them: 128 is an alpha of one, 32 codes are an octave.
    codes = [round(128 + 32 * math.log2(alpha)) for alpha in ALPHAS]
    rows = []
    for photo in photos:
        picture = read_image(photo)
        y = backbone.encode(to_tensor(picture.pixels)[None])
        row = []
        for code in codes:
            bits = sum(coded_bits(model, 2 ** ((code - 128) / 32) * y, torch.full((1, 4), code), constants))
            row.append(float(bits) / (picture.width * picture.height))
        rows.append(row)
    return np.array(rows).T


def main() -> int:
    """Train what is not trained yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--held-out", required=True, type=Path)
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--steps", type=int, help="instead of the settings' steps")
    parser.add_argument("--photos", type=int, default=40)
    given = parser.parse_args()
    held_out = ShardedImages([given.held_out])
    photos = [held_out.read(i) for i in range(min(given.photos, len(held_out)))]
    found = {}
    for name, overrides in ARMS.items():
        output = given.output / name.replace(", ", "-").replace(" ", "-")
        changes = [*overrides]
        if given.steps:
            changes.append(f"stages.entropy.steps={given.steps}")
        arguments = [str(SETTINGS), "--data", given.data, "--output", str(output)]
        for change in changes:
            arguments += ["--set", change]
        status = train(arguments)
        if status:
            return status
        found[name] = held_out_bits(Bundle.open(output / "bundle"), photos)
    first = found["parallel"]
    print("| arm | " + " | ".join(f"alpha {alpha:g}: bpp | saved (95 %)" for alpha in ALPHAS) + " |")
    print("|---" * (1 + 2 * len(ALPHAS)) + "|")
    for name, bits in found.items():
        cells = []
        for rates, base in zip(bits, first, strict=True):
            saved = 100 * (1 - rates / base)
            low, high = bootstrap_interval(saved)
            cells += [f"{rates.mean():.4f}", f"{saved.mean():+.2f} % ({low:+.2f} to {high:+.2f})"]
        print(f"| {name} | " + " | ".join(cells) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
