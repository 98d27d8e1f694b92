"""python -m tests.benchmarks.speed FOLDER: seconds to encode and decode a picture, part by part, and peak memory.

Medians over the folder's pictures, pixels in memory to file bytes and back, at lambda 8 after one picture to warm up.
--batch N codes N pictures of one size together (seconds are for one of them), --contiguous, --bfloat16 and --compile
change how the float networks compute: choices that are measured here before they become a default.
"""

import argparse
import itertools
import resource
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from codec import Codec, Picture, read_image
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


def prepare(codec: Codec, *, contiguous: bool, bfloat16: bool, compiled: bool) -> None:
    """Put the backbone's networks into another memory format or precision, or compile them."""
    backbone = codec.backbone
    if bfloat16:
        autocast = torch.autocast("cpu", torch.bfloat16)
        for owner, method in ((backbone, "predict_noise"), *((backbone.autoencoder, m) for m in ("encode", "decode"))):
            setattr(owner, method, autocast(getattr(owner, method)))
    if contiguous:
        backbone.autoencoder.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        backbone.unet.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    if compiled:
        for network in (backbone.autoencoder.encoder, backbone.autoencoder.decoder, backbone.unet):
            network.compile()


def batches(paths: list[Path], size: int) -> Iterator[list[Picture]]:
    """The first batch, to warm up, then all: consecutive pictures of one size, at most `size` together."""
    pictures = [read_image(path) for path in paths]
    alike = [list(group) for _, group in itertools.groupby(pictures, lambda picture: picture.pixels.shape)]
    found = [group[start : start + size] for group in alike for start in range(0, len(group), size)]
    yield found[0]
    yield from found


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--count", type=int)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--contiguous", action="store_true")
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--compile", action="store_true")
    given = parser.parse_args()
    codec = Codec.load(*[given.bundle] if given.bundle else [])
    prepare(codec, contiguous=given.contiguous, bfloat16=given.bfloat16, compiled=given.compile)
    watch, rows = Parts(codec), defaultdict(list)
    paths = sorted(given.folder.iterdir())[: given.count]
    for place, pictures in enumerate(batches(paths, given.batch)):
        start = time.perf_counter()
        files = [encoded.data for encoded in codec.encode_all(pictures, quality=DEFAULT_QUALITY)]
        taken = {"encode": watch.taken(start)}
        start = time.perf_counter()
        codec.decode_all(files)
        taken["decode"] = watch.taken(start)
        if place:
            for name, parts in taken.items():
                for part, seconds in parts.items():
                    rows[name, part].append(seconds / len(pictures))
    chosen = [name for name in ("contiguous", "bfloat16", "compile") if getattr(given, name)]
    print(
        f"{len(paths)} pictures of {given.folder.name}, {given.batch} at a time, lambda {DEFAULT_QUALITY:g}, "
        f"{torch.get_num_threads()} thread(s){''.join(f', {name}' for name in chosen)}"
    )
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB\n")
    print("| | part | median (s) |\n|---|---|---|")
    for (name, part), seconds_of in rows.items():
        print(f"| {name} | {part} | {statistics.median(seconds_of):.3f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
