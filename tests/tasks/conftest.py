"""What the archive tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tasks import pictures


@pytest.fixture(scope="session")
def fake_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the fake codec."""
    return pictures.bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def children_are_played_here() -> Iterator[None]:
    """For tests in which no child dies; archives of fixtures for a whole module are made before, by real children."""
    with pictures.in_process():
        yield


@pytest.fixture(scope="session")
def packed_once(tmp_path_factory: pytest.TempPathFactory, fake_bundle: Path) -> tuple[Path, Path]:
    """A source of three pictures and its archive of one shard; not to be changed."""
    home = tmp_path_factory.mktemp("packed")
    files = {"a.png": pictures.png(1), "x/b.jpg": pictures.png(2), "c.png": pictures.png(3)}
    source = pictures.folder(home / "s", files)
    pictures.pack(source, home / "a", fake_bundle)
    return source, home / "a"
