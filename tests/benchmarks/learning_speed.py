"""python -m tests.benchmarks.learning_speed PHOTOS [--count 24] [--workers 0 2]: photos a second from an archive.

An archive of the photos is made in a temporary folder. Each way reads all of them twice through a DataLoader with
batch_size None; the second pass counts, so that latents come from their cache where there is one. `PNG` are the
pictures as restore-archive writes them, `source` the photos themselves, both read by Pillow: what a loader without an
archive does. Processor seconds are of this process and its workers.
"""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from codec.support import processors
from tasks.archive.manifest import RunSettings
from tasks.compress.runs import compress
from tasks.learning import ArchivePictures
from tasks.processes.codec_process import Models
from tasks.restore.restore import restore


class Files(Dataset[Tensor]):
    """Image files as tensors uint8 (3, H, W)."""

    def __init__(self, folder: Path) -> None:
        self.files = sorted(path for path in folder.rglob("*") if path.is_file())

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        with Image.open(self.files[index]) as image:
            return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def pace(make: Callable[[], Dataset[Any]], workers: int) -> tuple[float, float]:
    """Photos a second, and processor seconds a photo, of the second pass."""
    seconds = processor = 0.0
    data = make()
    start = "forkserver" if workers else None
    loader = DataLoader(
        data, batch_size=None, num_workers=workers, multiprocessing_context=start, persistent_workers=bool(workers)
    )
    count = 0
    for _ in range(2):
        before = time.perf_counter(), _processor_seconds()
        count = sum(1 for _ in loader)
        seconds, processor = time.perf_counter() - before[0], _processor_seconds() - before[1]
    return count / seconds, processor / count


def _processor_seconds() -> float:
    """Processor seconds of this process and its living children, from /proc."""
    ticks = 0
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:  # ended meanwhile
            continue
        own = int(status.parent.name) == os.getpid()
        if own or _descends(int(fields[1])):
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _descends(process: int) -> bool:
    """Whether a process is this one or comes from it."""
    while process > 1:
        if process == os.getpid():
            return True
        try:
            process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
    return False


def table(photos: Sequence[Path], workers: Sequence[int]) -> str:
    """The table of photos a second."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        (home / "photos").mkdir()
        for photo in photos:
            shutil.copy(photo, home / "photos" / photo.name)
        archive = str(home / "archive")
        compress(str(home / "photos"), archive, RunSettings(metrics=(), verify=False), models=Models("", threads=1))
        restore(archive, str(home / "png"), models=Models("", threads=1))
        cached = partial(ArchivePictures, archive, kind="latents", cache=home / "cache")
        ways: dict[str, Callable[[], Dataset[Any]]] = {
            "pixels": partial(ArchivePictures, archive),
            "latents": partial(ArchivePictures, archive, kind="latents"),
            "latents, cached": cached,
            "PNG": partial(Files, home / "png"),
            "source": partial(Files, home / "photos"),
        }
        lines = ["| way | workers | photos a second | processor seconds a photo |", "|---|---|---|---|"]
        for name, make in ways.items():
            for count in workers:
                rate, processor = pace(make, count)
                lines.append(f"| {name} | {count} | {rate:.1f} | {processor:.3f} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    given = parser.parse_args()
    load = os.getloadavg()[0]
    chosen = sorted(path for path in given.photos.iterdir() if path.is_file())[: given.count]
    print(table(chosen, given.workers))
    print(f"\n{len(chosen)} photos, {processors.available()} processors at a load of {load:.1f} before.")


if __name__ == "__main__":
    main()
