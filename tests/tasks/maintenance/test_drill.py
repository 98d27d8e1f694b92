"""A mirror is restored from nothing but itself, and whatever is wrong with it is told."""

import shutil
from pathlib import Path

import pytest

from codec.bundle import Bundle
from codec.errors import ArchiveError
from tasks.archive import report
from tasks.archive.manifest import RunSettings
from tasks.compress.runs import compress
from tasks.maintenance.drill import _chosen, drill
from tasks.processes.codec_process import Models
from tasks.storage.store import Store
from tests.support.archive_builder import folder, png

PICTURES = 3


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle) -> Path:
    """An archive by a real codec, of three pictures and a text."""
    home = tmp_path_factory.mktemp("drill")
    files = {f"{seed}.png": png(seed, 24, 16) for seed in range(PICTURES)} | {"note.txt": b"a note"}
    source = folder(home / "s", files)
    settings = RunSettings(quality=4.0, metrics=(), threads=1)
    compress(str(source), str(home / "a"), settings, models=Models(str(bundle.path), threads=1))
    return home / "a"


@pytest.fixture
def mirror(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "mirror"))


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def test_pictures_come_back_by_the_mirror_s_own_software_and_without_its_index(made: Path, mirror: Path) -> None:
    shutil.rmtree(mirror / "runs" / "000001" / "report")
    (mirror / "archive.json").unlink()
    done = drill(str(made), str(mirror), pictures=20)
    assert (done.pictures, done.problems) == (PICTURES + 1, [])
    assert done.software.endswith(".whl")


def test_the_choice_is_by_hash_and_another_for_another_seed(mirror: Path, tmp_path: Path) -> None:
    def chosen(seed: str) -> str:
        folder(tmp_path / seed, {})
        (file,) = _chosen(Store(str(mirror)), 1, seed, tmp_path / seed)
        return file.member

    months = [chosen(f"2026-{month:02}") for month in range(1, 13)]
    assert len(set(months)) > 1
    assert chosen("2026-01") == months[0]


def test_turned_bytes_and_other_symbols_are_told(made: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = report.query(Store(str(made)), "SELECT * FROM rows WHERE key = '1.png'")[0]
    flip(mirror / row["tar"], row["offset"] + row["length"] // 2)
    query = report.query

    def other(archive: Store, sql: str) -> list[dict[str, object]]:
        rows = query(archive, sql)
        return [row | ({"content_sha256": "0" * 64} if row["key"] == "2.png" else {}) for row in rows]

    monkeypatch.setattr(report, "query", other)
    problems = {problem["key"]: problem["reason"] for problem in drill(str(made), str(mirror)).problems}
    assert problems == {"1.png": "damaged", "2.png": "other_symbols"}


def test_damaged_software_and_an_empty_mirror_are_one_line(made: Path, mirror: Path, tmp_path: Path) -> None:
    (wheel,) = mirror.rglob("*.whl")
    flip(wheel, 1000)
    with pytest.raises(ArchiveError, match=r"\.whl: damaged; copy it from the archive"):
        drill(str(made), str(mirror))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArchiveError, match="holds no tars"):
        drill(str(made), str(tmp_path / "empty"))
