"""Each object of an archive damaged in each way: restore is right or says so, the audit finds it, a mirror mends it."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from codec.errors import ArchiveError
from tasks.archive import index_files, layout, log
from tasks.archive.index_files import IndexFile
from tasks.maintenance.audit import audit
from tasks.restore.restore import restore
from tasks.storage.store import Store
from tests.support.codecless_archives import make

CONTENTS = {"a": b"the first picture", "b": b"the second", "c": b"the third one", "x/d": b"the fourth of them"}
RUNS = [{key: CONTENTS[key] for key in ("a", "b", "c")}, {"a": CONTENTS["a"], "x/d": CONTENTS["x/d"]}]
LAST = layout.record(5)


def flipped(data: bytes) -> bytes:
    place = random.Random(data).randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :]


DAMAGE: dict[str, Callable[[bytes], bytes] | None] = {
    "one bit flipped": flipped,
    "another bit flipped": lambda data: flipped(data[::-1])[::-1],
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "missing": None,
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("sweep")
    make(home / "a", RUNS, per_shard=2)
    return home / "a"


@pytest.mark.parametrize("damage", DAMAGE)
def test_each_object(damage: str, sound: Path, tmp_path: Path) -> None:
    archive, out = tmp_path / "a", tmp_path / "out"
    shutil.copytree(sound, archive)
    retired = log.read(Store(str(sound))).retired
    names = sorted({path.relative_to(sound).as_posix() for path in sound.rglob("*") if path.is_file()} - {*retired})
    kinds = ("archive.json", "escrow", "listing", "manifest", "shards", "part", "complete", "rows", "log")
    assert all(any(kind in name for name in names) for kind in kinds)
    for name in names:
        path = archive / name
        path.chmod(0o644)
        change = DAMAGE[damage]
        if change is None:
            path.unlink()
        else:
            path.write_bytes(change(path.read_bytes()))
        complaint = ""
        try:
            complaint = "; ".join(restore(str(archive), str(out)).errors)
        except ArchiveError as error:
            complaint = str(error)
        there = {item.relative_to(out).as_posix(): item.read_bytes() for item in out.rglob("*") if item.is_file()}
        assert all(CONTENTS.get(key) == content for key, content in there.items()), f"{name}: {there}"
        assert there == CONTENTS or complaint, f"{name}: pictures are not there, and nothing is said"
        assert "Traceback" not in complaint and "\n" not in complaint
        shutil.rmtree(out, ignore_errors=True)
        if name != layout.ARCHIVE and not (name == LAST and change is None):  # a mirror alone tells of a lost last one
            problems = audit(str(archive)).problems
            assert name in {problem["name"] for problem in problems}, f"{name}: {problems}"
        mended = audit(str(archive), repair_from=str(sound))
        assert mended.found == mended.repaired, f"{name}: {mended.problems}"
        assert path.read_bytes() == (sound / name).read_bytes()
    assert audit(str(archive)).problems == []


def test_a_damaged_part_costs_its_own_pictures_where_no_table_has_them(sound: Path, tmp_path: Path) -> None:
    archive = Path(shutil.copytree(sound, tmp_path / "a"))
    shutil.rmtree(archive / layout.TABLES)
    part = archive / layout.part(1, 0)
    part.chmod(0o644)
    part.write_bytes(flipped(part.read_bytes()))
    done = restore(str(archive), str(tmp_path / "out"))
    assert [failure.tar.rpartition("/")[2] for failure in done.failures] == ["part-000000.parquet"]
    assert "run `audit-archive ARCHIVE --repair-from MIRROR`" in done.errors[0]
    there = {path.name: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert there == {"a": CONTENTS["a"], "c": CONTENTS["c"], "d": CONTENTS["x/d"]}


def test_no_flipped_bit_in_a_part_of_an_open_run_changes_a_row_unseen(tmp_path: Path) -> None:
    """No record names the part of an open run yet, so its own hash must show the damage."""
    store = make(tmp_path / "a", RUNS, seal=False)
    part = IndexFile(layout.part(2, 0))
    data = store.read(part.name)
    rows = index_files.decoded(store, part, data).to_pylist()
    refused = 0
    for place in range(0, len(data), 5):
        changed = data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :]
        try:
            assert index_files.decoded(store, part, changed).to_pylist() == rows, f"bit {place % 8} of byte {place}"
        except index_files.DamagedError:
            refused += 1
    assert refused > len(data) // 50


def test_a_part_with_a_time_zone_that_nobody_knows_is_damaged(tmp_path: Path) -> None:
    """A flipped bit in the name of the time zone UTC raises a KeyError where a row is read."""
    store = make(tmp_path / "a", RUNS, seal=False)
    part = IndexFile(layout.part(2, 0))
    table = index_files.decoded(store, part, store.read(part.name))
    zoned = [
        field.with_type(pa.timestamp("us", "UTE")) if pa.types.is_timestamp(field.type) else field
        for field in table.schema
    ]
    changed = table.cast(pa.schema(zoned, table.schema.metadata))
    assert changed.schema != table.schema
    with pytest.raises(index_files.DamagedError, match="damaged"):
        index_files.decoded(store, part, index_files.written(changed))
