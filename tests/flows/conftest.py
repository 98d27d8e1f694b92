"""One real Prefect server for all flow tests: it takes long to start."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

import flows  # noqa: F401  # switches telemetry off before Prefect is imported
from tasks.storage.store import Store

ROOT = Path(__file__).parents[2]
PATIENCE = 600.0
"""Seconds after which something is taken to never happen; a busy machine takes long."""
SETTINGS = {
    "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
    "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "2",
    "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "3",
    "PREFECT_SERVER_SERVICES_SCHEDULER_MAX_RUNS": "3",  # ahead of time; a hundred take half a minute to make and delete
    "PREFECT_WORKER_CANCELLATION_POLL_SECONDS": "1",
    "PREFECT_WORKER_QUERY_SECONDS": "1",
}


@dataclass(frozen=True)
class Server:
    """Where a server is, its database, what it printed, and the environment in which commands reach it."""

    url: str
    database: Path
    log: Path
    environment: dict[str, str]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Server]:
    """`prefect server start` as a process of its own, with all its services."""
    home = tmp_path_factory.mktemp("prefect")
    deadline = time.monotonic() + PATIENCE
    while not empty_database.exists():
        assert time.monotonic() < deadline, f"see upgrade.log in {empty_database.parent}"
        time.sleep(0.2)
    shutil.copy(empty_database, home / "prefect.db")
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    environment = {
        **os.environ,
        **SETTINGS,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": url,
        "COLUMNS": "200",
        "NO_COLOR": "1",
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)]
    with (home / "server.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=home)
    try:
        _wait(process, f"{url}/health")
        yield Server(url, home / "prefect.db", home / "server.log", environment)
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="session")
def prefect_server(server: Server) -> Iterator[str]:
    """The address of the server, which flows of this process use."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: server.url}):
        yield server.url


def holding(word: str, server: Server, printed: bytes, archive: str) -> set[str]:
    """Where a word is found: in what was printed, the server's log and database, and every object of the archive."""
    places = {"printed": printed, "server log": server.log.read_bytes()}
    for part in server.database.parent.glob("prefect.db*"):
        places["server database"] = places.get("server database", b"") + part.read_bytes()
    store = Store(archive)
    for item in store.list():
        places[item.name] = store.read(item.name)
        if "/report/" in item.name:
            table = pa.parquet.read_table(pa.BufferReader(places[item.name]))
            places[item.name] += f"{table.schema.metadata} {table.to_pylist()}".encode()
    return {place for place, content in places.items() if word.encode() in content}


def free_port() -> int:
    """A port of the loopback interface that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(process: "subprocess.Popen[bytes]", url: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        assert process.poll() is None, "the server ended"
        try:
            urllib.request.urlopen(url, timeout=60).close()
            return
        except OSError:
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.2)
