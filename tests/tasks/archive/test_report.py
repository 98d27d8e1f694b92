"""The report is one table, whoever reads it, and its totals are those of the archive."""

import os
import shutil
from pathlib import Path

import duckdb
import pyarrow.dataset
import pytest

from tasks.archive import layout, report
from tasks.archive.schema import SCHEMA
from tasks.storage.store import Store
from tests.support.archive_builder import folder, pack, png, reopened


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, fake_bundle: Path) -> Store:
    """Two runs: three pictures, one of them bad; then one touched and one new."""
    home = tmp_path_factory.mktemp("report")
    source = folder(home / "s", {"a.png": png(1), "b.png": png(2), "c.jpg": b"no"})
    pack(source, home / "a", fake_bundle)
    folder(source, {"d.png": png(4)})
    os.utime(source / "a.png", ns=(1, 1))
    pack(source, home / "a", fake_bundle)
    return Store(str(home / "a"))


def test_pyarrow_and_duckdb_read_the_same_rows(archive: Store) -> None:
    table = report.rows(archive).to_table()
    assert table.schema.equals(SCHEMA, check_metadata=False)
    assert table.num_rows == 5
    parts = str(archive.folder) + "/runs/*/report/*.parquet"
    assert duckdb.sql(f"SELECT status, count(*) FROM '{parts}' GROUP BY 1 ORDER BY 1").fetchall() == [
        ("compressed", 3),
        ("fallback", 1),
        ("unchanged", 1),
    ]
    assert report.query(archive, "SELECT sum(bytes) AS b FROM rows WHERE run = 2 AND status = 'compressed'")[0]["b"] > 0


def test_rows_of_an_open_run_are_read_too(archive: Store, tmp_path: Path) -> None:
    assert archive.folder is not None
    copy = Path(shutil.copytree(archive.folder, tmp_path / "a"))
    reopened(copy)
    assert report.rows(Store(str(copy))).count_rows() == 5
    assert report.rows(Store(str(copy)), [2]).count_rows() == 2


def test_a_part_that_the_seal_does_not_name_is_not_read(archive: Store, tmp_path: Path) -> None:
    assert archive.folder is not None
    foreign = archive.folder / layout.part(1, 7)
    foreign.write_bytes((archive.folder / layout.part(1, 0)).read_bytes())
    try:
        assert report.rows(archive).count_rows() == 5
    finally:
        foreign.unlink()


def test_totals_count_every_stored_byte_once(archive: Store) -> None:
    totals = report.add([report.count(report.rows(archive, [run]).to_table()) for run in (1, 2)])
    stored = report.query(archive, "SELECT sum(bytes) AS b FROM rows WHERE status <> 'unchanged'")[0]["b"]
    assert totals["images"] == 5
    assert (totals["compressed"], totals["failed"], totals["unchanged"], totals["fallback"]) == (3, 0, 1, 1)
    assert totals["stored_bytes"] == stored


def test_the_mean_rate_is_all_bits_over_all_pixels(archive: Store) -> None:
    means = report.means(archive, [1])
    sizes = report.query(archive, "SELECT bytes FROM rows WHERE run = 1 AND width IS NOT NULL")
    assert means["bpp"] == 8 * sum(row["bytes"] for row in sizes) / (2 * 40 * 24)
    assert means["psnr_db"] is None
    assert report.means(archive, [])["bpp"] is None


def test_an_archive_without_rows_has_an_empty_table(tmp_path: Path) -> None:
    assert isinstance(report.rows(Store(str(tmp_path))), pyarrow.dataset.Dataset)
    assert report.query(Store(str(tmp_path)), "SELECT key FROM rows") == []
