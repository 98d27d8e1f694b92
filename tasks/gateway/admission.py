"""A queue of work on processors, bounded by how many seconds it is estimated to take."""

import asyncio
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tasks.gateway.refusals import Refusal

Result = TypeVar("Result")
LEARNED = 0.2
"""The weight of the latest measurement in an estimate."""


class WorkQueue:
    """Runs functions in threads, first come first served; refuses what would wait more than `longest_wait` seconds.

    What a megapixel costs is learned from what was done, by codec. Used from one event loop.
    """

    def __init__(self, workers: int, longest_wait: float, seconds_per_megapixel: dict[str, float]) -> None:
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="gateway")
        self._workers = workers
        self._longest_wait = longest_wait
        self._costs = dict(seconds_per_megapixel)
        self.seconds = 0.0
        """Estimated processor seconds of the work that waits or runs."""

    def estimate(self, codec: str, pixels: int) -> float:
        """Estimated processor seconds for a picture."""
        return 0.05 + self._costs[codec] * pixels / 1e6

    async def run(self, codec: str, pixels: int, work: Callable[[], tuple[Result, float]]) -> Result:
        """Runs `work`, which returns its result and the seconds it took. Raises Refusal if it would wait too long."""
        wait = self.seconds / self._workers
        if wait > self._longest_wait:
            seconds = max(1, math.ceil(wait - self._longest_wait))
            raise Refusal(503, f"{wait:.0f} seconds of work wait; try again in {seconds} s", seconds)
        estimated = self.estimate(codec, pixels)
        self.seconds += estimated
        try:
            result, spent = await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self.seconds -= estimated
        self._learn(codec, pixels, spent)
        return result

    def _learn(self, codec: str, pixels: int, spent: float) -> None:
        if pixels >= 10_000:  # what small pictures take says little about a megapixel
            cost = spent / (pixels / 1e6)
            self._costs[codec] += LEARNED * (cost - self._costs[codec])

    def close(self) -> None:
        """Drops waiting work and waits for what runs."""
        self._threads.shutdown(wait=True, cancel_futures=True)


def timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """Runs a function; returns its result and the seconds it took."""
    started = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started
