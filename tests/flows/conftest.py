"""One real Prefect server for all flow tests: it takes long to start."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

import flows  # noqa: F401  # switches telemetry off before Prefect is imported
from tasks.storage.store import Store
from tests.support.prefect_server import Server, serving
from tests.support.waiting import until


@pytest.fixture(scope="session")
def made_database(empty_database: Path) -> Path:
    """An empty database of Prefect's, to be copied into a server's home."""
    until(empty_database.exists, f"a database; see upgrade.log in {empty_database.parent}")
    return empty_database


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, made_database: Path) -> Iterator[Server]:
    """`prefect server start` as a process of its own, with all its services."""
    home = tmp_path_factory.mktemp("prefect")
    shutil.copy(made_database, home / "prefect.db")
    with serving(home) as server:
        yield server


@pytest.fixture(scope="session")
def prefect_server(server: Server) -> Iterator[str]:
    """The address of the server, which flows of this process use."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: server.url}):
        yield server.url


def holding(word: str, server: Server, printed: bytes, archive: str) -> set[str]:
    """The places that contain a word: the printed text, the server's log and database, the archive's objects."""
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
