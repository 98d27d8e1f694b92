"""Subflows that map a task over the shards of a run, which are submitted in a sliding window.

They run on threads of this process or on Dask: `shard_map.with_options(task_runner=...)` with a runner from `engine`.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Literal, ParamSpec, TypeVar, cast

from prefect import Flow, Task, flow, task
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext
from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from codec.errors import SettingsError
from codec.support import processors
from flows import direct
from flows.cluster import dask_runner
from tasks import dataset
from tasks.archive.report import Totals
from tasks.compress import shard
from tasks.progress import SILENT, Progress
from tasks.restore import restore
from tasks.storage.store import StorageError

PER_WORKER = 4
"""Shards submitted at a time for each worker: enough that none waits, few enough that a large run stays small."""
WORKERS_OF_A_GPU = 4
LOGGER = direct.LOGGER
Engine = Literal["threads", "dask"]
P = ParamSpec("P")
Result = TypeVar("Result")


def workers(wanted: int, threads: int, device: str = "cpu") -> int:
    """Returns the number of concurrent shards: `wanted` or, for 0, processors divided by threads.

    A GPU needs only a few workers, each of which has its own copy of the models on it.
    """
    if wanted:
        return wanted
    most = max(1, processors.available() // threads)
    if device == "cpu":
        return most
    return min(most, WORKERS_OF_A_GPU)


def _threads(count: int) -> TaskRunner[Any]:
    return cast(TaskRunner[Any], ThreadPoolTaskRunner(max_workers=count))


def on_threads(mapping: Flow[P, Result], count: int) -> Callable[P, Result]:
    """Returns the subflow with a runner of `count` threads in this process."""
    return on(_threads(count), mapping)


def on(runner: TaskRunner[Any], mapping: Flow[P, Result]) -> Callable[P, Result]:
    """Returns the subflow with a task runner, or its plain function if called directly.

    Raises SettingsError for a direct call with another engine than threads.
    """
    if not direct.is_direct():
        return cast(Callable[P, Result], mapping.with_options(task_runner=runner))
    if not isinstance(runner, ThreadPoolTaskRunner):
        raise SettingsError("--direct runs on threads of this process: leave out the engine dask, or --direct")
    return mapping.fn


@contextmanager
def engine(
    name: Engine, workers: int, *, address: str = "", device: str = "cpu"
) -> Iterator[tuple[int, TaskRunner[Any]]]:
    """Yields the number of workers and their task runner: threads of this process, or Dask.

    Raises SettingsError.
    """
    if name == "dask":
        with dask_runner(workers, device, address) as dask:
            yield dask
    elif address:
        raise SettingsError("a dask_address needs the engine dask")
    else:
        yield workers, _threads(workers)


def _worth_repeating(_task: Any, _run: Any, state: Any) -> bool:
    # Other errors are of the archive or the settings, and would come back.
    return isinstance(state.data, StorageError)


def _shard_task(name: str, run_name: str, tag: str, function: Callable[P, Result]) -> Task[P, Result]:
    """Creates a task for one shard, with retries after storage failures, and a tag for limits of concurrency."""
    return task(
        name=name,
        task_run_name=run_name,
        tags=[tag],
        retries=3,
        retry_delay_seconds=[1, 10, 60],
        retry_condition_fn=_worth_repeating,
        cache_policy=NO_CACHE,
        persist_result=False,
    )(function)


encode_shard = _shard_task("encode-shard", "run {job.run} shard {shard}", "fdcodec-encode", shard.encode_shard)
pack_shard = _shard_task("pack-shard", "shard {shard}", "fdcodec-pack", dataset.pack_shard)
restore_members = task(name="restore-members", tags=["fdcodec-decode"], cache_policy=NO_CACHE, persist_result=False)(
    restore.restore_members
)


@flow(name="shard-map", flow_run_name="shards of run {job.run}", validate_parameters=False, persist_result=False)
def shard_map(job: shard.CompressionJob, shards: int, workers: int, progress: Progress) -> list[Totals]:
    """Encodes every shard of a run."""
    calls = ((job, number) for number in range(shards))

    def images(totals: Totals) -> int:
        return totals["images"]

    def log_line(number: int, totals: Totals) -> str:
        counts = ", ".join(f"{totals[name]} {name}" for name in ("compressed", "fallback", "unchanged", "failed"))
        return f"run {job.run}: shard {number} of {shards}: {totals['images']} pictures, {counts}"

    return _results(encode_shard, calls, workers, progress, images, log_line)


@flow(name="dataset-map", flow_run_name="tars of the dataset", validate_parameters=False, persist_result=False)
def dataset_map(job: dataset.ShardingJob, workers: int, progress: Progress) -> list[int]:
    """Packs every shard of a training dataset."""

    calls = ((job, number) for number in range(job.shards))

    def images(files: int) -> int:
        return files

    def log_line(number: int, files: int) -> str:
        return f"shard {number} of {job.shards}: {files} files"

    return _results(pack_shard, calls, workers, progress, images, log_line)


@flow(name="member-map", flow_run_name="tars of the archive", validate_parameters=False, persist_result=False)
def member_map(
    jobs: Callable[[], Iterable[restore.RestoreJob]], workers: int, progress: Progress
) -> list[restore.Restored]:
    """Restores the members of every tar. `jobs` is a function, since Prefect would exhaust an iterator to show it."""
    calls = ((job,) for job in jobs())

    def images(done: restore.Restored) -> int:
        return done.images + len(done.failures)

    def log_line(number: int, done: restore.Restored) -> str:
        return f"tar {number}: {done.images} restored, {len(done.failures)} failed"

    return _results(restore_members, calls, workers, progress, images, log_line)


def _results(
    task: Task[..., Result],
    calls: Iterable[tuple[Any, ...]],
    workers: int,
    progress: Progress,
    images: Callable[[Result], int],
    log_line: Callable[[int, Result], str],
) -> list[Result]:
    """Calls the task with each tuple and returns the results in order; at most four calls per worker are pending.

    `log_line` formats the log line of a result, counted from 1. In this process a task reports progress per picture; in
    another process, its pictures count once it is done.
    """
    if direct.is_direct():
        return _directly(task, calls, workers, progress, log_line)
    # A worker in another process gets a silent copy of the progress, so its pictures are counted here instead.
    context = FlowRunContext.get()
    here = context is None or isinstance(context.task_runner, ThreadPoolTaskRunner)
    done: list[Result] = []
    pending: deque[PrefectFuture[Result]] = deque()

    def wait() -> None:
        result = pending.popleft().result()
        done.append(result)
        if not here:
            progress.advance(images(result))
        progress.note(log_line(len(done), result))

    for call in calls:
        if len(pending) == PER_WORKER * workers:
            wait()
        pending.append(task.submit(*call, progress if here else SILENT))
    while pending:
        wait()
    return done


def _directly(
    task: Task[..., Result],
    calls: Iterable[tuple[Any, ...]],
    workers: int,
    progress: Progress,
    log_line: Callable[[int, Result], str],
) -> list[Result]:
    """As `_results`, without Prefect: runs the task's plain function on threads."""

    def call(arguments: tuple[Any, ...]) -> Result:
        return _persistently(task, *arguments, progress)

    done: list[Result] = []
    pending: deque[Future[Result]] = deque()

    def wait() -> None:
        result = pending.popleft().result()
        done.append(result)
        progress.note(log_line(len(done), result))

    with ThreadPoolExecutor(workers) as pool:
        try:
            for arguments in calls:
                if len(pending) == PER_WORKER * workers:
                    wait()
                pending.append(pool.submit(call, arguments))
            while pending:
                wait()
        except BaseException:  # without this, the pool would first encode every shard that waits
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return done


def _persistently(task: Task[..., Result], *arguments: Any) -> Result:
    """Calls a task's function; retries after storage failures with the same delays as Prefect."""
    delays = cast(list[float], task.retry_delay_seconds or [])
    for delay in delays[: task.retries]:
        try:
            return task.fn(*arguments)
        except StorageError as error:
            LOGGER.warning("storage failed, retrying in %g s: %s", delay, error)
            time.sleep(delay)
    return task.fn(*arguments)
