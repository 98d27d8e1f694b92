"""The report of sealed runs in a few sorted files: the same rows for every reader, whatever happens meanwhile."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from codec.errors import ArchiveError
from tasks.archive import compacted, layout, report
from tasks.maintenance import compaction
from tasks.storage.store import Store
from tests.support.archive_builder import rows
from tests.support.codecless_archives import make
from tests.support.maintenance_runs import RUNS, killed

_FILLED = compaction._filled


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "ROWS_PER_FILE", 4)


def test_every_row_is_there_sorted_by_key_in_files_that_say_what_they_hold(tmp_path: Path, small_files: None) -> None:
    store = make(tmp_path / "a", RUNS)
    before = rows(tmp_path / "a", "key, run")
    table = compaction.compact(store)
    assert (table.generation, table.runs, table.rows) == (1, 3, len(before))
    assert rows(tmp_path / "a", "key, run") == before
    assert [file.rows for file in table.files] == [4, 4, 3]
    keys = [row["key"] for row in before]
    assert [(file.first, file.last) for file in table.files] == [
        (keys[0], keys[3]),
        (keys[4], keys[7]),
        (keys[8], keys[10]),
    ]
    for file in table.files:
        assert (store.size(file.name), store.sha256(file.name)) == (file.size, file.sha256)
    assert report.files(store) == [file.name for file in table.files]


def test_sorted_a_range_of_keys_at_a_time_the_files_are_the_same(
    tmp_path: Path, small_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make(tmp_path / "a", RUNS)
    whole = compaction.compact(store)
    asked: list[Any] = []
    for rows_at_once in (1, 3):
        monkeypatch.setattr(compaction, "ROWS_SORTED_AT_ONCE", rows_at_once)
        monkeypatch.setattr(compaction, "_filled", lambda batches, f=_FILLED: f(asked.append(b) or b for b in batches))
        ranges = compaction.compact(store, afresh=True)
        assert [(file.sha256, file.first, file.last) for file in ranges.files] == [
            (file.sha256, file.first, file.last) for file in whole.files
        ]
        assert len(asked) > 2
        asked.clear()


def test_sealed_runs_only_are_compacted_and_open_ones_are_read_beside_them(tmp_path: Path) -> None:
    store = make(tmp_path / "a", RUNS, seal=False)
    before = rows(tmp_path / "a")
    assert compaction.compact(store).runs == 2
    assert rows(tmp_path / "a") == before
    assert report.files(store)[1:] == [layout.part(3, 0)]
    assert report.rows(store, [1]).count_rows() == 5
    assert report.rows(store, [2, 3]).count_rows() == 6
    assert report.rows(store, [1, 2]).count_rows() == 9


def test_a_compaction_without_new_runs_changes_nothing(tmp_path: Path) -> None:
    store = make(tmp_path / "a", RUNS)
    assert compaction.compact(make(tmp_path / "none", [])) == compacted.Table()
    first = compaction.compact(store)
    assert compaction.compact(store) == first
    assert compaction.generations(store) == [1]


def test_some_keys_are_looked_up_in_the_files_that_may_hold_them(
    tmp_path: Path, small_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make(tmp_path / "a", RUNS)
    table = compaction.compact(store)
    make(tmp_path / "a", [*RUNS, {"b": b"bbb3"}])
    read: list[str] = []
    read_range = Store.read_range

    def counted(self: Store, name: str, offset: int, length: int) -> bytes:
        read.append(name)
        return read_range(self, name, offset, length)

    monkeypatch.setattr(Store, "read_range", counted)
    found = sorted(report.lookup(store, ["b", "zzz"]).to_pylist(), key=lambda row: int(row["run"]))
    assert [(row["key"], row["run"]) for row in found] == [("b", 1), ("b", 2), ("b", 4)]
    assert read == [table.files[0].name]


def test_the_generation_that_readers_may_have_begun_is_kept_and_older_ones_go(tmp_path: Path) -> None:
    runs: list[Any] = list(RUNS)
    store = make(tmp_path / "a", runs)
    kept = []
    for number in range(3):
        compaction.compact(store)
        kept.append(compaction.generations(store))
        runs.append({f"new{number}": b"new"})
        make(tmp_path / "a", runs)
    assert kept == [[1], [1, 2], [2, 3]]


def test_of_two_compactions_at_a_time_the_later_one_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(tmp_path / "a", RUNS)
    write = compaction._write

    def overtaken(archive: Store, generation: int, source: Any) -> Any:
        yield from write(archive, generation, source)
        monkeypatch.setattr(compaction, "_write", write)
        assert compaction.compact(archive).generation == 2

    monkeypatch.setattr(compaction, "_write", overtaken)
    assert compaction.compact(store).generation == 2
    assert compacted.current(store).generation == 2
    assert report.rows(store).count_rows() == 11


def test_a_compaction_that_would_lose_a_row_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(tmp_path / "a", RUNS)
    filled = compaction._filled

    def losing(reader: pa.RecordBatchReader) -> Any:
        return (table.slice(1) for table in filled(reader))

    monkeypatch.setattr(compaction, "_filled", losing)
    with pytest.raises(ArchiveError, match="10 of 11 rows were compacted; nothing was changed"):
        compaction.compact(store)
    assert report.rows(store).count_rows() == 11


def test_killed_anywhere_no_row_is_lost_and_the_next_compaction_completes(tmp_path: Path) -> None:
    archive = tmp_path / "a"
    compaction.compact(make(archive, RUNS[:1]))
    make(archive, RUNS)
    before = rows(archive, "key, run")
    copies = killed("compact", archive, tmp_path / "killed")
    assert len(copies) >= 3
    for copy in copies:
        assert rows(copy, "key, run") == before
        table = compaction.compact(Store(str(copy)))
        assert (table.runs, table.rows) == (3, 11)
        assert rows(copy, "key, run") == before


def test_a_damaged_pointer_says_what_to_do(tmp_path: Path) -> None:
    store = make(tmp_path / "a", RUNS)
    store.replace(layout.CURRENT, b'{"format": 1}')
    with pytest.raises(ArchiveError, match=r"CURRENT.json: damaged; remove it and compact"):
        report.rows(store)
