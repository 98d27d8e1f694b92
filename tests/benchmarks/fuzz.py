"""python -m tests.benchmarks.fuzz [--mutations 100000] [--seed 0] [--version 2] [-o FILE]: damaged and hostile files.

Small files of a tiny codec are cut short at every byte, have every bit flipped, and are mutated at random: bytes
changed, inserted, removed, runs repeated, two files spliced; each as it is, and again with the checksum recomputed, as
an attacker would. Others are built by the rules around a mutated stream, with sizes and codes that do not belong to it.
Symbols and chunks are decoded; VAE and U-Net are absent. Every outcome must be a BitstreamError, or symbols and chunks
within the declared limits. Prints the counts by outcome, the longest decode and the peak of Python's memory during one,
and ends with status 1 where anything else happened.
"""

import argparse
import random
import re
import sys
import tempfile
import time
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from codec import BitstreamError, Codec, Picture
from codec.entropy.coder import SYMBOL_LIMIT
from codec.format.bitstream import pack, parse
from codec.format.chunks import to_picture
from codec.format.tags import MetadataBlock
from codec.quantization.parameters import QuantizationParameters
from tests.conftest import synthetic
from tests.support.tiny_bundles import tiny_bundle
from tests.support.version1 import as_version_1

MAX_PIXELS = 2**12
"""The decoder's limit here: hostile sizes above it are refused, those below decode in milliseconds."""
BLOCKS = (MetadataBlock("exIf", b"MM" + bytes(40)),)
NUMBER_OR_TAG = r"""[0-9a-f]{16}|0x[0-9a-f]+|b'.*'(?= at)|b".*"(?= at)|(?<=chunk )(?!ends)[A-Za-z]{4}\b|\d+"""
"""What is left out of an error's message to count it with its like."""
MEASURED_EVERY = 7
"""One file in so many has its memory measured, which doubles its time."""


class Absent:
    """Stands where the backbone was."""

    device = torch.device("cpu")

    def __getattr__(self, name: str) -> None:
        raise RuntimeError(f"the backbone was asked for {name}")


def small_files(codec: Codec) -> list[bytes]:
    """Files of 50 to 400 bytes with all features: gray, chunks, extreme rates, one pixel."""
    alpha = synthetic(13, 21)[..., 0]
    gray = np.repeat(synthetic(9, 15)[..., :1], 3, axis=2)
    pictures = [
        (Picture(synthetic(1, 1)), 8.0),
        (Picture(synthetic(16, 24)), 8.0),
        (Picture(synthetic(24, 16)), 2000.0),
        (Picture(synthetic(24, 32)), 0.01),
        (Picture(gray, gray=True), 30.0),
        (Picture(synthetic(13, 21), alpha=alpha), 4.0),
        (Picture(synthetic(8, 8), icc=bytes(range(60)) * 2, blocks=BLOCKS), 4.0),
    ]
    return [codec.encode(picture, quality=quality).data for picture, quality in pictures]


def systematic(files: list[bytes]) -> Iterator[bytes]:
    """Every truncation and every flipped bit."""
    for data in files:
        for length in range(len(data)):
            yield data[:length]
        for place in range(8 * len(data)):
            flipped = bytearray(data)
            flipped[place // 8] ^= 1 << place % 8
            yield bytes(flipped)


def mutated(files: list[bytes], rng: random.Random) -> bytes:
    """One file with one to six random changes."""
    return changed(rng.choice(files), files, rng)


def changed(original: bytes, files: list[bytes], rng: random.Random) -> bytes:
    data = bytearray(original)
    for _ in range(rng.randint(1, 6)):
        place = rng.randrange(len(data) + 1)
        count = rng.choice((1, 1, 2, 4, 4, 8, 32))  # words of the stream are four bytes
        match rng.randrange(6):
            case 0:
                data[place : place + count] = rng.randbytes(count)
            case 1:
                data[place:place] = rng.randbytes(count)
            case 2:
                del data[place : place + count]
            case 3:
                data[place : place + count] = rng.choice((b"\0", b"\xff", b"\x80", b"\x7f")) * count
            case 4:
                data[place:place] = data[place : place + count] * rng.randint(1, 4)
            case 5:
                other = rng.choice(files)
                data[place:] = other[rng.randrange(len(other)) :]
        data = data or bytearray(b"F")
    return bytes(data)


def built(files: list[bytes], rng: random.Random) -> bytes:
    """A file that is right in form, around a stream that need not fit it."""
    chosen = rng.choice(files)
    file = parse(chosen)
    stream = changed(file.stream, [parse(data).stream for data in files], rng)
    codes = rng.choice((file.parameters.alpha_codes, (rng.randrange(256),), tuple(rng.choices(range(256), k=4))))
    size = rng.choice(((file.width, file.height), (rng.randint(1, 64), rng.randint(1, 64))))
    parameters = QuantizationParameters(codes, rng.randrange(7993))
    stream = stream[: len(stream) // 4 * 4] or bytes(4)
    data = pack(replace(file, width=size[0], height=size[1], parameters=parameters, stream=stream, chunks=()))
    return as_version_1(data) if file.version == 1 else data


def sealed(data: bytes) -> bytes:
    """The same with the checksum that a hostile writer would give it."""
    return data[:-4] + zlib.crc32(data[:-4]).to_bytes(4, "little")


def outcome(codec: Codec, data: bytes) -> str:
    """What became of one file; begins with FAULT where it is none of the allowed."""
    try:
        file = parse(data, max_pixels=MAX_PIXELS)
        symbols = codec.symbols(data, max_pixels=MAX_PIXELS)
        assert file.width * file.height <= MAX_PIXELS, "more pixels than the limit"
        assert symbols.shape == (4, *file.latent_shape), "another shape than declared"
        assert np.abs(symbols).max() <= SYMBOL_LIMIT, "a symbol beyond the limit"
        pixels = np.zeros((file.height, file.width, 3), np.uint8)
        picture = to_picture(file.chunks, pixels, gray=file.gray, orientation=file.orientation, version=file.version)
        assert picture.alpha is None or picture.alpha.shape == (file.height, file.width), "another alpha plane"
    except BitstreamError as error:
        return "refused: " + re.sub(NUMBER_OR_TAG, "#", str(error))[:70]
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a panic of the coder's library is no Exception
        return f"FAULT: {type(error).__name__}: {error}"[:200]
    return "decoded"


def run(
    mutations: int, seed: int, folder: Path, report: dict[str, float] | None = None, *, version: int = 2
) -> Counter[str]:
    """Counts of `mutations` files by outcome, two thirds of them with a right checksum; `report` gets the extremes."""
    codec = Codec.load(tiny_bundle(folder / "bundle"))
    files = small_files(codec)
    if version == 1:
        files = [as_version_1(data) for data in files]
    codec.backbone = Absent()  # type: ignore[assignment]
    assert all(outcome(codec, data) == "decoded" for data in files)
    rng = random.Random(seed)
    outcomes: Counter[str] = Counter()
    longest = 0.0
    peak = 0
    pool = list(systematic(files))
    if len(pool) > mutations // 6:
        pool = rng.sample(pool, mutations // 6)  # the short form of continuous integration
    pool += [mutated(files, rng) for _ in range(mutations // 3 - len(pool))]
    cases = [(damaged, "damaged") for damaged in pool]
    # With a wrong checksum a file is refused before anything else is read, so all come again with a right one.
    cases += [(sealed(damaged), "sealed again") for damaged in pool]
    cases += [(built(files, rng), "built") for _ in range(mutations - len(cases))]
    for place, (data, kind) in enumerate(cases):
        if place % MEASURED_EVERY == 0:
            tracemalloc.start()
        started = time.perf_counter()
        outcomes[f"{kind}, {outcome(codec, data)}"] += 1
        longest = max(longest, time.perf_counter() - started)
        if place % MEASURED_EVERY == 0:
            peak = max(peak, tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    if report is not None:
        report |= {"longest": longest, "peak": float(peak), "files": len(files), "bytes": sum(map(len, files))}
    return outcomes


def main() -> int:
    """Run and report."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("--mutations", type=int, default=100_000)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--version", type=int, choices=(1, 2), default=2)
    options.add_argument("-o", "--output", type=Path)
    arguments = options.parse_args()
    report: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        outcomes = run(arguments.mutations, arguments.seed, Path(scratch), report, version=arguments.version)
    faults = sum(count for name, count in outcomes.items() if "FAULT" in name)
    command = f"python -m tests.benchmarks.fuzz --mutations {arguments.mutations} --seed {arguments.seed}"
    command += f" --version {arguments.version}"
    lines = [
        f"# {sum(outcomes.values())} damaged and hostile files of version {arguments.version}, seed {arguments.seed}",
        "",
        f"`{command}`: {faults} faults.",
        f"From {report['files']:.0f} files of {report['bytes']:.0f} bytes in all; the longest took "
        f"{1000 * report['longest']:.0f} ms; the most that Python and NumPy held for one (every seventh was measured) "
        f"was {report['peak'] / 2**20:.2f} MiB.",
        "",
        "| files | outcome |",
        "|---:|---|",
        *(f"| {count} | {name} |" for name, count in outcomes.most_common()),
    ]
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if arguments.output:
        arguments.output.write_text(text)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
