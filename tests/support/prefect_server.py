"""A real Prefect server as a process of its own, with all its services."""

import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.waiting import end, until

ROOT = Path(__file__).parents[2]
# Loops look every second or two, or a test would wait for the default of 5 to 60 seconds at each step.
SETTINGS = {
    "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
    "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "2",
    "PREFECT_SERVER_TASKS_TAG_CONCURRENCY_SLOT_WAIT_SECONDS": "1",
    "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "3",
    "PREFECT_SERVER_SERVICES_SCHEDULER_MAX_RUNS": "3",  # ahead of time; a hundred take half a minute to make and delete
    "PREFECT_WORKER_CANCELLATION_POLL_SECONDS": "1",
    "PREFECT_WORKER_QUERY_SECONDS": "1",
}


@dataclass(frozen=True)
class Server:
    """Where a server is, its database, what it printed, the environment in which commands reach it, and its process."""

    url: str
    database: Path
    log: Path
    environment: dict[str, str]
    process: "subprocess.Popen[bytes]"


@contextmanager
def serving(home: Path, port: int | None = None, **settings: str) -> Iterator[Server]:
    """`prefect server start` on a folder, which may hold its database; terminated when the context ends."""
    if port is None:
        port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    python_path = os.environ.get("PYTHONPATH")  # commands run elsewhere, and must find flows/ and tests/
    environment = {
        **os.environ,
        **SETTINGS,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{python_path}" if python_path else str(ROOT),
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": url,
        "COLUMNS": "200",  # Prefect's tables break lines at the width, also within words that tests look for
        "NO_COLOR": "1",
        **settings,
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)]
    with (home / "server.log").open("a") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=home)
    try:
        until(lambda: _answers(process, f"{url}/health"), "the server's answer")
        yield Server(url, home / "prefect.db", home / "server.log", environment, process)
    finally:
        end(process)


def free_port() -> int:
    """A port of the loopback interface that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(process: "subprocess.Popen[bytes]", url: str) -> bool:
    assert process.poll() is None, "the server ended"
    try:
        urllib.request.urlopen(url, timeout=60).close()
    except OSError:
        return False
    return True
