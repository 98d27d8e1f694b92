"""python -m tests.benchmarks.archive_cost PHOTOS [--count 3] [--metrics NAME ...]: what compress-archive computes.

Processor seconds a megapixel on one thread, models loaded, of what a shard's two processes do with each photo: encoding
with metrics, encoding without, and verifying. The processes' own functions are called here, in turn for each photo,
after one photo that does not count. Costly metrics are measured of all photos here; a sample of 0.02 bears its share.
"""

import argparse
import os
import time
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch

from codec.metrics.names import COSTLY, DEFAULT, FIELDS
from tasks.archive.manifest import RunSettings
from tasks.processes import encode_worker, verify_worker
from tasks.processes.requests import Encode, Verify

MODELS = {"bundle": "", "device": "cpu", "backbone": "", "codec": "codec.codec:Codec"}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=3)
    parser.add_argument("--metrics", nargs="+", default=list(DEFAULT), choices=FIELDS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    settings = RunSettings(quality=8.0)
    _, encode = encode_worker._prepare(Namespace(metrics=given.metrics, **MODELS))
    _, verify = verify_worker._prepare(Namespace(**MODELS))
    names = ("quality", "target_bpp", "min_psnr_db", "max_lpips", "metadata", "verify", "discard")
    asked = {name: getattr(settings, name) for name in names}
    # A metric's own cost is a difference, since it needs the decoded pixels, which PSNR alone needs too.
    others = [name for name in given.metrics if name != "psnr"]
    groups: list[list[str]] = [[], ["psnr"], *(["psnr", name] for name in others)]
    rows = []
    for photo in sorted(given.folder.iterdir())[: given.count + 1]:
        source = photo.read_bytes()
        seconds = []
        for metrics in groups:
            started = time.process_time()
            answer, data = encode(Encode(**asked, metrics=metrics).header(), source)
            seconds.append(time.process_time() - started)
        started = time.process_time()
        verify(Verify().header(), data)
        seconds.append(time.process_time() - started)
        rows.append(np.array(seconds) / (answer["width"] * answer["height"] / 1e6))
    # The first photo fills caches, and does not count.
    alone, with_psnr, *with_others, verified = np.median(rows[1:], axis=0)
    parts = {"encoding": alone, "verification": verified, "pixels and PSNR": with_psnr - alone}
    for name, seconds_with in zip(others, with_others, strict=True):
        parts[name] = seconds_with - with_psnr
    total = 0.0
    for name, value in parts.items():
        total += value * settings.metrics_sample if name in COSTLY else value
    print(f"{given.count} photos, one thread, load average {load:.1f} beforehand\n")
    print("| part | processor seconds a megapixel | of the sample |\n|---|---|---|")
    for name, value in parts.items():
        share = f"{value * settings.metrics_sample:.2f}" if name in COSTLY else ""
        print(f"| {name} | {value:.2f} | {share} |")
    print(f"| all | {total:.2f} | |")


if __name__ == "__main__":
    main()
