"""Forgotten pictures are gone for good, all others are as they were, and the archive never takes them again."""

import io
import tarfile
from pathlib import Path

import pytest

from codec.errors import ArchiveError, SettingsError
from tasks.archive import layout, log, report
from tasks.compress import listing
from tasks.compress.runs import settled
from tasks.maintenance import compaction, forget, holds
from tasks.maintenance.audit import audit
from tasks.restore.restore import restore
from tasks.sources import sharding
from tasks.sources.source import open_source
from tasks.storage.store import Store
from tests.support.archive_builder import folder
from tests.support.codecless_archives import make
from tests.support.maintenance_runs import RUNS, killed, tree


def restored(archive: Path, target: Path) -> dict[str, bytes]:
    assert restore(str(archive), str(target)).errors == []
    return {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}


def test_no_byte_of_a_forgotten_picture_is_left_and_every_other_comes_back(tmp_path: Path) -> None:
    store = make(tmp_path / "a", RUNS)
    compaction.compact(store)
    before = {row["key"]: row for row in report.query(store, "SELECT * FROM rows WHERE run = 1")}
    assert forget.forget(store, ["b"]) == 2
    for content in tree(tmp_path / "a").values():
        assert b"b~~" not in content
    assert restored(tmp_path / "a", tmp_path / "out").keys() == {"a", "c", "d", "f", "h", "trip/g.jpg"}
    after = {row["key"]: row for row in report.query(store, "SELECT * FROM rows WHERE run = 1")}
    assert after["e"] == before["e"]
    assert {name for name in after["a"] if after["a"][name] != before["a"][name]} <= {"tar", "offset"}
    tombstone = {name: value for name, value in after["b"].items() if value is not None}
    assert tombstone == {name: before["b"][name] for name in tombstone if name != "status"} | {"status": "forgotten"}
    assert not {"source_sha256", "sha256", "tar", "offset", "bytes", "width"} & tombstone.keys()
    assert audit(str(tmp_path / "a")).problems == []


def test_a_tar_is_as_it_was_without_the_member(tmp_path: Path) -> None:
    store = make(tmp_path / "a", RUNS[:1])
    row = report.query(store, "SELECT tar, \"offset\" FROM rows WHERE key = 'b'")[0]
    old = store.read(row["tar"])
    forget.forget(store, ["b"])
    new = store.read(report.query(store, "SELECT tar FROM rows WHERE key = 'a'")[0]["tar"])
    assert new == old[: row["offset"] - 512] + old[row["offset"] + 512 :]
    assert not store.exists(row["tar"])
    with tarfile.open(fileobj=io.BytesIO(new)) as tar:
        assert len(tar.getnames()) == 2


def test_a_tar_of_which_nothing_is_left_goes(tmp_path: Path) -> None:
    store = make(tmp_path / "a", [{"a": b"a", "b": b"b"}])
    assert forget.forget(store, ["a", "b"]) == 2
    assert store.children(layout.shards(1)) == []
    assert audit(str(tmp_path / "a")).problems == []


def test_bytes_that_another_key_keeps_must_be_forgotten_with_it(tmp_path: Path) -> None:
    store = make(tmp_path / "a", [{"a": b"same", "z": b"else"}, {"twin": b"same"}])
    state = tree(tmp_path / "a")
    with pytest.raises(ArchiveError, match="the same bytes are also kept under 'twin'; forget those keys as well"):
        forget.forget(store, ["a"])
    assert tree(tmp_path / "a") == state
    assert forget.forget(store, ["a", "twin"]) == 2


def test_what_cannot_be_forgotten_is_refused_before_anything_is_changed(tmp_path: Path) -> None:
    store = make(tmp_path / "a", RUNS)
    state = tree(tmp_path / "a")
    with pytest.raises(ArchiveError, match="has no picture under the key 'e'"):
        forget.forget(store, ["a", "e"])
    assert tree(tmp_path / "a") == state
    store = make(tmp_path / "open", RUNS, seal=False)
    with pytest.raises(ArchiveError, match="run 3 is open; finish it"):
        forget.forget(store, ["a"])


def test_forgetting_again_changes_nothing(tmp_path: Path) -> None:
    store = make(tmp_path / "a", RUNS)
    forget.forget(store, ["b"])
    state = tree(tmp_path / "a")
    assert forget.forget(store, ["b"]) == 0
    assert tree(tmp_path / "a") == state


def test_a_forgotten_key_is_never_listed_again(tmp_path: Path) -> None:
    forget.forget(make(tmp_path / "a", RUNS), ["b"])
    source = folder(tmp_path / "s", {"b": b"a new picture under an old name", "new": b"new"})
    (tmp_path / "scratch").mkdir()
    archive = Store(str(tmp_path / "a"))
    limits = sharding.Limits(9, 10**9, 9)
    frozen = listing.freeze(open_source(str(source)), archive, log.read(archive), limits, tmp_path / "scratch")
    listed = listing.read(Store(str(tmp_path / "scratch")), frozen.path.name, 0, 9)
    assert {row["key"]: row["state"] for row in listed} == {
        "new": "new",
        **dict.fromkeys(("a", "c", "d", "f", "h", "trip/g.jpg"), "gone"),
    }


def test_killed_anywhere_and_run_again_the_erasure_is_the_same(tmp_path: Path) -> None:
    archive = tmp_path / "a"
    compaction.compact(make(archive, RUNS))
    kept = restored(archive, tmp_path / "before")
    copies = killed("forget", archive, tmp_path / "killed")
    assert len(copies) > 10
    assert forget.forget(Store(str(archive)), ["b", "c"]) == 3
    undisturbed = tree(archive)
    for copy in copies:
        store = Store(str(copy))
        assert report.rows(store).count_rows() == 11
        restored(copy, tmp_path / f"as it is after {copy.name}")
        begun = log.read(store).erasure is not None
        assert begun == (int(copy.name) > 0)
        assert forget.forget(store, ["b", "c"]) == 3
        assert forget.forget(store, []) == 0
        assert tree(copy) == undisturbed
        assert audit(str(copy)).problems == []
    assert restored(archive, tmp_path / "out") == {key: kept[key] for key in kept if key not in ("b", "c")}


def test_a_run_ends_an_erasure_that_was_interrupted(tmp_path: Path) -> None:
    archive = tmp_path / "a"
    make(archive, RUNS)
    for copy in killed("forget", archive, tmp_path / "killed")[1:]:
        head = settled(Store(str(copy)))
        assert (head.erasure, head.open_run) == (None, None)
        assert "b" not in restored(copy, tmp_path / f"out {copy.name}")
        assert audit(str(copy)).problems == []


def test_a_key_on_hold_is_not_forgotten_until_it_is_released(tmp_path: Path) -> None:
    store = make(tmp_path / "a", RUNS)
    holds.hold(store, "b", "a court asked")
    state = tree(tmp_path / "a")
    with pytest.raises(SettingsError, match="requires a reason"):
        holds.hold(store, "a", " ")
    with pytest.raises(ArchiveError, match=r"'b' is on hold \(a court asked\); release the hold"):
        forget.forget(store, ["a", "b"])
    assert tree(tmp_path / "a") == state
    with pytest.raises(ArchiveError, match="no picture under the key 'e'"):
        holds.hold(store, "e", "a court asked")
    with pytest.raises(ArchiveError, match="'a' is not on hold"):
        holds.release(store, "a")
    holds.hold(store, "a", "another court")
    holds.release(store, "b")
    assert log.read(store).holds == {"a": "another court"}
    assert forget.forget(store, ["b"]) == 2


def test_companions_are_named_and_forgotten_or_left_as_is_said(tmp_path: Path) -> None:
    store = make(tmp_path / "a", [{"x/IMG_1.jpg": b"a", "x/IMG_1.mov": b"b", "y/IMG_1.jpg": b"c"}])
    with pytest.raises(ArchiveError, match=r"'x/IMG_1.mov' are companions of .* --group"):
        forget.forget(store, ["x/IMG_1.jpg"])
    assert forget.forget(store, ["x/IMG_1.jpg"], companions="leave") == 1
    other = make(tmp_path / "b", [{"x/IMG_1.jpg": b"a", "x/IMG_1.mov": b"b", "y/IMG_1.jpg": b"c"}])
    assert forget.forget(other, ["x/IMG_1.jpg"], companions="too") == 2
