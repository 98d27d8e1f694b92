"""Fixtures shared by all tests."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from codec.bundle import Bundle
from tests.support.tiny_bundles import tiny_bundle

DATA = Path(os.environ.get("FDC_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))

OF_FIXTURE = {"server": "server", "bucket": "s3", "proxy": "s3", "cloud": "s3", "browser": "browser"}
"""The marker of every test that uses a fixture."""


def pytest_configure() -> None:
    """Handles SIGINT even if a shell started the tests in the background, where they and their children ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by what their fixtures start."""
    for item in items:
        for fixture, marker in OF_FIXTURE.items():
            if fixture in getattr(item, "fixturenames", ()):
                item.add_marker(marker)


@pytest.fixture(scope="session")
def photos() -> Path:
    """The folder of development photos (train/, eval/, lpips/); tests that need it are skipped where it is absent."""
    if not DATA.is_dir():
        pytest.skip(f"no photos at {DATA}: set FDC_TEST_DATA to a folder with train/, eval/ and lpips/")
    return DATA


@pytest.fixture(scope="session", autouse=True)
def empty_database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The path at which the first test process makes the database of Prefect's servers, if a test needs one.

    That takes 15 seconds, so it starts together with the very first test.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # each worker process has its own folder below
    home = shared / "empty-database"
    needed = any("made_database" in getattr(item, "fixturenames", ()) for item in request.session.items)
    if not needed or not _made(home):
        yield home / "made.db"
        return
    # Renamed when it is complete, so that the other processes can wait for the name.
    upgrade = "set -e; $0 -m prefect server database upgrade -y > upgrade.log 2>&1; mv prefect.db made.db"
    environment = {**os.environ, "PREFECT_HOME": str(home)}
    process = subprocess.Popen(["sh", "-c", upgrade, sys.executable], cwd=home, env=environment)
    yield home / "made.db"
    process.wait()


def _made(folder: Path) -> bool:
    """Make a folder; returns whether this process was the first to do so."""
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A tiny bundle with random weights."""
    return tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture
def photo() -> NDArray[np.uint8]:
    """A smooth synthetic picture, 90 x 70 pixels."""
    return synthetic(70, 90)


def synthetic(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Gradients, a disc and a little noise: (height, width, 3)."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    base = np.stack([rows / height, columns / width, (rows + columns) / (height + width)], 2) * 200
    disc = (rows - height / 2) ** 2 + (columns - width / 2) ** 2 < (min(height, width) / 3) ** 2
    pixels = base + 50 * disc[..., None] + rng.normal(0, 3, (height, width, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8)
