"""Status says how far each run is, what fails and, of the open one, how fast it goes and how long it will take."""

from pathlib import Path

import pytest

from codec.errors import ArchiveError
from tasks.archive import erasing
from tasks.compress.runs import close_run
from tasks.maintenance import compaction, forget
from tasks.maintenance.status import status
from tests.support.codecless_archives import make
from tests.support.maintenance_runs import RUNS


def test_sealed_runs(tmp_path: Path) -> None:
    store = make(tmp_path / "a", RUNS)
    compaction.compact(store)
    found = status(str(tmp_path / "a"))
    assert [(run["run"], run["state"], run["shards_done"], run["shards"]) for run in found.runs] == [
        (1, "sealed", 2, 2),
        (2, "sealed", 2, 2),
        (3, "sealed", 1, 1),
    ]
    assert found.runs[1] | {"last_commit": ""} == {
        "run": 2,
        "state": "sealed",
        "shards": 2,
        "images": 4,
        "shards_done": 2,
        "images_done": 4,
        "compressed": 0,
        "fallback": 3,
        "unchanged": 1,
        "failed": 0,
        "forgotten": 0,
        "source_bytes": 13,
        "stored_bytes": 10,
        "last_commit": "",
    }
    assert found.runs[1]["last_commit"] == "2026-01-01 00:02:10+00"
    assert found.failing_shards == [{"run": 1, "shard": 1, "failed": 1, "images": 2, "reasons": ["content"]}]
    assert (found.failed, found.compacted_runs, found.images_per_second, found.seconds_left) == (1, 3, None, None)


def test_an_open_run_has_a_rate_and_a_time_left(tmp_path: Path) -> None:
    store = make(tmp_path / "a", [{f"{number}": b"x%d" % number for number in range(12)}], seal=False)
    assert store.folder is not None
    (store.folder / "runs/000001/report/part-000003.parquet").unlink()
    found = status(str(tmp_path / "a"))
    assert (found.runs[0]["state"], found.runs[0]["shards_done"], found.runs[0]["images_done"]) == ("open", 3, 9)
    assert found.images_per_second == pytest.approx(8 / 22)
    assert found.seconds_left == pytest.approx(3 / (8 / 22))


def test_a_closed_run_and_an_interrupted_erasure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(tmp_path / "a", RUNS, seal=False)
    close_run(store, 3, "the disk is gone")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(erasing, "_part", interrupted)
    with pytest.raises(KeyboardInterrupt):
        forget.forget(store, ["b"])
    found = status(str(tmp_path / "a"))
    assert (found.runs[2]["state"], found.unfinished_erasures) == ("closed", 1)


def test_a_place_without_an_archive(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="no archive here"):
        status(str(tmp_path))
