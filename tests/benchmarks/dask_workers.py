"""python -m tests.benchmarks.dask_workers: two Dask workers against two processes that know nothing of each other.

Both sides encode the same planned shards with the embedded codec, one computing thread a process, in turn. Planning and
all starts are left out, of the cluster, of Prefect's server, of interpreters and models: each side has encoded a few
pictures before. Wall seconds say what one waits, processor seconds what it costs, also where other work shares the
machine. Medians of the rounds.
"""

import argparse
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import dask
import distributed
import psutil
import skimage.data
from PIL import Image
from prefect.settings import PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS, temporary_settings

from flows import mapping
from flows.cluster import CALM
from tasks.archive import log
from tasks.archive.manifest import RunSettings
from tasks.archive.opening import create
from tasks.compress.runs import plan_run
from tasks.compress.shard import CompressionJob, encode_shard
from tasks.processes.codec_process import Models
from tasks.progress import SILENT
from tasks.sources.source import open_source
from tasks.storage.store import Store

WORKERS = 2
WANTED = 0.95


@dataclass(frozen=True)
class Figure:
    """Seconds that one side took."""

    wall: float
    processor: float


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--pictures", type=int, default=128)
    options.add_argument("--side", type=int, default=256, help="pixels")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--per-shard", type=int, default=32, help="pictures; 2000 in an archive of default settings")
    options.add_argument(
        "--alone", nargs=3, metavar=("FEW", "ARCHIVE", "REMAINDER"), help="work off halves when told to"
    )
    arguments = options.parse_args()
    if arguments.alone:
        few, archive, half = arguments.alone
        work_alone(CompressionJob(few, 1), CompressionJob(archive, 1), int(half))
        return
    with tempfile.TemporaryDirectory() as scratch:
        photos = Path(scratch) / "photos"
        few = Path(scratch) / "few"
        pictures(photos, arguments.pictures, arguments.side)
        pictures(few, 4 * WORKERS, arguments.side)
        measures = {"two independent processes": two_processes, "two Dask workers": two_workers}
        figures: dict[str, list[Figure]] = {name: [] for name in measures}
        for turn, (name, measure) in itertools.product(range(arguments.rounds), measures.items()):
            # Archives of their own each time: a side that met a finished run would have nothing to do.
            warming = planned(few, f"{few}-{turn}-{name}", 1)
            job = planned(photos, f"{photos}-{turn}-{name}", arguments.per_shard)
            figures[name].append(measure(warming, job))
    print("| | wall seconds | pictures a second | processor seconds a picture |\n|---|---|---|---|")
    for name, rounds in figures.items():
        wall = statistics.median(each.wall for each in rounds)
        processor = statistics.median(each.processor for each in rounds)
        print(f"| {name} | {wall:.1f} | {arguments.pictures / wall:.2f} | {processor / arguments.pictures:.2f} |")
    pairs = list(zip(*figures.values(), strict=True))
    print(f"\nDask reaches {_median_ratio(pairs, 'wall'):.2f} of the rate, wanted {WANTED}; ", end="")
    print(f"of what a picture costs in processor time, {_median_ratio(pairs, 'processor'):.2f}.")


def _median_ratio(pairs: list[tuple[Figure, ...]], what: str) -> float:
    return float(statistics.median(getattr(alone, what) / getattr(dask, what) for alone, dask in pairs))


def pictures(folder: Path, count: int, side: int) -> None:
    """Crops of one photo, each another one."""
    photo = skimage.data.astronaut()
    folder.mkdir()
    for number in range(count):
        row = (number * 7) % (512 - side + 1)
        column = (number * 13) % (512 - side + 1)
        Image.fromarray(photo[row:, column:][:side, :side]).save(folder / f"{number:04}.png")


def planned(photos: Path, url: str, per_shard: int) -> CompressionJob:
    """An archive with an open run of which nothing is done."""
    archive = Store(url)
    create(archive)
    settings = RunSettings(max_images_per_shard=per_shard, metrics=(), threads=1)
    run = plan_run(open_source(str(photos)), archive, settings, Models(""))
    assert run == 1
    return CompressionJob(archive.url, run)


def shards(job: CompressionJob) -> int:
    archive = Store(job.archive)
    return len(log.plan(archive, log.read(archive), job.run).shards)


def two_processes(warming: CompressionJob, job: CompressionJob) -> Figure:
    """Each takes every second shard, and neither knows of the other."""
    command = [sys.executable, "-m", "tests.benchmarks.dask_workers", "--alone", warming.archive, job.archive]
    workers = [
        subprocess.Popen([*command, str(half)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for half in range(WORKERS)
    ]
    for worker in workers:
        assert worker.stdout is not None and worker.stdout.readline() == b"ready\n"

    def work() -> None:
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write(b"go\n")
            worker.stdin.flush()
        for worker in workers:
            assert worker.stdout is not None and worker.stdout.readline() == b"done\n"

    figure = measured(work)
    for worker in workers:
        worker.communicate()
    return figure


def work_alone(warming: CompressionJob, job: CompressionJob, half: int) -> None:
    half_of(warming, half)
    print("ready", flush=True)
    sys.stdin.readline()
    half_of(job, half)
    print("done", flush=True)
    sys.stdin.readline()  # alive until it was measured: seconds of an ended child are not found any more


def half_of(job: CompressionJob, half: int) -> None:
    for shard in range(half, shards(job), WORKERS):
        encode_shard(job, shard)


def two_workers(warming: CompressionJob, job: CompressionJob) -> Figure:
    """The flow's own map, on a cluster that is there already."""
    patient = temporary_settings({PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: 300})
    with dask.config.set(CALM):
        cluster = distributed.LocalCluster(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None)
    with patient, cluster, distributed.Client(cluster, set_as_default=False) as client:
        client.run(__import__, "flows.mapping")
        with mapping.engine("dask", WORKERS, address=cluster.scheduler_address) as (count, runner):
            shard_map = mapping.shard_map.with_options(task_runner=runner)
            shard_map(warming, shards(warming), count, SILENT)
            return measured(lambda: shard_map(job, shards(job), count, SILENT))


def measured(work: Callable[[], object]) -> Figure:
    """What the work takes, in this process and all that it started."""
    started = time.perf_counter()
    used = processor_seconds()
    work()
    return Figure(time.perf_counter() - started, processor_seconds() - used)


def processor_seconds() -> float:
    this = psutil.Process()
    total = 0.0
    for process in (this, *this.children(recursive=True)):
        # User and system, its own and those of its children that have ended.
        total += sum(process.cpu_times()[:4])
    return total


if __name__ == "__main__":
    main()
