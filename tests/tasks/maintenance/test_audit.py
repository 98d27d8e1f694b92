"""An audit finds each planted fault, puts right what a mirror can, and lets a sound archive pass."""

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from codec.errors import ArchiveError, SettingsError
from tasks.archive import index_files, layout, log, report, schema, tables
from tasks.maintenance import compaction, holds
from tasks.maintenance.audit import audit
from tasks.maintenance.findings import SCHEMA
from tasks.processes.codec_process import Models
from tasks.storage.store import Store
from tests.support.archive_builder import manifest_name, reopened
from tests.support.codecless_archives import BUNDLE, make
from tests.support.fake_codec import FAKE
from tests.support.maintenance_runs import RUNS, tree

FAKES = Models("", threads=1, codec=FAKE)
Fault = Callable[[Path], str]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compacted archive of three runs."""
    archive = tmp_path_factory.mktemp("audit") / "a"
    compaction.compact(make(archive, RUNS))
    return archive


@pytest.fixture
def archive(sound: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(sound, tmp_path / "a"))


def damage(path: Path, at: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def row_of(archive: Path, key: str) -> dict[str, object]:
    return report.query(Store(str(archive)), f"SELECT * FROM rows WHERE key = '{key}' ORDER BY run")[0]


def in_a_member(archive: Path) -> str:
    row = row_of(archive, "c")
    damage(archive / str(row["tar"]), int(str(row["offset"])))
    return f"damaged {row['tar']}"


def between_members(archive: Path) -> str:
    row = row_of(archive, "c")
    damage(archive / str(row["tar"]), int(str(row["offset"])) - 512)
    return f"damaged {row['tar']}"


def no(name: str) -> Fault:
    def remove(archive: Path) -> str:
        (archive / name).unlink()
        return f"missing {name}"

    return remove


def no_tar(archive: Path) -> str:
    return no(str(row_of(archive, "f")["tar"]))(archive)


def no_listing(archive: Path) -> str:
    return no(next(archive.glob("runs/000002/listing-*")).relative_to(archive).as_posix())(archive)


def bad(name: str) -> Fault:
    def spoil(archive: Path) -> str:
        damage(archive / name, 0)
        return f"damaged {name}"

    return spoil


def bad_table(archive: Path) -> str:
    return bad(log.read(Store(str(archive))).tables[0].files[0].name)(archive)


def no_manifest(archive: Path) -> str:
    return no(manifest_name(archive, 2))(archive)


def bad_manifest(archive: Path) -> str:
    return bad(manifest_name(archive, 1))(archive)


FAULTS: dict[str, Fault] = {
    "a bit of a picture": in_a_member,
    "a bit between pictures": between_members,
    "a missing tar": no_tar,
    "a missing part": no(layout.part(1, 1)),
    "a damaged part": bad(layout.part(2, 0)),
    "a missing listing": no_listing,
    "a missing manifest": no_manifest,
    "a damaged manifest": bad_manifest,
    "a missing seal": no(layout.seal(2)),
    "a damaged seal": bad(layout.seal(3)),
    "a damaged table": bad_table,
    "a damaged record of the log": bad(layout.record(4)),
    "a damaged head": bad(layout.record(8)),
    "a damaged list of hashes": bad(f"{layout.escrow(BUNDLE)}/{layout.SUMS}"),
    "a missing file of the bundle": no(f"{layout.escrow(BUNDLE)}/config.json"),
    "a missing bundle": no(f"{layout.escrow(BUNDLE)}/{layout.SUMS}"),
    "a missing archive.json": no(layout.ARCHIVE),
}


def test_a_sound_archive_passes_and_every_object_and_picture_is_written_down(archive: Path) -> None:
    audited = audit(str(archive))
    assert audited.problems == []
    found = pa.parquet.read_table(archive / audited.findings)
    assert found.schema.equals(SCHEMA)
    assert set(found.column("state").to_pylist()) == {"ok"}
    pictures = [key for key in found.column("key").to_pylist() if key is not None]
    assert sorted(pictures) == ["a", "b", "b", "c", "d", "f", "h", "trip/g.jpg"]
    assert (audited.objects, audited.pictures) == (found.num_rows - 8, 8)
    assert audit(str(archive)).problems == []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_and_repaired_from_a_mirror(fault: str, archive: Path, sound: Path) -> None:
    state = tree(archive)
    expected = FAULTS[fault](archive)
    if fault == "a missing archive.json":
        with pytest.raises(ArchiveError, match="no archive here"):
            audit(str(archive))
    else:
        found = audit(str(archive))
        assert expected in [f"{problem['state']} {problem['name']}" for problem in found.problems]
        assert not found.repaired
        assert tree(archive) != state or {"table", "record", "head"} & set(fault.split())
    repaired = audit(str(archive), repair_from=str(sound))
    assert {f"{problem['state']} {problem['name']}" for problem in repaired.problems} == {expected}
    assert repaired.repaired == len(repaired.problems) == 1
    assert audit(str(archive)).problems == []
    assert tree(archive) == state


def test_what_a_mirror_has_wrong_too_is_not_taken(archive: Path, sound: Path, tmp_path: Path) -> None:
    mirror = Path(shutil.copytree(sound, tmp_path / "mirror"))
    in_a_member(archive)
    between_members(mirror)
    before = tree(archive)
    assert audit(str(archive), repair_from=str(mirror)).repaired == 0
    assert tree(archive) == before


def test_foreign_files_are_told_and_left(archive: Path) -> None:
    (archive / "holiday.txt").write_text("mine")
    found = [(problem["state"], problem["name"]) for problem in audit(str(archive)).problems]
    assert found == [("foreign", "holiday.txt")]
    assert (archive / "holiday.txt").exists()


def test_what_commands_left_over_is_swept_when_it_is_seven_days_old_and_not_on_hold(archive: Path) -> None:
    (archive / "runs" / "000004").mkdir()
    left = [
        *(layout.tar(1, 0, "ab" * 32), layout.rewritten_tar(2, 0, "cd" * 32, 5), layout.part(1, 9)),
        *(layout.manifest(1, "ef" * 32), layout.rewritten_seal(2, "01" * 32), layout.listing(3, "23" * 32)),
        *("tables/000000001/rows-000000-0123456789abcdef.parquet", "tables/CURRENT.json"),
    ]
    at_work = [layout.listing(4, "45" * 32), "tables/000000099/rows-000000-0123456789abcdef.parquet"]
    for name in [*left, *at_work]:
        (archive / name).parent.mkdir(exist_ok=True)
        (archive / name).write_bytes(b"")
    six_days, eight_days = time.time() - 6 * 86400, time.time() - 8 * 86400
    for name in [*left, *at_work]:
        os.utime(archive / name, (eight_days, eight_days))
    os.utime(archive / left[0], (six_days, six_days))
    holds.hold(Store(str(archive)), "b", "a court asked")
    kept = {left[0], left[1], left[2], *at_work}
    kept.remove(left[2])  # of no shard of the key on hold
    audited = audit(str(archive))
    assert {name for name in [*left, *at_work] if (archive / name).exists()} == kept
    assert {(problem["state"], problem["repaired"]) for problem in audited.problems} == {("left_over", True)}
    holds.release(Store(str(archive)), "b")
    audit(str(archive))
    assert not (archive / left[1]).exists()
    assert audit(str(archive)).problems == []


def test_work_in_progress_is_no_fault(tmp_path: Path) -> None:
    store = make(tmp_path / "a", RUNS, seal=False)
    store.publish(layout.tar(3, 1, "ab" * 32), b"of a shard whose part is still to come")
    assert audit(str(tmp_path / "a")).problems == []


@pytest.mark.parametrize("change", [{"length": 5}, {"tar": None}, {"key": "another"}, None])
def test_a_table_that_has_other_rows_than_the_parts_is_found_and_compacted_afresh(
    archive: Path, change: dict[str, object] | None
) -> None:
    store = Store(str(archive))
    head = log.read(store)
    file = head.tables[0].files[0]
    rows = pa.parquet.read_table(archive / file.name).to_pylist()
    changed = [rows[3] | change] if change is not None else []
    other = tables.publish(store, 99, 0, pa.Table.from_pylist([*rows[:3], *changed, *rows[4:]], schema.SCHEMA))
    assert log.append(store, head, "compact", replace(head, tables=(replace(head.tables[0], files=(other,)),)))
    keys = {problem["key"] for problem in audit(str(archive)).problems}
    assert keys == {rows[3]["key"], *(row["key"] for row in changed)}
    compaction.compact(store, afresh=True)
    assert audit(str(archive)).problems == []


def test_a_sample_reads_some_pictures_only_and_repairs_the_tar(archive: Path, sound: Path) -> None:
    sampled = audit(str(archive), sample=0.01, seed=1)
    assert (sampled.pictures, sampled.problems) == (5, [])
    for row in report.query(
        Store(str(archive)), "SELECT DISTINCT tar, \"offset\" FROM rows WHERE tar LIKE '%1/shards%'"
    ):
        damage(archive / row["tar"], row["offset"])
    found = audit(str(archive), sample=0.01)
    assert {problem["state"] for problem in found.problems} == {"damaged"}
    assert audit(str(archive), sample=0.01, repair_from=str(sound)).repaired == 2
    assert audit(str(archive)).problems == []


def test_a_sample_of_nothing_is_refused(archive: Path) -> None:
    with pytest.raises(SettingsError, match="sample must be above 0 and at most 1, not 0"):
        audit(str(archive), sample=0)


def test_a_tar_that_ends_too_soon_is_damaged_also_in_a_sample(archive: Path) -> None:
    row = row_of(archive, "h")
    tar = archive / str(row["tar"])
    tar.write_bytes(tar.read_bytes()[: int(str(row["offset"])) + 1])
    assert [problem["key"] for problem in audit(str(archive), sample=0.5).problems] in (["h"], ["h", "d"])


def test_symbols_are_decoded_again(packed_once: tuple[Path, Path], tmp_path: Path) -> None:
    """A stream with the right hash that decodes to other symbols than were encoded passes every other check."""
    archive = Path(shutil.copytree(packed_once[1], tmp_path / "a"))
    assert audit(str(archive), models=FAKES).problems == []
    part = archive / layout.part(1, 0)
    table = pa.parquet.read_table(part)
    rows = table.to_pylist()
    rows[0]["content_sha256"] = "0" * 64
    about = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    del about[index_files.ROWS_SHA256.decode()]
    part.write_bytes(index_files.encoded(rows, about))
    reopened(archive)
    problems = audit(str(archive), models=FAKES).problems
    assert [(problem["state"], problem["key"]) for problem in problems] == [("undecodable", rows[0]["key"])]
