"""Dask in place of threads: the workers at an address, or processes of this machine started for one run.

Dask sends code and results between its processes as pickles, so whoever reaches a scheduler commands its workers:
addresses beyond this machine must be TLS, whose certificates Dask's own settings name (infra/dask.yaml).
"""

import asyncio
import concurrent.futures
import ipaddress
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import urlsplit

from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.task_runners import TaskRunner

from codec.errors import FdcError, SettingsError


class ClusterError(FdcError):
    """The Dask cluster of a run went away."""


CONNECT_SECONDS = 5
"""A scheduler that is there answers in a fraction of one."""
CALM: dict[str, Any] = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "10s",
}
"""Dask looks at itself up to a hundred times a second, which takes from the codec (tests/benchmarks, dask_workers)."""


@contextmanager
def dask_runner(workers: int, device: str, address: str = "") -> Iterator[tuple[int, TaskRunner[Any]]]:
    """The number of workers, and a task runner of Dask for the subflows that are called within the context.

    With an address the workers are those that its scheduler has now, otherwise so many new processes on the loopback
    interface. On a GPU a shard asks for the resource GPU, of which `dask worker --resources GPU=1` offers one.
    Raises SettingsError where Dask is not installed, does not answer, or could be reached by others.
    """
    try:
        import dask
        from prefect_dask.task_runners import DaskTaskRunner
    except ImportError:
        raise SettingsError("engine dask is not installed: pip install 'fdcodec[dask]'") from None
    gpu = {"GPU": 1} if device.startswith("cuda") else {}
    with ExitStack() as stack:
        if gpu:
            stack.enter_context(dask.annotate(resources=gpu))
        server = get_client(sync_client=True).api_url  # the workers report to this run's server, also a temporary one
        stack.enter_context(temporary_settings({PREFECT_API_URL: str(server)}))
        if address:
            check(address)
            stack.enter_context(_one_line(address))
            yield _workers_at(address), DaskTaskRunner(address=address)
        else:
            local = {
                "n_workers": workers,
                "threads_per_worker": 1,
                "host": "127.0.0.1",
                "dashboard_address": "127.0.0.1:0",
            }
            stack.enter_context(dask.config.set(CALM))
            yield workers, DaskTaskRunner(cluster_kwargs=local | {"resources": gpu})


@contextmanager
def _one_line(address: str) -> Iterator[None]:
    """Turns what a scheduler's death raises into a ClusterError."""
    try:
        with dask_logs_silenced():
            yield
    except (concurrent.futures.CancelledError, asyncio.CancelledError, OSError) as error:
        raise ClusterError(f"{address}: the Dask scheduler is gone ({type(error).__name__}); run again") from error


@contextmanager
def dask_logs_silenced() -> Iterator[None]:
    """Dask logs tracebacks of connections that are lost, and the error that follows says it in one line."""
    loggers = [logging.getLogger(name) for name in ("distributed", "tornado", "asyncio")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def check(address: str) -> None:
    """Raise SettingsError for an address that is neither on the loopback interface nor TLS."""
    given = urlsplit(address if "://" in address else f"tcp://{address}")
    try:
        loopback = given.hostname == "localhost" or ipaddress.ip_address(given.hostname or "").is_loopback
    except ValueError:
        loopback = False
    if given.scheme != "tls" and not (given.scheme == "tcp" and loopback):
        raise SettingsError(
            f"{address}: whoever reaches a Dask scheduler commands its workers; use a tls:// address, or 127.0.0.1"
        )


def _workers_at(address: str) -> int:
    """How many workers a scheduler has. Raises SettingsError."""
    import distributed

    try:
        with dask_logs_silenced(), distributed.Client(address, timeout=CONNECT_SECONDS, set_as_default=False) as client:
            workers = client.scheduler_info(n_workers=-1)["workers"]
    except (OSError, TypeError, ValueError) as error:  # TypeError: TLS without certificates
        raise SettingsError(f"{address}: no Dask scheduler to work with: {error}") from error
    for worker in workers:
        check(worker)
    if not workers:
        raise SettingsError(f"{address}: this Dask scheduler has no workers; start some with `dask worker`")
    return len(workers)
