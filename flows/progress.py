"""Progress of a flow run: a bar in a terminal, a progress artifact on the server, and a log line at each shard."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.runtime import flow_run

from flows import command, direct
from tasks.progress import Progress

EVERY_SECONDS = 10.0
"""How often the artifact is updated."""
INTERRUPTED = "interrupted; the next run resumes here"
"""Log line of a run that SIGINT or SIGTERM ends, for example because its pod or machine stops."""


class _Followed(Progress):
    """Relays progress. A pickled copy is silent."""

    def __init__(self, bar: Progress, logger: Any, artifact: UUID) -> None:
        self._bar = bar
        self._logger = logger
        self._artifact = artifact
        self._total = 0
        self._done = 0
        self._counting = threading.Lock()
        self._updating = threading.Lock()
        self._due = time.monotonic() + EVERY_SECONDS

    def begin(self, images: int) -> None:
        with self._counting:
            self._total += images
        self._bar.begin(images)

    def advance(self, images: int) -> None:
        with self._counting:
            self._done += images
        self._bar.advance(images)
        if time.monotonic() < self._due:
            return
        # Other threads go on encoding while one waits for the server.
        if not self._updating.acquire(blocking=False):
            return
        try:
            self._due = time.monotonic() + EVERY_SECONDS
            self.update()
        finally:
            self._updating.release()

    def note(self, line: str) -> None:
        self._logger.info(line)

    def update(self) -> None:
        """Updates the artifact; ignores a server that does not answer."""
        percent = 100.0 * self._done / max(1, self._total)
        try:
            update_progress_artifact(self._artifact, percent, f"{self._done} of {self._total} pictures")
        except httpx.HTTPError as error:
            self._logger.debug("the progress artifact is not up to date: %s", type(error).__name__)

    def __reduce__(self) -> tuple[type[Progress], tuple[()]]:
        return Progress, ()


@contextmanager
def followed(what: str) -> Iterator[Progress]:
    """Yields the progress of the current flow run, labeled `what`; only the bar if called directly."""
    if direct.is_direct():
        with command.bar(what) as bar:
            yield bar
        return
    artifact = cast(UUID, create_progress_artifact(0.0, key=f"{flow_run.flow_name}-progress", description=what))
    logger = get_run_logger()

    def say_interrupted() -> None:
        logger.warning(INTERRUPTED)

    with command.bar(what) as bar, command.stopping_soon(say_interrupted):
        progress = _Followed(bar, logger, artifact)
        try:
            yield progress
        finally:
            progress.update()  # the last state, up to ten seconds newer than the artifact
