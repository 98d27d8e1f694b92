"""python -m tests.benchmarks.busy PHOTOS [--count 3] [--rounds 3]: what a busy machine costs.

Encoding, decoding and an archive of some photos beside 0, 1 and 2 processes that do nothing but compute, with threads
that wait asleep, the default, and with threads that spin. Rounds go through all cases in turn, so that a machine whose
load drifts changes all of them; medians over rounds. Processor seconds are those of the measured processes alone. The
fair share is the wall time that the processor seconds of 0 busy processes take on cores shared evenly with the busy
threads; what else the machine does is not in it.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from codec.support import processors
from codec.support.waiting import PASSIVE

WAITING = {"asleep": dict(PASSIVE), "spinning": {"OMP_WAIT_POLICY": "active"}}
Seconds = tuple[float, float]
"""Processor and wall."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=3, help="photos")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--codec-only", action="store_true", help="no archive")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(sorted(given.folder.iterdir())[: given.count], given.codec_only)))
        return
    cores = processors.available()
    load = os.getloadavg()[0]
    found: dict[tuple[str, str, int], list[Seconds]] = {}
    for _ in range(given.rounds):
        for busy in (0, 1, 2):
            for name, waiting in WAITING.items():
                with busy_processes(busy):
                    for what, seconds in _measured(given, waiting).items():
                        found.setdefault((what, name, busy), []).append(seconds)
    print(f"{given.count} photos, {given.rounds} rounds, {cores} cores, load average {load:.1f} beforehand\n")
    print("| | threads wait | busy processes | processor seconds | of idle | wall seconds | of the fair share |")
    print("|---|---|---|---|---|---|---|")
    for (what, name, busy), rows in sorted(found.items()):
        processor, wall = map(statistics.median, zip(*rows, strict=True))
        idle = statistics.median(seconds for seconds, _ in found[what, name, 0])
        share = min(cores, cores * cores / (cores + busy))
        cells = f"{processor:.2f} | {processor / idle:.2f} | {wall:.2f} | {wall / (idle / share):.2f}"
        print(f"| {what} | {name} | {busy} | {cells} |", flush=True)


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """So many processes that compute without a pause."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def _measured(given: argparse.Namespace, waiting: dict[str, str]) -> dict[str, Seconds]:
    # The caller's own settings of these would make all cases the same.
    environment = {name: value for name, value in os.environ.items() if name not in (*PASSIVE, "OMP_NUM_THREADS")}
    command = [
        sys.executable,
        "-m",
        "tests.benchmarks.busy",
        str(given.folder),
        "--count",
        str(given.count),
        "--measure",
    ]
    if given.codec_only:
        command.append("--codec-only")
    done = subprocess.run(command, env=environment | waiting, stdout=subprocess.PIPE, check=True, text=True)
    return {what: tuple(seconds) for what, seconds in json.loads(done.stdout.splitlines()[-1]).items()}


def measure(photos: list[Path], codec_only: bool) -> dict[str, Seconds]:
    """Seconds of all photos together; of an archive with the seconds that its workers take to load their models."""
    from codec import Codec, read_image

    codec = Codec.load()
    pictures = [read_image(photo) for photo in photos]
    codec.decode(codec.encode(pictures[0]).data)  # warms up
    files: list[bytes] = []

    def encode() -> None:
        for picture in pictures:
            files.append(codec.encode(picture).data)

    def decode() -> None:
        for file in files:
            codec.decode(file)

    seconds = {"encode": timed(encode), "decode": timed(decode)}
    if not codec_only:
        # Its work is done in children, which have ended when it returns.
        seconds["archive, metrics on"] = timed(partial(archive, photos), whose=resource.RUSAGE_CHILDREN)
    return seconds


def archive(photos: list[Path]) -> None:
    """As compress-archive does by default: as many workers as cores, each with a thread, a shard each."""
    from tasks.archive.manifest import RunSettings
    from tasks.archive.report import Totals
    from tasks.compress import process_pair
    from tasks.compress.runs import compress
    from tasks.compress.shard import CompressionJob, encode_shard

    workers = processors.available()
    with tempfile.TemporaryDirectory() as home, ThreadPoolExecutor(workers) as pool:
        source = Path(home) / "photos"
        source.mkdir()
        for photo in photos:
            (source / photo.name).symlink_to(photo)
        settings = RunSettings(max_images_per_shard=-(-len(photos) // workers))

        def on_threads(job: CompressionJob, shards: int) -> Iterator[Totals]:
            return pool.map(partial(encode_shard, job), range(shards))

        try:
            compress(str(source), f"{home}/archive", settings, shard_map=on_threads)
        finally:
            process_pair.dismiss_all()  # their processor seconds count when they have ended


def timed(work: Callable[[], object], whose: int = resource.RUSAGE_SELF) -> Seconds:
    """Processor seconds of this process, or of its children, and wall seconds."""
    before = resource.getrusage(whose)
    started = time.perf_counter()
    work()
    wall = time.perf_counter() - started
    after = resource.getrusage(whose)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


if __name__ == "__main__":
    main()
