"""An audit finds each planted fault, puts right what a mirror can, and lets a sound archive pass."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from codec.errors import ArchiveError, SettingsError
from tasks.archive import layout, manifest, report, schema
from tasks.maintenance import compaction
from tasks.maintenance.audit import audit
from tasks.maintenance.findings import SCHEMA
from tasks.processes.codec_process import Models
from tasks.storage.store import Store
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
    return bad(next(archive.glob("tables/000001/rows-*")).relative_to(archive).as_posix())(archive)


FAULTS: dict[str, Fault] = {
    "a bit of a picture": in_a_member,
    "a bit between pictures": between_members,
    "a missing tar": no_tar,
    "a missing part": no(layout.part(1, 1)),
    "a damaged part": bad(layout.part(2, 0)),
    "a missing listing": no_listing,
    "a missing manifest": no(layout.manifest(2)),
    "a damaged manifest": bad(layout.manifest(1)),
    "a missing seal": no(layout.seal(2)),
    "a damaged seal": bad(layout.seal(3)),
    "a damaged table": bad_table,
    "a damaged pointer to the tables": bad(layout.CURRENT),
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
        assert tree(archive) != state or "table" in fault
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
    (archive / layout.part(1, 9)).write_bytes((archive / layout.part(1, 0)).read_bytes())
    found = [(problem["state"], problem["name"]) for problem in audit(str(archive)).problems]
    assert found == [("foreign", "holiday.txt"), ("foreign", layout.part(1, 9))]
    assert (archive / "holiday.txt").exists()


def test_work_in_progress_is_no_fault(tmp_path: Path) -> None:
    store = make(tmp_path / "a", RUNS, seal=False)
    store.publish(layout.tar(3, 1, "ab" * 32), b"of a shard whose part is still to come")
    assert audit(str(tmp_path / "a")).problems == []


def test_a_table_without_all_rows_is_found(archive: Path) -> None:
    store = Store(str(archive))
    document = manifest.from_json(store.read(layout.CURRENT), "")
    store.replace(layout.CURRENT, manifest.to_json(document | {"runs": 2}))
    problem = audit(str(archive)).problems[0]
    assert problem["detail"] == "has 11 rows, but its runs have 9; remove it and compact again"


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
    """A stream with the right hash that decodes to other symbols than were encoded passes all but this."""
    archive = Path(shutil.copytree(packed_once[1], tmp_path / "a"))
    assert audit(str(archive), models=FAKES).problems == []
    part = archive / layout.part(1, 0)
    table = pa.parquet.read_table(part)
    rows = table.to_pylist()
    rows[0]["content_sha256"] = "0" * 64
    about = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    pa.parquet.write_table(schema.table(rows, about), part)
    (archive / layout.seal(1)).unlink()
    problems = audit(str(archive), models=FAKES).problems
    assert [(problem["state"], problem["key"]) for problem in problems] == [("undecodable", rows[0]["key"])]
