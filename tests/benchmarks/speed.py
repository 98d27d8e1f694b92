"""python -m tests.benchmarks.speed FOLDER: seconds to encode and decode a picture, part by part, and peak memory.

Medians over the folder's pictures, pixels in memory to file bytes and back, at lambda 8 after one picture to warm up.
"""

import argparse
import resource
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from codec import Codec, read_image
from codec.codec import DEFAULT_QUALITY


class Parts:
    """Adds up the seconds of a loaded codec's networks, by name."""

    def __init__(self, codec: Codec) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.watch(codec.backbone.autoencoder, "encode", "VAE encoder")
        self.watch(codec.backbone.autoencoder, "decode", "VAE decoder")
        self.watch(codec.backbone, "predict_noise", "U-Net")
        for method in ("prior", "hyper", "context", "parameters"):
            self.watch(codec.entropy, method, "entropy network")

    def watch(self, owner: Any, method: str, name: str) -> None:
        """Put a stopwatch around a method."""
        function = getattr(owner, method)

        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = function(*args, **kwargs)
            self.seconds[name] += time.perf_counter() - start
            return result

        setattr(owner, method, call)

    def taken(self, start: float) -> dict[str, float]:
        """Seconds since start, in all and by part; starts anew."""
        whole = time.perf_counter() - start
        parts = {"whole": whole, **self.seconds, "other": whole - sum(self.seconds.values())}
        self.seconds.clear()
        return parts


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--count", type=int)
    given = parser.parse_args()
    codec = Codec.load(*[given.bundle] if given.bundle else [])
    watch, rows = Parts(codec), defaultdict(list)
    paths = sorted(given.folder.iterdir())[: given.count]
    for place, path in enumerate([paths[0], *paths]):
        picture = read_image(path)
        start = time.perf_counter()
        data = codec.encode(picture, quality=DEFAULT_QUALITY).data
        taken = {"encode": watch.taken(start)}
        start = time.perf_counter()
        codec.decode(data)
        taken["decode"] = watch.taken(start)
        if place:
            for name, parts in taken.items():
                for part, seconds in parts.items():
                    rows[name, part].append(seconds)
    print(
        f"{len(paths)} pictures of {given.folder.name}, lambda {DEFAULT_QUALITY:g}, {torch.get_num_threads()} thread(s)"
    )
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB\n")
    print("| | part | median (s) |\n|---|---|---|")
    for (name, part), seconds_of in rows.items():
        print(f"| {name} | {part} | {statistics.median(seconds_of):.3f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
