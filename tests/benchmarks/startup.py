"""python -m tests.benchmarks.startup [--rounds 5] [--flows]: processor seconds of a command before its first pixel.

A picture of 16 x 16 is encoded and decoded in processes of their own, in turn with one that imports torch and does
nothing else; `beyond torch` is the difference of medians. With a fresh memory of known answers, and with one. Encoding
and decoding the picture itself is in it, about 0.05 s. With --flows also compress-archive of the picture, with
Prefect's temporary server and with --direct: wall seconds, since a server waits more than it computes, until the first
picture lies in the archive, verified, and until the command ends.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from codec.support import processors

TORCH = [sys.executable, "-c", "import torch"]
FDC = [sys.executable, "-c", "from codec.cli import main; main()"]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--flows", action="store_true")
    given = parser.parse_args()
    load = os.getloadavg()[0]
    print(f"{given.rounds} rounds, {processors.available()} cores, load average {load:.1f} beforehand\n")
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        source = home / "photos" / "in.ppm"
        source.parent.mkdir()
        source.write_bytes(b"P6 16 16 255\n" + bytes(range(256)) * 3)
        show(commands(home, source, given.rounds))
        if given.flows:
            print("\n| flow | first picture stored, wall seconds | end, wall seconds | processor seconds |")
            print("|---|---|---|---|")
            for how in ([], ["--direct"]):
                seconds = [flow(home, number, how) for number in range(given.rounds)]
                cells = " | ".join(f"{statistics.median(column):.2f}" for column in zip(*seconds, strict=True))
                print(f"| compress-archive {' '.join(how)} | {cells} |", flush=True)


def commands(home: Path, source: Path, rounds: int) -> dict[str, list[float]]:
    """Processor seconds of each command in each round."""
    coded = home / "out.fdc"
    fresh = home / "fresh"
    warm = home / "warm"
    encode = ["encode", str(source), "-o", str(coded), "--overwrite"]
    decode = ["decode", str(coded), "-o", str(home / "out.png"), "--overwrite"]
    found: dict[str, list[float]] = {}
    for _ in range(rounds + 1):
        found.setdefault("import torch", []).append(run(TORCH, fresh)[0])
        for name, command in {"fdc encode": encode, "fdc decode": decode}.items():
            for memory in fresh, warm:
                for file in fresh.rglob("*"):
                    if file.is_file():
                        file.unlink()
                how = "answer computed" if memory is fresh else "answer remembered"
                found.setdefault(f"{name}, {how}", []).append(run([*FDC, *command], memory)[0])
    return {name: seconds[1:] for name, seconds in found.items()}  # the first round fills the caches


def show(found: dict[str, list[float]]) -> None:
    """The table of commands."""
    torch = statistics.median(found["import torch"])
    print("| command | processor seconds | beyond torch |\n|---|---|---|")
    for name, seconds in found.items():
        median = statistics.median(seconds)
        print(f"| {name} | {median:.2f} | {median - torch:.2f} |", flush=True)


def flow(home: Path, number: int, how: list[str]) -> tuple[float, float, float]:
    """Wall seconds until the first picture is stored and until the end, and processor seconds, of compress-archive."""
    archive = home / f"archive-{number}-{'-'.join(how)}"
    command = [sys.executable, "-m", "flows.compress_archive", str(home / "photos"), str(archive), "--metrics", "none"]
    before = processor_seconds()
    started = time.perf_counter()
    with subprocess.Popen([*command, *how], stdout=subprocess.DEVNULL, env=environment(home / "warm")) as process:
        # A tar is published once its pictures are verified.
        while process.poll() is None and not any(archive.glob("runs/*/shards/*.tar")):
            time.sleep(0.02)
        stored = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(f"{command} failed")
    return stored, time.perf_counter() - started, processor_seconds() - before


def run(command: list[str], memory: Path) -> tuple[float, float]:
    """Processor seconds, those of its children included, and wall seconds of a command."""
    before = processor_seconds()
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment(memory))
    return processor_seconds() - before, time.perf_counter() - started


def environment(memory: Path) -> dict[str, str]:
    """The environment of a command, with its cache in `memory`."""
    return {**os.environ, "XDG_CACHE_HOME": str(memory)}


def processor_seconds() -> float:
    """Of the children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
