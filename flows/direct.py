"""What a flow tells Prefect: log lines and artifacts. Called directly, as by --direct, it tells the log alone."""

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
"""Below one of flows.LOGGERS, so that --verbose shows it."""


_DIRECT: ContextVar[bool] = ContextVar("direct", default=False)


def is_direct() -> bool:
    """Whether the function of a flow was called as it is, without a server and a run."""
    return _DIRECT.get()


@contextmanager
def directly() -> Iterator[None]:
    """Functions of flows may be called as they are."""
    token = _DIRECT.set(True)
    try:
        yield
    finally:
        _DIRECT.reset(token)


def plain(task: Task[P, Result]) -> Callable[P, Result]:
    """The task, or its function."""
    return task.fn if is_direct() else cast(Callable[P, Result], task)


def logger() -> Any:
    """Of the flow run, where there is one."""
    return LOGGER if is_direct() else get_run_logger()


def table(rows: Sequence[Mapping[str, Any]], key: str, description: str) -> None:
    """A table artifact."""
    if not is_direct():
        create_table_artifact([dict(row) for row in rows], key=key, description=description)


def markdown(text: str, key: str, description: str) -> None:
    """A Markdown artifact."""
    if not is_direct():
        create_markdown_artifact(text, key=key, description=description)


def progress(key: str, description: str) -> Callable[[float], None]:
    """A progress artifact, as the function that brings its per cent up to date."""
    if is_direct():
        return lambda _: None
    artifact = cast(UUID, create_progress_artifact(0.0, key=key, description=description))
    return lambda percent: cast(None, update_progress_artifact(artifact, percent))
