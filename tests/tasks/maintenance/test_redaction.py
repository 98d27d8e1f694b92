"""A redacted key is in no object of the archive, is never taken again, and everything else is as it was."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.archive import app
from tasks.archive import log, redaction, report
from tasks.maintenance import forget, holds
from tasks.maintenance.audit import audit
from tasks.processes.codec_process import Models
from tasks.restore.restore import restore
from tasks.storage.store import Store
from tests.support.archive_builder import SMALL, folder, pack, png
from tests.support.codecless_archives import make
from tests.support.fake_codec import FAKE
from tests.support.maintenance_runs import RUNS, killed, naming, tree

FAKES = Models("", threads=1, codec=FAKE)
NAME = "diagnosis of Jane Doe.png"


@pytest.fixture
def source(tmp_path: Path, children_are_played_here: None) -> Path:
    return folder(tmp_path / "s", {NAME: png(1), "a.png": png(2), "b.png": png(3)})


def test_no_object_names_a_redacted_key_and_no_run_takes_it_again(
    source: Path, tmp_path: Path, fake_bundle: Path
) -> None:
    archive = tmp_path / "a"
    pack(source, archive, fake_bundle)
    folder(source, {NAME: png(4), "c.png": png(5)})
    pack(source, archive, fake_bundle)
    before = {row["key"]: row for row in report.query(Store(str(archive)), "FROM rows") if row["key"] != NAME}
    assert len(naming(Store(str(archive)), "Jane")) > 5
    assert forget.forget(Store(str(archive)), [NAME], redact=True) == 2
    assert naming(Store(str(archive)), "Jane") == []
    assert pack(source, archive, fake_bundle).runs == []
    folder(source, {"d.png": png(6)})
    pack(source, archive, fake_bundle)
    folder(source, {"e.png": png(8)})
    pack(source, archive, fake_bundle, replace(SMALL, exclude=("*Doe*", "a.png")), recheck=True)
    assert naming(Store(str(archive)), "Jane") == []
    assert audit(str(archive), models=FAKES).problems == []
    after = {row["key"]: row for row in report.query(Store(str(archive)), "FROM rows WHERE run <= 2")}
    moved = ("tar", "offset")
    for key, row in before.items():
        assert row == after[key] | {name: row[name] for name in moved}
    (tombstone,) = [row for row in after.values() if row["status"] == "forgotten"]
    assert tombstone["key"] == tombstone["source_uri"] == redaction.pseudonym(NAME)


def test_what_was_a_duplicate_of_a_redacted_key_names_it_no_more(
    source: Path, tmp_path: Path, fake_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder(source, {"later.png": png(1)})
    pieces, read = Store.pieces, list[str]()

    def vanishing(self: Store, name: str, *arguments: Any) -> Any:
        if name == NAME and NAME in read:  # it was listed as an equal of the other, and is gone when its shard reads it
            (source / NAME).unlink(missing_ok=True)
        read.append(name)
        return pieces(self, name, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "pieces", vanishing)
        pack(source, tmp_path / "a", fake_bundle)
    folder(source, {NAME: png(7)})
    pack(source, tmp_path / "a", fake_bundle)
    store = Store(str(tmp_path / "a"))
    (twin,) = report.query(store, f"FROM rows WHERE duplicate_of = '{NAME}'")
    forget.forget(store, [NAME], redact=True)
    assert report.query(store, "FROM rows WHERE key = 'later.png'") == [
        twin
        | {name: row[name] for row in report.lookup(store, ["later.png"]).to_pylist() for name in ("tar", "offset")}
        | {"duplicate_of": redaction.pseudonym(NAME)}
    ]
    assert naming(Store(str(tmp_path / "a")), "diagnosis") == []
    assert audit(str(tmp_path / "a"), models=FAKES).problems == []


def test_killed_anywhere_and_run_again_a_redaction_is_the_same(tmp_path: Path) -> None:
    archive = tmp_path / "a"
    make(archive, RUNS)
    copies = killed("redact", archive, tmp_path / "killed")
    assert len(copies) > 12
    assert forget.forget(Store(str(archive)), ["b", "c"], redact=True) == 3
    undisturbed = tree(archive)
    for copy in [*copies[::4], *copies[-2:]]:
        store = Store(str(copy))
        assert report.rows(store).count_rows() == 11
        assert restore(str(copy), str(tmp_path / f"out {copy.name}")).errors == []
        assert forget.forget(store, ["b", "c"], redact=True) == 3
        assert tree(copy) == undisturbed
        assert audit(str(copy)).problems == []


def test_what_was_on_hold_found_damaged_and_forgotten_before_can_be_redacted(tmp_path: Path) -> None:
    archive = tmp_path / "a"
    store = make(archive, RUNS)
    holds.hold(store, "trip/g.jpg", "a court asked")
    holds.release(store, "trip/g.jpg")
    tar = next(row["tar"] for row in report.query(store, "FROM rows WHERE key = 'trip/g.jpg'"))
    sound = store.read(tar)
    store.replace(tar, sound.replace(b"ggg", b"gxg"))
    assert audit(str(archive)).problems
    store.replace(tar, sound)
    forget.forget(store, ["trip/g.jpg"])
    assert len(naming(Store(str(archive)), "trip/g.jpg")) > 5
    said = CliRunner().invoke(app, ["forget", str(archive), "trip/g.jpg", "--redact-key"])
    assert (said.exit_code, said.output) == (0, "tombstones: 1\n")
    assert naming(Store(str(archive)), "trip/g.jpg") == []
    assert audit(str(archive)).problems == []
    assert log.read(store).erasure is None
    assert forget.forget(store, ["trip/g.jpg"], redact=True) == 0


def test_a_folder_called_like_pseudonyms_can_be_forgotten_and_redacted(tmp_path: Path) -> None:
    store = make(tmp_path / "a", [{"redacted/a.jpg": b"aaa", "redacted/b.jpg": b"bbb", "c.jpg": b"ccc"}])
    assert forget.forget(store, ["redacted/a.jpg"]) == 1
    assert forget.forget(store, ["redacted/a.jpg", "redacted/b.jpg"], redact=True) == 2
    assert naming(store, "a.jpg") == naming(store, "b.jpg") == []
    assert forget.forget(store, ["redacted/a.jpg", redaction.pseudonym("redacted/b.jpg")], redact=True) == 0
    assert audit(str(tmp_path / "a")).problems == []


def test_a_pseudonym_is_of_the_key_alone_and_the_same_in_sql(tmp_path: Path) -> None:
    store = make(tmp_path / "a", RUNS)
    told = report.query(store, f"SELECT DISTINCT key, {redaction.PSEUDONYM} AS pseudonym FROM rows")
    assert len({row["pseudonym"] for row in told}) == len(told) > 5
    for row in told:
        assert row["pseudonym"] == redaction.pseudonym(row["key"])
