"""python -m tests.benchmarks.loss_arms --data TARS --held-out FOLDER --output FOLDER: which terms should the loss have?

Trains the decoder of the embedded default on for some steps, on the same crops with the same draws, once for each arm:
other weights of the terms, another network of LPIPS, and latents as good as unquantized, which makes the decoder
a clean one (for denoising_arms --vae). All arms decode the same symbols, so files are equally large; the table compares
held-out photos decoded by each, with the 95 % interval of a paired bootstrap over photos. An arm that is trained
already is only measured. SSIMULACRA 2, the grid (worst ratio of tests.benchmarks.lattice) and chroma (error of 8x8
means, of Cb and Cr, tests.benchmarks.color) are in no loss as they stand.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codec import Codec, training
from codec.evaluation.bd_rate import bootstrap_interval
from codec.evaluation.experiments import spread
from codec.evaluation.experiments.latents import coded, restored
from codec.metrics.outside import ssimulacra2
from codec.metrics.quality import Metrics
from codec.training.__main__ import main as train
from tests.benchmarks import color, lattice

SETTINGS = Path(training.__file__).parent / "settings" / "mini-decoder.toml"
BASE = "as the settings"
ARMS: dict[str, list[str]] = {
    BASE: [],
    "no grid term": ["lattice=0.0"],
    "no color term": ["color=0.0"],
    "neither grid nor color": ["lattice=0.0", "color=0.0"],
    "DISTS doubled": ["structural=1.2"],
    "no DISTS": ["structural=0.0"],
    "no LPIPS": ["perceptual=0.0"],
    "LPIPS of VGG": ["perceptual_network=vgg"],
    "latents without noise": ["alpha=[48.0, 64.0]"],
    "discriminator": ["adversarial=0.1", "adversarial_from=20"],
}
FIGURES = ("PSNR", "SSIMULACRA 2", "LPIPS alex", "LPIPS vgg", "DISTS", "grid", "chroma")
QUALITIES = (4.0, 16.0)
BRIEF = ("batch_size=4", "crop_size=96", "warmup_steps=10", "ema_decay=0.95")
"""What suits a short training."""


def main() -> int:
    """Train what is not trained yet, and print a table for each lambda."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--held-out", required=True, type=Path, help="a folder of photos")
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--photos", type=int, default=8)
    parser.add_argument("--arm", action="append", choices=[*ARMS], help="may be repeated; all of them without it")
    given = parser.parse_args()
    changed = [f"steps={given.steps}", f"learning_rate={given.learning_rate}", *BRIEF]
    decoders = {"shipped": Codec.load()}
    for name in dict.fromkeys([BASE, *(given.arm or ARMS)]):
        overrides = ARMS[name]
        output = given.output / name.replace(" ", "-")
        arguments = [str(SETTINGS), "--data", given.data, "--output", str(output)]
        for change in (*changed, *overrides):
            arguments += ["--set", f"stages.decoder.{change}"]
        arguments += ["--set", "evaluation_images=0"]
        status = train(arguments)
        if status:
            return status
        decoders[name] = Codec.load(output / "bundle")
    photos = spread(sorted(path for path in given.held_out.iterdir() if path.is_file()), given.photos)
    metrics = Metrics()
    shipped = decoders["shipped"]
    for quality in QUALITIES:
        rates = []
        measured: dict[str, list[tuple[float | None, ...]]] = {}
        for photo in photos:
            file = coded(shipped, photo, quality)
            rates.append(file.bpp)
            steps = shipped.bundle.config.steps
            pixels = [restored(codec, file, file.encoded.timestep, steps) for codec in decoders.values()]
            original = file.picture.pixels
            for name, shown, q in zip(decoders, pixels, metrics.measure_all(original, pixels), strict=True):
                learned = (q.lpips, q.lpips_vgg, q.dists)
                measured.setdefault(name, []).append(
                    (q.psnr_db, ssimulacra2(original, shown), *learned, grid(original, shown), chroma(original, shown))
                )
        print(f"\n{len(photos)} photos, lambda {quality:g}, {np.mean(rates):.3f} bpp, {given.steps} steps an arm\n")
        print("| arm | " + " | ".join(FIGURES) + " |\n" + "|---" * (1 + len(FIGURES)) + "|")
        table = {name: np.array(rows, np.float64) for name, rows in measured.items()}
        for name, values in table.items():
            cells = []
            for column, base in zip(values.T, table[BASE].T, strict=True):
                low, high = bootstrap_interval(column - base)
                interval = "" if name == BASE else f" ({low:+.3f} to {high:+.3f})"
                cells.append(f"{column.mean():.3f}{interval}")
            print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    return 0


def grid(original: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> float:
    """The largest ratio at a period of the decoder's, over directions and frequencies."""
    relative, _ = lattice.measured(lattice.luma(original), lattice.luma(decoded))
    return max(max(values) for values in relative.values())


def chroma(original: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> float:
    """Root mean squared error of the 8x8 means of Cb and Cr, in 8-bit units."""
    return float(np.sqrt(np.square(color.drift(original, decoded)[1:]).mean()))


if __name__ == "__main__":
    sys.exit(main())
