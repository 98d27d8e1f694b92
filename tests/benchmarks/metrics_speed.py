"""python -m tests.benchmarks.metrics_speed [--given-back]: seconds and page faults of each metric at 768 x 512.

The original's features are known already, as when several reconstructions are compared with it. With --given-back,
freed memory goes back to the system, as it does outside of evaluations.
"""

import argparse
import resource
import statistics
import time

import numpy as np
import torch

from codec.metrics.quality import Metrics
from codec.support.malloc import keep_freed_memory

ROUNDS = 5


def main() -> None:
    """Print a table: medians of five reconstructions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--given-back", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if not given.given_back:
        keep_freed_memory(large=True)
    draws = np.random.default_rng(0)
    original = draws.integers(0, 256, (512, 768, 3), np.uint8)
    meters = {
        "PSNR, MS-SSIM, LPIPS (AlexNet)": Metrics("psnr", "ms-ssim", "lpips"),
        "LPIPS (VGG16)": Metrics("lpips-vgg"),
        "the first row and DISTS": Metrics("psnr", "ms-ssim", "lpips", "dists"),
    }
    print(f"{given.threads} thread(s), freed memory {'given back' if given.given_back else 'kept'}\n")
    print("| metrics | seconds | page faults |\n|---|---|---|")
    for name, meter in meters.items():
        seconds, faults = [], []
        for _ in range(ROUNDS + 1):
            decoded = draws.integers(0, 256, original.shape, np.uint8)
            started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            meter.measure(original, decoded)
            seconds.append(time.perf_counter() - started)
            faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
        print(f"| {name} | {statistics.median(seconds[1:]):.2f} | {statistics.median(faults[1:]):.0f} |", flush=True)


if __name__ == "__main__":
    main()
