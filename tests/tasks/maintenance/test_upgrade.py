"""An archive of format 1 is read as it is; `upgrade` gives it a log and rewrites nothing, killed wherever it may be."""

import shutil
from pathlib import Path

import pytest

from codec.errors import ArchiveError
from tasks.archive import format1, layout, log, manifest, report
from tasks.compress import runs
from tasks.maintenance import compaction, holds
from tasks.maintenance.audit import audit
from tasks.maintenance.forget import forget
from tasks.maintenance.status import status
from tasks.maintenance.upgrade import upgrade
from tasks.restore.restore import restore
from tasks.storage.store import Store
from tests.support.archive_builder import rows
from tests.support.codecless_archives import make
from tests.support.format1_archives import as_format_1
from tests.support.maintenance_runs import RUNS, killed, tree

KEPT = {"a", "b", "c", "d", "f", "h", "trip/g.jpg"}


@pytest.fixture(params=["compacted", "with parts alone", "with an open run"])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    make(tmp_path / "a", RUNS, seal=request.param != "with an open run")
    if request.param == "compacted":
        compaction.compact(Store(str(tmp_path / "a")))
    return as_format_1(tmp_path / "a", compacted=request.param == "compacted")


def restored(archive: Store, target: Path) -> set[str]:
    assert restore(archive.url, str(target)).errors == []
    return {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}


def test_it_is_read_and_audited_and_no_command_writes_to_it(old: Store, tmp_path: Path) -> None:
    before = {item.name: old.read(item.name) for item in old.list()}
    assert restored(old, tmp_path / "out") == KEPT
    assert [run["state"] for run in status(old.url).runs][:2] == ["sealed"] * 2
    assert report.rows(old).count_rows() == 11
    for act in (lambda: forget(old, ["a"]), lambda: compaction.compact(old), lambda: holds.hold(old, "a", "why")):
        with pytest.raises(ArchiveError, match=r"format 1 is read-only; run .* upgrade"):
            act()
    assert {item.name: old.read(item.name) for item in old.list()} == before
    assert audit(old.url).problems == []


def test_upgraded_it_has_the_same_rows_and_goes_on(old: Store, tmp_path: Path) -> None:
    before, kept = rows(old.url), tree(Path(str(old)))
    head = upgrade(old)
    assert upgrade(old) == head
    assert rows(old.url) == before
    changed = {name for name, content in tree(Path(str(old))).items() if kept.get(name) != content}
    assert changed == {layout.ARCHIVE}
    assert manifest.from_json(old.read(layout.ARCHIVE), "")["format"] == 2
    if head.open_run is not None:
        runs.seal(old, log.plan(old, head, head.open_run))
    assert forget(old, ["b"]) == 2
    assert restored(old, tmp_path / "out") == KEPT - {"b"}
    compaction.compact(old, afresh=True)
    assert audit(old.url).problems == []


def test_killed_anywhere_it_is_upgraded_by_calling_again(old: Store, tmp_path: Path) -> None:
    before = rows(old.url)
    copies = killed("upgrade", Path(str(old)), tmp_path / "killed")
    assert len(copies) == 2
    for copy in copies:
        store = Store(str(copy))
        assert rows(copy) == before
        assert upgrade(store).record == 1
        assert rows(copy) == before
        assert audit(str(copy)).problems == []


def test_an_erasure_that_an_old_release_left_is_ended_by_that_release(old: Store, tmp_path: Path) -> None:
    old.publish(
        f"{format1.FORGET}/000001.json", manifest.to_json({"format": 1, "keys": ["b"], "tars": {}, "parts": []})
    )
    with pytest.raises(
        ArchiveError, match=r"000001.json: unfinished erasure; finish it with the release that began it"
    ):
        upgrade(old)
    old.publish(f"{format1.FORGET}/000001-done.json", manifest.to_json({"format": 1}))
    assert upgrade(old).erasures == 1


def test_a_table_that_an_erasure_made_stale_is_not_read(tmp_path: Path) -> None:
    compaction.compact(make(tmp_path / "a", RUNS))
    old = as_format_1(tmp_path / "a", compacted=True)
    document = manifest.from_json(old.read(format1.CURRENT), "")
    old.replace(format1.CURRENT, manifest.to_json(document | {"erasures": 0}))
    assert len(log.read(old).tables) == 1
    for name in ("000001.json", "000001-done.json"):
        old.publish(f"{format1.FORGET}/{name}", manifest.to_json({"format": 1}))
    assert log.read(old).tables == ()
    shutil.rmtree(tmp_path / "a" / "tables")
    assert report.rows(old).count_rows() == 11
