"""fsspec reads an archive as a folder of pictures."""

import importlib.metadata
import tomllib
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from PIL import Image

from codec.errors import ArchiveError
from tasks.restore.filesystem import ArchiveFileSystem
from tests.support.codecless_archives import make
from tests.support.fake_codec import FAKE
from tests.support.maintenance_runs import RUNS

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def registered() -> None:
    """The file system under its name, also where this checkout is not the installed one."""
    fsspec.register_implementation("fdc", ArchiveFileSystem, clobber=True)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("view") / "a"
    make(path, RUNS)
    return path


def test_the_package_registers_it_with_fsspec() -> None:
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["fsspec.specs"]
    assert importlib.metadata.EntryPoint("fdc", points["fdc"], "fsspec.specs").load() is ArchiveFileSystem


def test_a_url_names_one_picture(archive: Path) -> None:
    with fsspec.open(f"fdc://trip/g.jpg::file://{archive}", "rb") as file:
        assert file.read() == b"ggg"
    with fsspec.open(f"fdc://b::file://{archive}") as file:
        assert file.read() == b"b~~2"
    with fsspec.open(f"fdc://b::file://{archive}", as_of=1) as file:
        assert file.read() == b"b~~1"


def test_folders_are_listed_and_searched(archive: Path) -> None:
    files: Any = fsspec.filesystem("fdc", fo=str(archive))
    assert sorted(files.ls("", detail=False)) == ["a", "b", "c", "d", "f", "h", "trip"]
    assert files.ls("trip", detail=False) == files.glob("**/*.jpg") == ["trip/g.jpg"]
    assert files.isdir("trip")
    assert files.isfile("trip/g.jpg")
    assert len(files.find("")) == 7
    assert files.cat("trip/g.jpg") == b"ggg"


def test_what_is_not_there_and_what_is_not_allowed(archive: Path, tmp_path: Path) -> None:
    files: Any = fsspec.filesystem("fdc", fo=str(archive))
    for name in ("e", "nowhere", "trip/nowhere"):
        assert not files.exists(name)
        with pytest.raises(FileNotFoundError):
            files.open(name)
    with pytest.raises(OSError, match="Read-only file system"):
        files.open("a", "wb")
    with pytest.raises(ArchiveError, match="no archive here"):
        fsspec.filesystem("fdc", fo=str(tmp_path))
    with pytest.raises(ValueError, match="endpoint_url: not supported; set credentials and options in the environment"):
        fsspec.filesystem("fdc", fo="x", target_protocol="s3", target_options={"endpoint_url": "http://x"})


def test_a_compressed_picture_is_decoded_on_read(packed_once: tuple[Path, Path]) -> None:
    source, archive = packed_once
    with (
        fsspec.open(f"fdc://x/b.jpg.png::file://{archive}", codec=FAKE, threads=1) as file,
        Image.open(file) as decoded,
        Image.open(source / "x" / "b.jpg") as original,
    ):
        assert np.array_equal(np.asarray(decoded), np.asarray(original) & 0xE0)
    files: Any = fsspec.filesystem("fdc", fo=str(archive), codec=FAKE, threads=1)
    about = files.info("x/b.jpg.png")
    assert (about["key"], about["width"], about["height"], about["size"]) == ("x/b.jpg", 40, 24, None)
    assert not files.exists("x/b.jpg")
