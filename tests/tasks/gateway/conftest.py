"""An archive with pictures of odd names, served by a gateway."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from codec.bundle import Bundle
from tests.support.archive_builder import folder
from tests.support.gateways import Running, files, packed, running


@pytest.fixture(scope="session")
def made_archive(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    home = tmp_path_factory.mktemp("gateway")
    packed(folder(home / "photos", files()), home / "archive", bundle.path)
    return home / "archive"


@pytest.fixture
def own_archive(made_archive: Path, tmp_path: Path) -> Path:
    """A copy of one's own, which may be changed."""
    return Path(shutil.copytree(made_archive, tmp_path / "archive"))


@pytest.fixture(scope="package")
def gateway(made_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A gateway with what a user gets who says nothing."""
    with running(made_archive, tmp_path_factory.mktemp("cache")) as served:
        yield served
