"""python -m tests.benchmarks.rate_targets FOLDER [LAMBDA ...]: does the rate do what it is told, on every picture?

Prints how far each picture's file lies from each target of TARGETS, and where its size fails to grow over the sweep of
lambdas (default: 64 steps of a sixteenth octave, the finest that a file can name). Ends with status 1 where a target is
exceeded, or missed by more than 3 % and 64 bytes, or where a size falls by more than 1 %.
"""

import sys
from itertools import pairwise
from pathlib import Path

from codec import Codec, Picture, read_image
from codec.quantization.parameters import quality_of_code

TARGETS = (0.05, 0.10, 0.15, 0.20, 0.25, 0.30)
SWEEP = tuple(map(quality_of_code, range(64, 129)))


def missed(codec: Codec, picture: Picture) -> bool:
    """Print and judge the file for each target; one beyond the picture's finest bins is only shown."""
    bad = False
    largest = len(codec.encode(picture, quality=1e6).data)
    for target in TARGETS:
        wanted = target * picture.width * picture.height / 8
        size = len(codec.encode_to_bpp(picture, target).data)
        reachable = wanted <= largest
        remark = "" if reachable else ", its largest file"
        print(f"  {target:.2f}: {size} bytes, {size / wanted - 1:+.2%}{remark}")
        bad |= size > wanted or (reachable and size < min(0.97 * wanted, wanted - 64))
    return bad


def falls(codec: Codec, picture: Picture, lambdas: tuple[float, ...]) -> bool:
    """Print where sizes do not grow with lambda and the largest step that they take; judge the falls."""
    sizes = [len(codec.encode(picture, quality=quality).data) for quality in lambdas]
    steps = [after / before - 1 for before, after in pairwise(sizes)]
    drops = [f"{step:+.2%} at lambda {quality:.3g}" for step, quality in zip(steps, lambdas, strict=False) if step < 0]
    print(f"  {sizes[0]} to {sizes[-1]} bytes in {len(steps)} steps of at most {max(steps):+.2%}", *drops, sep="; ")
    return min(steps) < -0.01


def main(folder: str, *lambdas: str) -> int:
    """Check all pictures of a folder with the embedded codec."""
    codec = Codec.load()
    bad = False
    for path in sorted(Path(folder).iterdir()):
        print(path.name, flush=True)
        picture = read_image(path)
        bad |= missed(codec, picture)
        bad |= falls(codec, picture, tuple(map(float, lambdas)) or SWEEP)
    return int(bad)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
