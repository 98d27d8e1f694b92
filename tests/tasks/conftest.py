"""What the archive tests share."""

from pathlib import Path

import pytest

from tests.tasks import pictures


@pytest.fixture(scope="session")
def fake_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the fake codec."""
    return pictures.bundle(tmp_path_factory.mktemp("bundle"))
