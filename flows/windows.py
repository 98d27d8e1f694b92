"""Tasks submitted a window at a time, so that a run of many shards never waits in memory as a whole."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from prefect import Task
from prefect.futures import PrefectFuture

PER_WORKER = 4
Result = TypeVar("Result")


def results(task: Task[..., Result], calls: Iterable[tuple[Any, ...]], workers: int) -> Iterator[Result]:
    """The results of the task called with each tuple, in order; at most four calls a worker are under way."""
    pending: deque[PrefectFuture[Result]] = deque()
    for call in calls:
        if len(pending) == PER_WORKER * workers:
            yield pending.popleft().result()
        pending.append(task.submit(*call))
    while pending:
        yield pending.popleft().result()
