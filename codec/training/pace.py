"""Throughput of a training loop."""

import time
from collections.abc import Iterable, Iterator

from torch import Tensor


class Pace:
    """Throughput in samples, and the loop's waiting time for the loader; a GPU with queued work waits less."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._begin()

    def _begin(self) -> None:
        self._since = time.perf_counter()
        self._waited = 0.0
        self._batches = 0

    def watched(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yields the batches and accumulates the time spent waiting for them."""
        asked = time.perf_counter()
        for batch in batches:
            self._waited += time.perf_counter() - asked
            yield batch
            self._batches += 1
            asked = time.perf_counter()

    def figures(self) -> dict[str, float]:
        """Samples per second over all processes, and the share of waiting, since the last call."""
        passed = max(time.perf_counter() - self._since, 1e-9)
        batches = self._batches + 1  # the current one counts although the loop is not back yet
        rate = {
            "samples_per_second": round(batches * self._batch_size / passed, 2),
            "waiting": round(min(1.0, self._waited / passed), 4),
        }
        self._begin()
        return rate
