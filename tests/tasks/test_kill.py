"""Killed anywhere and run again, an archive is the one that an undisturbed run makes."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tasks.killed import POINTS
from tests.tasks.pictures import folder, pack, png, rows, snapshot


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = {f"{name}.png": png(seed) for seed, name in enumerate("abc")}
    return folder(tmp_path_factory.mktemp("source"), files | {"d.jpg": b"no picture"})


@pytest.fixture(scope="module")
def undisturbed(source: Path, fake_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    archive = tmp_path_factory.mktemp("undisturbed") / "archive"
    pack(source, archive, fake_bundle)
    return snapshot(archive)


@pytest.mark.parametrize("point", POINTS)
def test_killed_and_run_again(
    point: str, source: Path, fake_bundle: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    archive = tmp_path / "archive"
    command = [sys.executable, "-m", "tests.tasks.killed", point, str(source), str(archive), str(fake_bundle)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    finished = rows(archive) if archive.exists() else []
    outcome = pack(source, archive, fake_bundle)
    assert outcome.runs == ([] if point == "sealing, seal published" else [1])
    assert snapshot(archive) == undisturbed
    assert all(row in rows(archive) for row in finished)
    assert not list(archive.rglob("*.unfinished"))
