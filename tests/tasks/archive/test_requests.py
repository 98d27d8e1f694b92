"""What an archive asks of its store does not grow with the number of its runs."""

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tasks.archive import index_files, layout, log, manifest, report, schema, tables
from tasks.archive.listing_schema import LISTING
from tasks.archive.log import ArchiveHead, Table
from tasks.archive.opening import writable
from tasks.compress import runs
from tasks.restore.filesystem import ArchiveFileSystem
from tasks.restore.restore import restore
from tasks.storage.store import Store, sha256_of
from tests.support.archive_builder import SMALL
from tests.support.schedules import OPERATIONS

ARCHIVE, BUNDLE, ROWS = "memory://counted/archive", "0" * 64, 3
CONTENT = b"the bytes of every picture"


def row(run: int, number: int) -> dict[str, Any]:
    return {
        **{"key": f"{number:02d}/{run:06d}.bin", "version": 1, "source_uri": "s", "source_bytes": len(CONTENT)},
        **{"status": "fallback", "codec": "original", "reason": "would_grow", "run": run, "shard": 0, "verified": True},
        **{"tar": layout.tar(run, 0, "a" * 64), "offset": 0, "length": len(CONTENT), "bundle_id": BUNDLE},
        **{"sha256": sha256_of(CONTENT), "created_at": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)},
    }


def merged(sealed: int) -> list[tuple[int, int]]:
    """The first and last run of each table after `sealed` equal runs, as seals merge tables."""
    found: list[tuple[int, int]] = []
    for run in range(1, sealed + 1):
        first = run
        while found and found[-1][1] - found[-1][0] + 1 < tables.FACTOR * (run - first + 1):
            first = found.pop()[0]
        found.append((first, run))
    return found


def grown(sealed: int, *, is_open: bool) -> Store:
    """An archive of so many sealed runs of three pictures, and of an open one of 300 shards, of which 200 are done."""
    store = Store(ARCHIVE)
    store.publish(layout.ARCHIVE, manifest.to_json({"format": manifest.FORMAT, "name": "counted"}))
    held: list[Table] = []
    for first, last in merged(sealed):
        rows = [row(run, number) for number in range(ROWS) for run in range(first, last + 1)]
        rows.sort(key=lambda each: str(each["key"]))
        files = (tables.publish(store, last, 0, schema.table(rows, {})),)
        listed = pa.Table.from_pylist(
            [{"key": each["key"], "run": each["run"], "size": 1, "stamp": "1", "state": "new"} for each in rows],
            tables.LISTED,
        )
        held.append(Table(first, last, files, (tables.publish(store, last, 1, listed),)))
    store.publish(layout.tar(sealed // 2, 0, "a" * 64), CONTENT)
    head = ArchiveHead(record=2 * sealed, runs=sealed, tables=tuple(held))
    if is_open:
        head = ArchiveHead(2 * sealed, sealed + 1, opened(store, sealed + 1), tables=tuple(held))
    assert log.append(store, head, "seal", head)
    return store


def opened(store: Store, run: int) -> str:
    keys = [{"run": run, "key": f"new/{number:04d}", "uri": "s", "size": 1, "stamp": "1", "state": "new", "version": 1}
            for number in range(300)]  # fmt: skip
    frozen = pa.BufferOutputStream()
    pa.parquet.write_table(pa.Table.from_pylist(keys, LISTING), frozen, row_group_size=50)
    data = frozen.getvalue().to_pybytes()
    listing = layout.listing(run, sha256_of(data))
    store.publish(listing, data)
    shards = tuple((number, number + 1) for number in range(300))
    plan = manifest.Manifest(run, run - 1, "s", listing, sha256_of(data), 0, False, shards, SMALL, BUNDLE)
    name = layout.manifest(run, sha256_of(plan.to_bytes()))
    store.publish(name, plan.to_bytes())
    store.publish(layout.tar(run, 7, "a" * 64), CONTENT)
    for number in range(200):
        about = {"key": f"new/{number:04d}", "shard": number, "tar": layout.tar(run, 7, "a" * 64)}
        store.publish(
            layout.part(run, number), index_files.encoded([row(run, 0) | about], {"tar": "", "run": str(run)})
        )
    return name


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A list to which every later operation on the archive is added."""
    asked: list[str] = []

    def counting(name: str, real: Any) -> Any:
        def operation(self: Store, *arguments: Any, **options: Any) -> Any:
            asked.append(f"{name} {arguments[0] if arguments else ''}")
            return real(self, *arguments, **options)

        return operation

    for name in OPERATIONS:
        monkeypatch.setattr(Store, name, counting(name, getattr(Store, name)))
    yield asked
    MemoryFileSystem.store.clear()


@pytest.mark.parametrize("is_open", [False, True], ids=["sealed", "with an open run"])
@pytest.mark.parametrize("sealed", [10, 4000])
def test_opening_and_one_picture_take_at_most_twelve(
    sealed: int, is_open: bool, counted: list[str], tmp_path: Path
) -> None:
    store = grown(sealed, is_open=is_open)
    assert len(log.read(store).tables) <= 7
    writable(ARCHIVE)  # a place where it was never written before has its store tried
    counted.clear()
    head = runs.settled(writable(ARCHIVE))
    assert (head.runs, len(counted) <= 12) == (sealed + is_open, True), counted

    key = f"01/{sealed // 2:06d}.bin"
    counted.clear()
    assert restore(ARCHIVE, str(tmp_path / "out"), [key]).images == 1
    assert (tmp_path / "out" / key).read_bytes() == CONTENT
    assert len(counted) <= 12 + 3 * is_open, counted  # an open run: its manifest, its listing, its part

    fsspec.register_implementation("fdc", ArchiveFileSystem, clobber=True)
    counted.clear()
    with fsspec.open(f"fdc://{key}::{ARCHIVE}") as file:
        assert file.read() == CONTENT
    assert len(counted) <= 12 + 3 * is_open, counted


def test_a_picture_of_the_open_run_is_found_without_reading_its_other_parts(counted: list[str]) -> None:
    store = grown(10, is_open=True)
    counted.clear()
    [found] = report.lookup(store, ["new/0123"]).to_pylist()
    assert (found["run"], found["shard"]) == (11, 123)
    assert [name for name in counted if "/report/" in name] == [
        f"{verb} {layout.part(11, 123)}" for verb in ("item", "read")
    ]
    assert report.lookup(store, ["new/0250"]).num_rows == 0, "listed, but not done"
