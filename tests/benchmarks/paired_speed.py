"""python -m tests.benchmarks.paired_speed PHOTOS CHECKOUT [--count 12] [--rounds 2]: our time against another commit's.

CHECKOUT is a working tree of that commit. Each photo, as a JPEG of quality 90 with nothing beside its pixels, is read
and encoded, and decoded again, by one process of each tree in turn, on one thread. Prints the ratio of processor
seconds, this tree to the other: medians and quartiles over the pairs, which hold on a busy machine too.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

WORKER = """
import sys, time
from pathlib import Path
from codec import Codec
codec = Codec.load()
try:
    from codec.containers.reading import read_source
    read = lambda data: read_source(data).picture
except ImportError:  # before version 0.2
    from codec.images import read_image as read
print("ready", flush=True)
for line in sys.stdin:
    verb, source, target = line.rstrip("\\n").split("\\t")
    data = Path(source).read_bytes()
    began = time.process_time()
    result = codec.encode(read(data)).data if verb == "encode" else codec.decode_picture(data)
    took = time.process_time() - began
    if verb == "encode":
        Path(target).write_bytes(result)
    print(took, flush=True)
"""
HERE = Path(__file__).parents[2]


class Tree:
    """A process that encodes and decodes with the code of one working tree."""

    def __init__(self, root: Path, home: Path, name: str) -> None:
        self._home = home
        self._name = name
        environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", WORKER], cwd=root, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"the process of {self._name} ended")
        return line

    def seconds(self, verb: str, photo: Path) -> float:
        """Processor seconds to encode a photo, or to decode what this tree made of it."""
        coded = self._home / f"{photo.stem}.{self._name}.fdc"
        source = photo if verb == "encode" else coded
        assert self._process.stdin is not None
        self._process.stdin.write(f"{verb}\t{source}\t{coded}\n")
        self._process.stdin.flush()
        return float(self._line())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        photos = []
        for path in sorted(arguments.photos.rglob("*.png"))[: arguments.count]:
            photos.append(home / f"{path.stem}.jpg")
            Image.open(path).convert("RGB").save(photos[-1], quality=90)
        trees = [Tree(HERE, home, "this"), Tree(arguments.checkout.resolve(), home, "other")]
        for tree in trees:
            for verb in ("encode", "decode"):
                tree.seconds(verb, photos[0])  # warms up
        ratios: dict[str, list[float]] = {"encode": [], "decode": []}
        for number in range(arguments.rounds * len(photos)):
            # Neither tree always comes first, when the machine may have been busier.
            order = trees if number % 2 else trees[::-1]
            for verb, found in ratios.items():
                took = {id(tree): tree.seconds(verb, photos[number % len(photos)]) for tree in order}
                found.append(took[id(trees[0])] / took[id(trees[1])])
    print("| | pairs | lower quartile | median | upper quartile |\n|---|---|---|---|---|")
    for verb, found in ratios.items():
        low, middle, high = statistics.quantiles(found, n=4)
        print(f"| {verb} | {len(found)} | {low:.3f} | {middle:.3f} | {high:.3f} |")


if __name__ == "__main__":
    main()
