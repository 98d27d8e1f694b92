"""python -m tests.benchmarks.metrics_speed [--given-back] [--size 512 768]: seconds and page faults of metrics.

The original's features are known already, as when several reconstructions are compared with it; of more than a
megapixel they are not, since it is measured in tiles. With --given-back, freed memory goes back to the system, as it
does outside of evaluations. `--only` names one metric and `--rounds 0` measures once: the peak is then its own. With
`--tiles N` networks see the first N tiles of a picture alone: its peak in a part of its time.
"""

import argparse
import itertools
import resource
import statistics
import time

import numpy as np
import torch

from codec.metrics import tiled
from codec.metrics.names import FIELDS
from codec.metrics.quality import Metrics
from codec.support.malloc import keep_freed_memory

ROUNDS = 5


def main() -> None:
    """Print a table: medians of five reconstructions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--given-back", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--size", type=int, nargs=2, default=(512, 768), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--only", choices=FIELDS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--tiles", type=int)
    given = parser.parse_args()
    if given.tiles:
        every = tiled._tiles
        tiled._tiles = lambda *pictures: itertools.islice(every(*pictures), given.tiles)
    torch.set_num_threads(given.threads)
    if not given.given_back:
        keep_freed_memory(large=True)
    draws = np.random.default_rng(0)
    original = draws.integers(0, 256, (*given.size, 3), np.uint8)
    meters = {
        "PSNR, MS-SSIM, LPIPS (AlexNet)": Metrics("psnr", "ms-ssim", "lpips"),
        "LPIPS (VGG16)": Metrics("lpips-vgg"),
        "the first row and DISTS": Metrics("psnr", "ms-ssim", "lpips", "dists"),
    }
    if given.only:
        meters = {given.only: Metrics(given.only)}
    freed = "given back" if given.given_back else "kept"
    print(f"{given.size[1]} x {given.size[0]}, {given.threads} thread(s), freed memory {freed}\n")
    print("| metrics | processor seconds | page faults | peak so far, GB |\n|---|---|---|---|")
    for name, meter in meters.items():
        seconds = []
        faults = []
        for _ in range(given.rounds + 1):
            decoded = draws.integers(0, 256, original.shape, np.uint8)
            started = time.process_time()
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            meter.measure(original, decoded)
            seconds.append(time.process_time() - started)
            faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        # The first round loads networks and finds the original's features.
        first = 1 if given.rounds else 0
        medians = f"{statistics.median(seconds[first:]):.2f} | {statistics.median(faults[first:]):.0f}"
        print(f"| {name} | {medians} | {peak:.2f} |", flush=True)


if __name__ == "__main__":
    main()
