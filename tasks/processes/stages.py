"""Work in stages that overlap: each takes what the one before it gives, in order, on threads of its own."""

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
"""A stage, and when it began and ended a piece of work, in seconds of time.monotonic, which processes share."""

LOGGER = logging.getLogger(__name__)


def staged(
    function: Callable[[Item], Result], items: Iterable[Item], *, threads: int = 1, waiting: int = 1
) -> Iterator[Result]:
    """function(item) of each item, in order: at most so many under way, and done and waiting to be taken.

    The items are taken in the caller's thread, so stages may be put one around the other. An error comes in the place
    of its item; what was begun then ends first, and nothing more begins.
    """
    with ThreadPoolExecutor(threads) as pool:
        pending: deque[Future[Result]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > threads + waiting:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@dataclass
class Spent:
    """Seconds of a piece of work, known at its end."""

    seconds: float = 0.0


class Timeline:
    """When each stage was at work."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self._lock = threading.Lock()

    @contextmanager
    def during(self, stage: str) -> Iterator[Spent]:
        """Note the time that what is done inside takes."""
        spent, began = Spent(), time.monotonic()
        try:
            yield spent
        finally:
            ended = time.monotonic()
            spent.seconds = ended - began
            with self._lock:
                self.spans.append((stage, began, ended))


def tell(worker: str, spans: Iterable[Span]) -> None:
    """Spans of a worker, for whoever listens to this module's logger at DEBUG: record.spans, record.worker."""
    LOGGER.debug("%s was at work", worker, extra={"worker": worker, "spans": list(spans)})
