"""Dask instead of threads: the workers at an address, or processes on this machine for one run.

Dask sends code and results as pickles, so anybody who can reach a scheduler controls its workers. Addresses outside
this machine must use TLS, with the certificates in Dask's own settings (infra/dask.yaml).
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
    """The Dask cluster of a run became unavailable."""


CONNECT_SECONDS = 5
"""A running scheduler answers in a fraction of a second."""
CALM: dict[str, Any] = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "10s",
}
"""Dask profiles itself up to a hundred times a second, which slows the codec (tests/benchmarks, dask_workers)."""


@contextmanager
def dask_runner(workers: int, device: str, address: str = "") -> Iterator[tuple[int, TaskRunner[Any]]]:
    """Yields the number of workers and a Dask task runner for the subflows called within the context.

    With an address, the workers are the current ones of its scheduler; otherwise `workers` new processes on the
    loopback interface. On a GPU, a shard requests the resource GPU, which `dask worker --resources GPU=1` provides.
    Raises SettingsError if Dask is not installed, does not answer, or could be reached by others.
    """
    try:
        import dask
        from prefect_dask.task_runners import DaskTaskRunner
    except ImportError:
        raise SettingsError("engine dask is not installed: pip install 'fdcodec[dask]'") from None
    gpu = {"GPU": 1} if device.startswith("cuda") else {}
    with ExitStack() as stack:
        if gpu:  # without it, Dask would send shards to workers that have no GPU
            stack.enter_context(dask.annotate(resources=gpu))
        server = get_client(sync_client=True).api_url  # the workers report to this run's server, even a temporary one
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
                "dashboard_address": "127.0.0.1:0",  # port 0: any free one, so that two runs do not collide
                "resources": gpu,
            }
            stack.enter_context(dask.config.set(CALM))
            yield workers, DaskTaskRunner(cluster_kwargs=local)


@contextmanager
def _one_line(address: str) -> Iterator[None]:
    """Converts the errors of a lost scheduler to a ClusterError."""
    try:
        with dask_logs_silenced():
            yield
    except (concurrent.futures.CancelledError, asyncio.CancelledError, OSError) as error:
        raise ClusterError(f"{address}: the Dask scheduler is gone ({type(error).__name__}); run again") from error


@contextmanager
def dask_logs_silenced() -> Iterator[None]:
    """Silences tracebacks of lost connections: the error that follows reports them in one line."""
    loggers = [logging.getLogger(name) for name in ("distributed", "tornado", "asyncio")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)  # above the highest level that any line has
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def check(address: str) -> None:
    """Raises SettingsError for an address that is neither on the loopback interface nor TLS."""
    given = urlsplit(address if "://" in address else f"tcp://{address}")
    if given.scheme == "tls":
        return
    if given.scheme != "tcp" or not _is_loopback(given.hostname or ""):
        raise SettingsError(
            f"{address}: anybody who reaches a Dask scheduler controls its workers; use a tls:// address, or 127.0.0.1"
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # another name, which may resolve to anything
        return False


def _workers_at(address: str) -> int:
    """Returns the number of workers of a scheduler. Raises SettingsError."""
    import distributed

    try:
        with dask_logs_silenced(), distributed.Client(address, timeout=CONNECT_SECONDS, set_as_default=False) as client:
            workers = client.scheduler_info(n_workers=-1)["workers"]
    except (OSError, TypeError, ValueError) as error:  # TypeError: TLS without certificates
        raise SettingsError(f"{address}: cannot connect to a Dask scheduler: {error}") from error
    for worker in workers:  # each listens at an address of its own
        check(worker)
    if not workers:
        raise SettingsError(f"{address}: this Dask scheduler has no workers; start some with `dask worker`")
    return len(workers)
