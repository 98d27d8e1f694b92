"""Maintenance commands beside each other: each is stopped at the moment that once lost pictures, and the other runs."""

import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codec.errors import ArchiveError
from tasks.archive import erasing, layout, log, report
from tasks.compress import runs
from tasks.maintenance import compaction
from tasks.maintenance.audit import audit
from tasks.maintenance.forget import forget
from tasks.processes.codec_process import Models
from tasks.restore.restore import restore
from tasks.storage.store import StorageError, Store
from tests.support.archive_builder import folder, pack, png, rows
from tests.support.codecless_archives import make
from tests.support.fake_codec import FAKE
from tests.support.maintenance_runs import RUNS

FAKES = Models("", threads=1, codec=FAKE)


def first(monkeypatch: pytest.MonkeyPatch, method: str, name: str, other: Callable[[], object]) -> list[str]:
    """Run another command to its end just before the store's first call of `method` for `name`."""
    real, done = getattr(Store, method), list[str]()

    def instead(self: Store, target: str, *arguments: Any) -> Any:
        if target == name and not done:
            done.append(name)
            other()
        return real(self, target, *arguments)

    monkeypatch.setattr(Store, method, instead)
    return done


def restored(archive: Path, target: Path) -> dict[str, bytes]:
    assert restore(str(archive), str(target)).errors == []
    return {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}


def holds(archive: Path, content: bytes) -> bool:
    for path in archive.rglob("*.tar"):
        with tarfile.open(path) as tar:
            files = [file for file in map(tar.extractfile, tar.getmembers()) if file is not None]
            if any(file.read().startswith(content) for file in files):
                return True
    return False


def begins(archive: Path) -> str:
    """The name of the record that the next change of an archive will write."""
    return layout.record(log.number(Store(str(archive))) + 1)


def test_a_run_that_is_sealed_before_the_erasure_is_on_record_is_erased_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make(tmp_path / "a", RUNS)
    later = lambda: make(tmp_path / "a", [*RUNS, {"b": b"b once more", "z": b"zzz"}])  # noqa: E731
    done = first(monkeypatch, "publish", begins(tmp_path / "a"), later)
    assert forget(store, ["b"]) == 3
    assert done
    assert not holds(tmp_path / "a", b"b once more")
    assert restored(tmp_path / "a", tmp_path / "out")["z"] == b"zzz"
    assert audit(str(tmp_path / "a")).problems == []


def test_a_companion_that_comes_meanwhile_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(tmp_path / "a", [{"b.jpg": b"bbb"}])
    later = lambda: make(tmp_path / "a", [{"b.jpg": b"bbb"}, {"b.mov": b"a film"}])  # noqa: E731
    first(monkeypatch, "publish", begins(tmp_path / "a"), later)
    with pytest.raises(ArchiveError, match=r"'b.mov' are companions of the keys to forget"):
        forget(store, ["b.jpg"])
    assert restored(tmp_path / "a", tmp_path / "out").keys() == {"b.jpg", "b.mov"}
    assert forget(store, ["b.jpg"], companions="too") == 2


def test_a_run_that_was_planned_before_an_erasure_does_not_bring_the_picture_back(
    tmp_path: Path, fake_bundle: Path, monkeypatch: pytest.MonkeyPatch, children_are_played_here: None
) -> None:
    source, archive = folder(tmp_path / "s", {"a.png": png(1), "b.png": png(2)}), tmp_path / "a"
    pack(source, archive, fake_bundle)
    folder(source, {"b.png": png(3), "c.png": png(4)})
    done = first(monkeypatch, "publish", begins(archive), lambda: forget(Store(str(archive)), ["b.png"]))
    pack(source, archive, fake_bundle)
    assert done
    found = {(row["key"], row["run"]): row["status"] for row in rows(archive)}
    assert found == {("a.png", 1): "compressed", ("b.png", 1): "forgotten", ("c.png", 2): "compressed"}
    assert pack(source, archive, fake_bundle).runs == []


@pytest.mark.parametrize("compacted_before", [False, True])
def test_a_compaction_beside_an_erasure_names_no_tar_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compacted_before: bool
) -> None:
    store = make(tmp_path / "a", RUNS[:1])
    if compacted_before:
        compaction.compact(store)
    make(tmp_path / "a", RUNS)
    done = first(monkeypatch, "publish", begins(tmp_path / "a"), lambda: forget(store, ["b"]))
    compaction.compact(store, afresh=True)
    assert done
    assert restored(tmp_path / "a", tmp_path / "out").keys() == {"a", "c", "d", "f", "h", "trip/g.jpg"}
    assert {row["status"] for row in report.query(store, "SELECT * FROM rows WHERE key = 'b'")} == {"forgotten"}
    assert audit(str(tmp_path / "a")).problems == []
    assert [table.last_run for table in log.read(store).tables] == [len(RUNS)]


@pytest.mark.parametrize(
    ("forgotten", "pauses_before"), [("f", begins), ("b", lambda _: layout.seal(2))], ids=["the record", "the seal"]
)
def test_a_sealer_that_pauses_removes_nothing_of_others_and_leaves_nothing_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: str, pauses_before: Callable[[Path], str]
) -> None:
    store = make(tmp_path / "a", RUNS[:2], seal=False)
    plan = log.plan(store, log.read(store), 2)

    def others() -> None:
        runs.seal(store, plan)
        forget(store, [forgotten])  # gives the tar of its shard, and the seal, new names

    done = first(monkeypatch, "publish", pauses_before(tmp_path / "a"), others)
    assert runs.seal(store, plan) == []
    assert done
    assert not store.exists(layout.seal(2))
    monkeypatch.undo()
    assert audit(str(tmp_path / "a")).problems == []
    kept = {key for run in RUNS[:2] for key, content in run.items() if content is not None}
    assert restored(tmp_path / "a", tmp_path / "out").keys() == kept - {forgotten}


def test_a_runner_that_comes_after_seal_and_erasure_brings_nothing_back(
    tmp_path: Path, fake_bundle: Path, monkeypatch: pytest.MonkeyPatch, children_are_played_here: None
) -> None:
    source, archive = folder(tmp_path / "s", {"a.png": png(1), "b.png": png(2)}), tmp_path / "a"
    part, store = layout.part(1, 0), Store(str(archive))

    def others() -> None:
        pack(source, archive, fake_bundle)
        forget(store, ["b.png"])

    done = first(monkeypatch, "publish", part, others)
    assert pack(source, archive, fake_bundle).runs == [1]
    assert done
    assert not store.exists(part)
    [tar] = {row["tar"] for row in rows(archive) if row["tar"]}
    assert [f"{layout.shards(1)}/{name}" for name in store.children(layout.shards(1))] == [tar]
    assert {row["key"]: row["status"] for row in rows(archive)} == {"a.png": "compressed", "b.png": "forgotten"}
    monkeypatch.undo()
    assert audit(str(archive), models=FAKES).problems == []


def test_an_erasure_that_another_carries_out_meanwhile_leaves_nothing_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make(tmp_path / "a", RUNS)
    begun, made = begins(tmp_path / "a"), log.number(store) + 1

    def others() -> None:
        erasing.finish(store)
        forget(store, ["a", "c"])  # takes away what the first erasure made

    real, done = Store.publish, list[str]()

    def late(self: Store, name: str, content: bytes | Path) -> bool:
        if name.endswith(f"-{made}.tar") and not done:
            done.append(name)
            others()
        return real(self, name, content)

    monkeypatch.setattr(Store, "publish", late)
    assert forget(store, ["b"]) == 2
    assert done
    assert store.exists(begun)
    assert not any(holds(tmp_path / "a", content) for content in (b"b~~", b"aaa", b"ccc"))
    monkeypatch.undo()
    assert audit(str(tmp_path / "a")).problems == []
    assert restored(tmp_path / "a", tmp_path / "out").keys() == {"d", "f", "h", "trip/g.jpg"}


def test_a_repair_that_comes_late_does_not_bring_back_what_was_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, mirror = make(tmp_path / "a", RUNS), make(tmp_path / "mirror", RUNS)
    tar = report.query(store, "SELECT tar FROM rows WHERE key = 'b' AND run = 1")[0]["tar"]
    store.replace(tar, store.read(tar)[:-1] + b"?")

    def others() -> None:
        with pytest.raises(ArchiveError, match="damaged; audit the archive with --repair-from a mirror before you"):
            forget(store, ["b"])
        audit(store.url, repair_from=mirror.url)
        assert forget(store, ["b"]) == 2

    done = first(monkeypatch, "replace", tar, others)
    audit(store.url, repair_from=mirror.url)
    assert done
    assert not holds(tmp_path / "a", b"b~~")


def test_a_repair_that_fails_leaves_what_was_there_and_the_findings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "a", RUNS)
    make(tmp_path / "mirror", RUNS)
    (tar, *_) = sorted((tmp_path / "a").glob("runs/000001/shards/*.tar"))
    data = tar.read_bytes()
    tar.chmod(0o644)
    tar.write_bytes(data[:-600] + b"damage" + data[-594:])
    left = tar.read_bytes()
    name = tar.relative_to(tmp_path / "a").as_posix()
    real = Store.replace

    def full(self: Store, target: str, content: bytes | Path) -> None:
        if target == name:
            raise StorageError(f"{target}: no space left")
        real(self, target, content)

    monkeypatch.setattr(Store, "replace", full)
    audited = audit(str(tmp_path / "a"), repair_from=str(tmp_path / "mirror"))
    assert tar.read_bytes() == left
    assert any("no space left" in str(problem["detail"]) for problem in audited.problems)
    assert (tmp_path / "a" / audited.findings).exists()
    monkeypatch.undo()
    assert audit(str(tmp_path / "a"), repair_from=str(tmp_path / "mirror")).repaired == 1
    assert tar.read_bytes() == data


def test_findings_are_kept_when_the_audit_itself_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "a", RUNS)

    def broken(*_: object, **__: object) -> None:
        raise StorageError("the store is gone")

    monkeypatch.setattr(Store, "abort_uploads", broken)
    with pytest.raises(StorageError, match="the store is gone"):
        audit(str(tmp_path / "a"))
    assert len(list((tmp_path / "a" / layout.AUDITS).iterdir())) == 1
