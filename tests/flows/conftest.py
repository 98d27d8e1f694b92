"""One Prefect server for all flow tests: it takes long to start."""

from collections.abc import Iterator

import pytest

import flows  # noqa: F401  # switches telemetry off before Prefect is imported


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[str]:
    """The address of a server with a database of its own."""
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=180):
        yield str(PREFECT_API_URL.value())
