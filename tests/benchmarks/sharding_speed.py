"""Photos a second that shard-images packs: `python -m tests.benchmarks.sharding_speed [--photos 600] [--workers 2]`.

Generated JPEG photos of half a megapixel (864x576, quality 90) on local disk, with and without decoding each whole to
find truncation. Processor seconds tell what a machine with free cores reaches.
"""

import argparse
import io
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from unittest import mock

from PIL import Image

from tasks import dataset
from tests.conftest import synthetic

STAND_IN = ("JPEG", 864, 576)


def make_photos(folder: Path, photos: int) -> None:
    """So many files; eight pictures in turn, each file with other bytes at its end."""
    folder.mkdir()
    pictures = []
    for seed in range(8):
        buffer = io.BytesIO()
        Image.fromarray(synthetic(576, 864, seed)).save(buffer, "JPEG", quality=90)
        pictures.append(buffer.getvalue())
    for number in range(photos):
        (folder / f"{number:06d}.jpg").write_bytes(pictures[number % 8] + number.to_bytes(4, "little"))


def rate(source: Path, target: Path, photos: int, workers: int) -> tuple[float, float]:
    """Photos a second by the clock, and by processor time on two cores that had nothing else to do."""

    def on_threads(job: dataset.ShardingJob) -> list[int]:
        with ThreadPoolExecutor(workers) as threads:
            return list(threads.map(partial(dataset.pack_shard, job), range(job.shards)))

    wall = time.perf_counter()
    processor = time.process_time()
    settings = dataset.ShardingSettings(max_images_per_shard=max(1, photos // (2 * workers)))
    totals = dataset.pack(str(source), str(target), settings, shard_map=on_threads)
    assert totals["photos"] == photos
    return photos / (time.perf_counter() - wall), 2 * photos / (time.process_time() - processor)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--photos", type=int, default=600)
    options.add_argument("--workers", type=int, default=2)
    asked = options.parse_args()
    print("| decode check | photos/s by the clock | photos/s on two free cores, by processor time |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as home:
        source = Path(home) / "source"
        make_photos(source, asked.photos)
        make_photos(Path(home) / "one", 1)
        rate(Path(home) / "one", Path(home) / "warm", 1, 1)  # loads what is loaded once
        for check in ("with", "without"):
            undecoded = mock.patch.object(dataset, "check_source", return_value=STAND_IN)
            with undecoded if check == "without" else nullcontext():
                clock, free = rate(source, Path(home) / check, asked.photos, asked.workers)
            print(f"| {check} | {clock:.0f} | {free:.0f} |", flush=True)


if __name__ == "__main__":
    main()
