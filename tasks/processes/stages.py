"""Pipelines of overlapping stages: each maps the results of the previous one, in order, on its own threads."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Span = tuple[str, float, float]
"""A stage, and the start and end of a work item in seconds of time.monotonic, which processes share."""

LOGGER = logging.getLogger(__name__)


def staged(
    function: Callable[[Item], Result], items: Iterable[Item], *, threads: int = 1, waiting: int = 1
) -> Iterator[Result]:
    """Yields function(item) for each item, in order, with a bounded number running or waiting to be taken.

    Items are taken in the caller's thread, so stages can be nested. An error is raised in place of its item, after
    running items have finished; no further items start.
    """
    with ThreadPoolExecutor(threads) as pool:
        pending: deque[Future[Result]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                # bounded, since each result may hold a picture's pixels
                if len(pending) > threads + waiting:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            # after an error, or if the caller takes no more
            pool.shutdown(wait=True, cancel_futures=True)


@dataclass
class Spent:
    """The duration of a work item in seconds, set at its end."""

    seconds: float = 0.0


class Timeline:
    """The working times of each stage."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self._lock = threading.Lock()

    @contextmanager
    def during(self, stage: str) -> Iterator[Spent]:
        """Records the duration of the context."""
        spent = Spent()
        began = time.monotonic()
        try:
            yield spent
        finally:
            ended = time.monotonic()
            spent.seconds = ended - began
            with self._lock:
                self.spans.append((stage, began, ended))


def tell(worker: str, spans: Iterable[Span]) -> None:
    """Logs a worker's spans at DEBUG, as record.spans and record.worker."""
    LOGGER.debug("%s was at work", worker, extra={"worker": worker, "spans": list(spans)})
