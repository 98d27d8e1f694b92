"""What the archive tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import archive_builder


@pytest.fixture(scope="session")
def fake_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the fake codec."""
    return archive_builder.bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def children_are_played_here() -> Iterator[None]:
    """Plays children in this process, for tests in which none dies. Fixtures of a module ran before, with real ones."""
    with archive_builder.in_process():
        yield


@pytest.fixture(scope="session")
def packed_once(tmp_path_factory: pytest.TempPathFactory, fake_bundle: Path) -> tuple[Path, Path]:
    """A source of three pictures and its archive of one shard; not to be changed."""
    home = tmp_path_factory.mktemp("packed")
    files = {"a.png": archive_builder.png(1), "x/b.jpg": archive_builder.png(2), "c.png": archive_builder.png(3)}
    source = archive_builder.folder(home / "s", files)
    archive_builder.pack(source, home / "a", fake_bundle)
    return source, home / "a"
