"""Log lines and artifacts of flows. A flow called directly (--direct) only logs."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar, cast
from uuid import UUID

from prefect import Task, get_run_logger
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

P = ParamSpec("P")
Result = TypeVar("Result")

LOGGER = logging.getLogger("tasks.flows")
"""A child of one of flows.LOGGERS, so that --verbose shows it."""


# Of the context, not of the process: tests and programs may run a flow both ways.
_DIRECT: ContextVar[bool] = ContextVar("direct", default=False)


def is_direct() -> bool:
    """Whether a flow function was called directly, without a server and a run."""
    return _DIRECT.get()


@contextmanager
def directly() -> Iterator[None]:
    """Lets flow functions be called directly within the context."""
    token = _DIRECT.set(True)
    try:
        yield
    finally:
        _DIRECT.reset(token)


def plain(task: Task[P, Result]) -> Callable[P, Result]:
    """Returns the task, or its function if called directly."""
    if is_direct():
        return task.fn
    return cast(Callable[P, Result], task)


def logger() -> Any:
    """Returns the logger of the flow run, if there is one."""
    return LOGGER if is_direct() else get_run_logger()


def table(rows: Sequence[Mapping[str, Any]], key: str, description: str) -> None:
    """Creates a table artifact."""
    if not is_direct():
        create_table_artifact([dict(row) for row in rows], key=key, description=description)


def markdown(text: str, key: str, description: str) -> None:
    """Creates a Markdown artifact."""
    if not is_direct():
        create_markdown_artifact(text, key=key, description=description)


def progress(key: str, description: str) -> Callable[[float], None]:
    """Creates a progress artifact and returns the function that updates its percentage."""
    if is_direct():
        return lambda _: None
    artifact = cast(UUID, create_progress_artifact(0.0, key=key, description=description))

    def update(percent: float) -> None:
        update_progress_artifact(artifact, percent)

    return update
