"""What an image costs beside its codec: `python -m tests.benchmarks.pass_through [--few 1000] [--many 100000]`.

The codec only copies; reading, hashing, two child processes, tar, row and commit remain. Seconds an image are the slope
between two sizes of archive, each in a process of its own, so starting processes does not count. Memory is the peak of
that process and of the larger child, as Linux tells it of each (VmHWM); what is told of ended children counts the pages
of the parent they were forked from.
"""

import argparse
import os
import resource
import shutil
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codec.format.content import Content
from codec.images import Picture
from tasks.archive.manifest import RunSettings
from tasks.compress import process_pair
from tasks.compress.runs import compress
from tasks.processes.codec_process import Models
from tests.support.archive_builder import bundle, png
from tests.support.fake_codec import DEFAULT_QUALITY as DEFAULT_QUALITY  # asked of this module by the processes
from tests.support.fake_codec import Encoded, FakeCodec

SETTINGS = RunSettings(quality=1.0, metrics=(), threads=1)


class PassThrough(FakeCodec):
    """A file is the picture's first row of pixels."""

    def encode(self, picture: Picture, **_: Any) -> Encoded:
        row = picture.pixels[0].astype(np.int32)
        return Encoded(picture.pixels[0].tobytes(), _content(row), DEFAULT_QUALITY, 0.0, 0, 0, 0)

    def content(self, data: bytes) -> Content:
        return _content(np.frombuffer(data, np.uint8).reshape(-1, 3).astype(np.int32))


def _content(row: NDArray[np.int32]) -> Content:
    return Content(row, len(row), 1, False, 0, (0,))


def measure(images: int) -> tuple[float, float, float, float]:
    """Wall seconds, processor seconds with all children, peak memory in MB so far, and of the larger child."""
    with tempfile.TemporaryDirectory() as home:
        source = Path(home) / "source"
        for number in range(images):
            path = source / f"{number // 1000:03d}" / f"{number:06d}.png"
            if number % 1000 == 0:
                path.parent.mkdir(parents=True)
            path.write_bytes(png(number, 32, 32))
        models = Models(str(bundle(Path(home) / "bundle")), codec="tests.benchmarks.pass_through:PassThrough")
        started = time.perf_counter()
        used = _processor()
        outcome = compress(str(source), f"{home}/archive", SETTINGS, models=models)
        wall = time.perf_counter() - started
        child = max(_peak(process) for process in _children())
        process_pair.dismiss_all()  # what a child used is told once it has ended
        processor = _processor() - used
        assert outcome.totals["compressed"] == images
        shutil.rmtree(source)
    return wall, processor, _peak("self"), child


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--few", type=int, default=1000)
    options.add_argument("--many", type=int, default=100_000)
    asked = options.parse_args()
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as processes:
        few, many = processes.map(measure, (asked.few, asked.many))
    more = asked.many - asked.few
    print("| images | wall s | processor s | peak MB | larger child, peak MB |\n|---|---|---|---|---|")
    for images, figures in ((asked.few, few), (asked.many, many)):
        print(f"| {images:,} | " + " | ".join(f"{figure:.1f}" for figure in figures) + " |")
    wall = 1000 * (many[0] - few[0]) / more
    processor = 1000 * (many[1] - few[1]) / more
    print(f"\nan image: {wall:.2f} ms wall, {processor:.2f} ms processor")
    print(f"growth of the process: {1024 * (many[2] - few[2]) / more:.2f} KB an image")


def _processor() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _children() -> list[str]:
    parent = str(os.getpid())
    return [path.name for path in Path("/proc").glob("[0-9]*") if _status(path.name).get("PPid") == parent]


def _peak(process: str) -> float:
    return int(_status(process)["VmHWM"].removesuffix(" kB")) / 1024


def _status(process: str) -> dict[str, str]:
    """What Linux tells of a process; nothing once it has ended."""
    found: dict[str, str] = {}
    with suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            found[name] = value.strip()
    return found


if __name__ == "__main__":
    main()
