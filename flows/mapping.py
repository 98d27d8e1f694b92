"""Subflows that map one task over a run: a task is a shard, submitted a window at a time.

They run on the threads of this process; `shard_map.with_options(task_runner=...)` puts another runner in their place.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar, cast

from prefect import Flow, Task, flow, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from tasks import dataset, restore, shard
from tasks.progress import Progress
from tasks.report import Totals
from tasks.storage import StorageError

PER_WORKER = 4
P = ParamSpec("P")
Result = TypeVar("Result")


def workers(wanted: int, threads: int) -> int:
    """How many shards to work on at a time: as wanted or, for 0, as many as this machine has processors for."""
    return wanted or max(1, (os.cpu_count() or 1) // threads)


def on_threads(mapping: Flow[P, Result], count: int) -> Flow[P, Result]:
    """The subflow on so many threads of this process."""
    return mapping.with_options(task_runner=cast(TaskRunner[Any], ThreadPoolTaskRunner(max_workers=count)))


def _worth_repeating(_task: Any, _run: Any, state: Any) -> bool:
    return isinstance(state.data, StorageError)


def _shard_task(name: str, run_name: str, function: Callable[P, Result]) -> Task[P, Result]:
    """A task that works off one shard; when storage failed it is tried again."""
    return task(
        name=name,
        task_run_name=run_name,
        retries=3,
        retry_delay_seconds=[1, 10, 60],
        retry_condition_fn=_worth_repeating,
        cache_policy=NO_CACHE,
        persist_result=False,
    )(function)


encode_shard = _shard_task("encode-shard", "run {job.run} shard {shard}", shard.encode_shard)
pack_shard = _shard_task("pack-shard", "shard {shard}", dataset.pack_shard)
restore_members = task(name="restore-members", cache_policy=NO_CACHE, persist_result=False)(restore.restore_members)


@flow(name="shard-map", validate_parameters=False, persist_result=False)
def shard_map(job: shard.Job, shards: int, workers: int, progress: Progress) -> list[Totals]:
    """Encode every shard of a run."""
    return _results(encode_shard, ((job, number, progress) for number in range(shards)), workers)


@flow(name="dataset-map", validate_parameters=False, persist_result=False)
def dataset_map(job: dataset.Job, workers: int, progress: Progress) -> list[int]:
    """Pack every shard of a training dataset."""
    return _results(pack_shard, ((job, number, progress) for number in range(job.shards)), workers)


@flow(name="member-map", validate_parameters=False, persist_result=False)
def member_map(jobs: Callable[[], Iterable[restore.Job]], workers: int, progress: Progress) -> list[restore.Restored]:
    """Restore the members of every tar; `jobs` is a call, as Prefect would use an iterator up to show it."""
    return _results(restore_members, ((job, progress) for job in jobs()), workers)


def _results(task: Task[..., Result], calls: Iterable[tuple[Any, ...]], workers: int) -> list[Result]:
    """The results of the task called with each tuple, in order; at most four calls a worker are under way."""
    done: list[Result] = []
    pending: deque[PrefectFuture[Result]] = deque()
    for call in calls:
        if len(pending) == PER_WORKER * workers:
            done.append(pending.popleft().result())
        pending.append(task.submit(*call))
    return done + [future.result() for future in pending]
