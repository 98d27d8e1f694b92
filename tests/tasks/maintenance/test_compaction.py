"""The report of sealed runs in a few sorted files: the same rows for every reader, whatever happens meanwhile."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codec.errors import ArchiveError
from tasks.archive import index_files, layout, log, report, tables
from tasks.archive.index_files import IndexFile
from tasks.archive.log import ArchiveHead
from tasks.maintenance import compaction
from tasks.maintenance.audit import audit
from tasks.storage.store import Store
from tests.support.archive_builder import rows
from tests.support.codecless_archives import make
from tests.support.maintenance_runs import RUNS, killed

_FILLED = tables._filled


def read_by(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> list[str]:
    """The files of the index that something reads."""
    read: list[str] = []
    with monkeypatch.context() as patch:
        for function in ("read", "fetch"):
            real = getattr(index_files, function)

            def noted(archive: Store, file: IndexFile, *more: Any, real: Any = real) -> Any:
                read.append(file.name)
                return real(archive, file, *more)

            patch.setattr(index_files, function, noted)
        act()
    return read


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "ROWS_PER_FILE", 4)


def test_every_row_is_there_sorted_by_key_in_files_that_say_what_they_hold(
    tmp_path: Path, small_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make(tmp_path / "a", RUNS)
    before = rows(tmp_path / "a", "key, run")
    [table] = compaction.compact(store).tables
    assert (table.first_run, table.last_run, table.rows) == (1, 3, len(before))
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
    assert read_by(monkeypatch, lambda: report.rows(store)) == [file.name for file in table.files]


def test_sorted_a_range_of_keys_at_a_time_the_files_are_the_same(
    tmp_path: Path, small_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make(tmp_path / "a", RUNS)
    [whole] = compaction.compact(store).tables
    asked: list[Any] = []
    for rows_at_once in (1, 3):
        monkeypatch.setattr(tables, "ROWS_SORTED_AT_ONCE", rows_at_once)
        monkeypatch.setattr(tables, "_filled", lambda batches, f=_FILLED: f(asked.append(b) or b for b in batches))
        [ranges] = compaction.compact(store, afresh=True).tables
        assert [(file.sha256, file.first, file.last) for file in ranges.files] == [
            (file.sha256, file.first, file.last) for file in whole.files
        ]
        assert len(asked) > 2
        asked.clear()


def test_sealed_runs_only_are_compacted_and_open_ones_are_read_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make(tmp_path / "a", RUNS, seal=False)
    before = rows(tmp_path / "a")
    assert compaction.compact(store).tabled == 2
    assert rows(tmp_path / "a") == before
    assert read_by(monkeypatch, lambda: report.rows(store))[1:] == [layout.part(3, 0)]
    assert report.rows(store, [1]).count_rows() == 5
    assert report.rows(store, [2, 3]).count_rows() == 6
    assert report.rows(store, [1, 2]).count_rows() == 9


def test_a_compaction_without_new_runs_changes_nothing(tmp_path: Path) -> None:
    store = make(tmp_path / "a", RUNS)
    assert compaction.compact(make(tmp_path / "none", [])).tables == ()
    first = compaction.compact(store)
    assert compaction.compact(store) == first == log.read(store)


def test_some_keys_are_looked_up_in_the_files_that_may_hold_them(
    tmp_path: Path, small_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make(tmp_path / "a", RUNS)
    [table] = compaction.compact(store).tables
    make(tmp_path / "a", [*RUNS, {"b": b"bbb3"}], seal=False)
    found: list[Any] = []
    read = read_by(monkeypatch, lambda: found.extend(report.lookup(store, ["b", "zzz"]).to_pylist()))
    assert sorted((row["key"], row["run"]) for row in found) == [("b", 1), ("b", 2), ("b", 4)]
    assert read == [table.files[0].name, layout.part(4, 0)]


def test_the_tables_that_readers_may_have_begun_are_kept_and_older_ones_go(tmp_path: Path) -> None:
    runs: list[Any] = list(RUNS)
    store = make(tmp_path / "a", runs)
    seen = []
    for number in range(3):
        seen.append({file.name for file in tables.every_file(log.read(store).tables)})
        runs.append({f"new{number}": b"new"})
        make(tmp_path / "a", runs)
    there = {name for files in seen for name in files if store.exists(name)}
    assert there & seen[2] == seen[2], "those before the last"
    assert not there & (seen[0] - seen[1] - seen[2])
    assert audit(str(tmp_path / "a")).problems == []


def test_tables_are_few_however_many_runs_there_are_and_few_rows_are_written_again(tmp_path: Path) -> None:
    runs = [{f"{run:03d}": b"%d" % run} for run in range(60)]
    store = make(tmp_path / "a", runs)
    head = log.read(store)
    assert head.tables[0].first_run == 1
    assert head.tabled == 60
    assert len(head.tables) <= 4
    assert all(older.rows >= tables.FACTOR * newer.rows for older, newer in itertools.pairwise(head.tables))
    assert report.rows(store).count_rows() == 60


def test_a_compaction_that_another_overtakes_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(tmp_path / "a", RUNS)
    whole = tables.whole

    def overtaken(archive: Store, head: ArchiveHead, *, afresh: bool) -> Any:
        monkeypatch.setattr(tables, "whole", whole)
        make(tmp_path / "a", [*RUNS, {"z": b"zzz"}])
        return whole(archive, head, afresh=afresh)

    monkeypatch.setattr(tables, "whole", overtaken)
    assert [table.last_run for table in compaction.compact(store, afresh=True).tables] == [4]
    assert report.rows(store).count_rows() == 12
    assert audit(str(tmp_path / "a")).problems == []


def test_a_compaction_that_would_lose_a_row_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(tmp_path / "a", RUNS)
    head = log.read(store)
    monkeypatch.setattr(tables, "_filled", lambda batches: (table.slice(1) for table in _FILLED(batches)))
    with pytest.raises(ArchiveError, match="10 of 11 rows were written to a table; nothing was changed"):
        compaction.compact(store, afresh=True)
    assert log.read(store) == head


def test_killed_anywhere_no_row_is_lost_and_the_next_compaction_completes(tmp_path: Path) -> None:
    archive = tmp_path / "a"
    compaction.compact(make(archive, RUNS[:1]))
    make(archive, RUNS)
    before = rows(archive, "key, run")
    copies = killed("compact", archive, tmp_path / "killed")
    assert len(copies) >= 3
    for copy in copies:
        assert rows(copy, "key, run") == before
        [table] = compaction.compact(Store(str(copy))).tables
        assert (table.last_run, table.rows) == (3, 11)
        assert rows(copy, "key, run") == before
