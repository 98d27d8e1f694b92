"""python -m tests.benchmarks.dask_workers: two Dask workers against two processes that know nothing of each other.

Both sides encode the same planned shards with the embedded codec, one computing thread a process; the start of the
cluster, of the interpreters and the planning are left out, loading models is in. Wall seconds say what one waits,
processor seconds what it costs, also where other work shares the machine.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import distributed
import psutil
import skimage.data
from PIL import Image
from prefect.settings import PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS, temporary_settings

from flows import mapping
from tasks import manifest
from tasks.archive import create, plan_run
from tasks.manifest import Settings
from tasks.models import Models
from tasks.progress import SILENT
from tasks.shard import Job, encode_shard
from tasks.storage import Store

WORKERS = 2
PER_SHARD = 4
WANTED = 0.95


@dataclass(frozen=True)
class Figure:
    """Seconds that one side took."""

    wall: float
    processor: float


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--pictures", type=int, default=96)
    options.add_argument("--side", type=int, default=256, help="pixels")
    options.add_argument("--alone", nargs=2, metavar=("ARCHIVE", "REMAINDER"), help="work off a half when told to")
    arguments = options.parse_args()
    if arguments.alone:
        work_alone(arguments.alone[0], int(arguments.alone[1]))
        return
    with tempfile.TemporaryDirectory() as scratch:
        pictures(Path(scratch) / "photos", arguments.pictures, arguments.side)
        independent = two_processes(planned(Path(scratch), "independent"))
        dask = two_workers(planned(Path(scratch), "dask"))
    print("| | wall seconds | pictures a second | processor seconds a picture |\n|---|---|---|---|")
    for name, figure in (("two independent processes", independent), ("two Dask workers", dask)):
        rate, cost = arguments.pictures / figure.wall, figure.processor / arguments.pictures
        print(f"| {name} | {figure.wall:.1f} | {rate:.2f} | {cost:.2f} |")
    print(f"\nDask reaches {independent.wall / dask.wall:.2f} of the rate, wanted {WANTED}; ", end="")
    print(f"of what a picture costs in processor time, {independent.processor / dask.processor:.2f}.")


def pictures(folder: Path, count: int, side: int) -> None:
    """Crops of one photo, each another one."""
    photo = skimage.data.astronaut()
    folder.mkdir()
    for number in range(count):
        row, column = (number * 7) % (512 - side + 1), (number * 13) % (512 - side + 1)
        Image.fromarray(photo[row:, column:][:side, :side]).save(folder / f"{number:04}.png")


def planned(scratch: Path, name: str) -> Job:
    """An archive with an open run of which nothing is done."""
    archive = Store(str(scratch / name))
    create(archive)
    settings = Settings(max_images_per_shard=PER_SHARD, metrics=False, threads=1)
    run = plan_run(Store(str(scratch / "photos")), archive, settings, Models(""))
    assert run == 1
    return Job(archive.url, run)


def shards(job: Job) -> int:
    return len(manifest.read(Store(job.archive), job.run).shards)


def two_processes(job: Job) -> Figure:
    """Each takes every second shard, and neither knows of the other."""
    command = [sys.executable, "-m", "tests.benchmarks.dask_workers", "--alone", job.archive]
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


def work_alone(archive: str, remainder: int) -> None:
    job = Job(archive, 1)
    print("ready", flush=True)
    sys.stdin.readline()
    for shard in range(remainder, shards(job), WORKERS):
        encode_shard(job, shard)
    print("done", flush=True)
    sys.stdin.readline()


def two_workers(job: Job) -> Figure:
    """The flow's own map, on a cluster that is there already."""
    cluster = distributed.LocalCluster(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None)
    patient = temporary_settings({PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: 300})
    with patient, cluster, distributed.Client(cluster, set_as_default=False) as client:
        client.run(__import__, "flows.mapping")
        with mapping.engine("dask", WORKERS, address=cluster.scheduler_address) as (count, runner):
            shard_map = mapping.shard_map.with_options(task_runner=runner)
            return measured(lambda: shard_map(job, shards(job), count, SILENT))


def measured(work: Callable[[], object]) -> Figure:
    """What the work takes, in this process and all that it started."""
    started, used = time.perf_counter(), processor_seconds()
    work()
    return Figure(time.perf_counter() - started, processor_seconds() - used)


def processor_seconds() -> float:
    this = psutil.Process()
    return sum(sum(process.cpu_times()[:4]) for process in (this, *this.children(recursive=True)))


if __name__ == "__main__":
    main()
