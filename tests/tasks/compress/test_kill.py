"""Killed anywhere and run again, an archive is the one that an undisturbed run makes."""

import signal
from pathlib import Path

import pytest

from tests.support import runner_processes
from tests.support.archive_builder import folder, pack, png, rows, snapshot
from tests.support.kill_points import POINTS

SEALED = [name for name in POINTS if POINTS[name] in (("after", "complete.json"), ("after", "rows-000000"))]
SEALED += ["sealing, the seal is on record"]
"""Points after which nothing is left to do but to put it on record."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = {f"{name}.png": png(seed) for seed, name in enumerate("abc")}
    return folder(tmp_path_factory.mktemp("source"), files | {"d.jpg": b"no picture"})


@pytest.fixture(scope="module")
def undisturbed(source: Path, fake_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    archive = tmp_path_factory.mktemp("undisturbed") / "archive"
    pack(source, archive, fake_bundle)
    return snapshot(archive)


@pytest.mark.usefixtures("children_are_played_here")  # those of the second run; the first one's die with it
@pytest.mark.parametrize("point", POINTS)
def test_killed_and_run_again(
    point: str, source: Path, fake_bundle: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    archive = tmp_path / "archive"
    assert runner_processes.end(runner_processes.start(source, archive, fake_bundle, point=point)) == -signal.SIGKILL
    finished = rows(archive) if archive.exists() else []
    outcome = pack(source, archive, fake_bundle)
    assert outcome.runs == ([] if point in SEALED else [1])
    assert snapshot(archive) == undisturbed
    assert all(row in rows(archive) for row in finished)
    assert not list(archive.rglob("*.unfinished"))


@pytest.mark.parametrize("level", ["6", "1"], ids=["same bytes", "other bytes"])
def test_two_runners_at_once_commit_every_row_once(
    level: str, source: Path, fake_bundle: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    archive = tmp_path / "archive"
    racing = [
        runner_processes.start(source, archive, fake_bundle, environment={"FAKE_CODEC_LEVEL": each})
        for each in ("6", level)
    ]
    assert [runner_processes.end(runner) for runner in racing] == [0, 0]
    assert [path.name for path in (archive / "runs").iterdir()] == ["000001"]
    assert (archive / "runs" / "000001" / "complete.json").exists()
    found = rows(archive)
    assert [row["key"] for row in found] == ["a.png", "b.png", "c.png", "d.jpg"]
    assert {row["tar"] for row in found} - {None} == {str(path.relative_to(archive)) for path in archive.rglob("*.tar")}
    if level == "6":
        assert snapshot(archive) == undisturbed
