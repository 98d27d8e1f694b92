"""A listing says what it can in any common dress, and what it says wrongly is one line that names file and row."""

import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from codec.errors import ArchiveError
from tasks.sources import listing_files
from tasks.sources.listing_files import ListedFile
from tasks.sources.source import ListedSource, open_source
from tasks.storage.store import Store


def read(path: Path) -> list[ListedFile]:
    return [row for batch in listing_files.read(Store(str(path.parent)), path.name) for row in batch]


def written(path: Path, /, **columns: list[Any]) -> Path:
    if path.suffix.lower() == ".parquet":
        pa.parquet.write_table(pa.table(columns), path)
    else:
        lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
        path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("size", ["many", "-1", "nan", "inf", "1.5", str(2**63), "0x10"])
def test_a_size_that_is_no_number_of_bytes_is_one_line_that_names_file_and_row(
    tmp_path: Path, suffix: str, size: str
) -> None:
    path = written(tmp_path / f"list.{suffix}", path=["a.png", "b.png"], size=["7", size])
    with pytest.raises(
        ArchiveError, match=rf"list.{suffix}, row 2: the size '{size}' is not a number of bytes; correct"
    ):
        read(path)


def test_a_location_that_is_missing_is_one_line_that_names_file_and_row(tmp_path: Path) -> None:
    path = written(tmp_path / "list.parquet", path=["a.png", "b.png", None])
    with pytest.raises(ArchiveError, match=r"list.parquet, row 3: no path; correct the listing") as caught:
        read(path)
    assert "\n" not in str(caught.value)
    path = written(tmp_path / "list.csv", path=["a.png", ""], size=[1, 2])
    with pytest.raises(ArchiveError, match=r"list.csv, row 2: no path"):
        read(path)


def test_rows_are_counted_on_over_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing_files, "BATCH", 2)
    path = written(tmp_path / "list.parquet", path=["a", "b", "c", "d", None])
    with pytest.raises(ArchiveError, match=r"row 5: no path"):
        read(path)


def test_sizes_as_text_or_floats_and_binary_locations_are_understood(tmp_path: Path) -> None:
    columns = {"path": [b"a.png", b"\xff.png"], "size": [7.0, None], "etag": [b'"01"', None]}
    path = written(tmp_path / "list.parquet", **columns)
    assert read(path) == [ListedFile("a.png", 7, "01"), ListedFile("\udcff.png", None, None)]
    (tmp_path / "list.csv").write_bytes(b'path,size,taken\n007.png,"12",1\n\xff.png,1e3,unknown\n')
    assert read(tmp_path / "list.csv") == [ListedFile("007.png", 12, None), ListedFile("\udcff.png", 1000, None)]


@pytest.mark.parametrize("name", ["LIST.CSV", "list.tsv", "list.TSV.gz", "List.Csv.GZ", "list.PARQUET"])
def test_a_listings_name_may_be_in_capitals_and_its_columns_parted_by_tabs(tmp_path: Path, name: str) -> None:
    path, is_tabbed = tmp_path / name, ".tsv" in name.lower()
    content = b"path\ttaken\na,b.png\t1\n" if is_tabbed else b'path,taken\n"a,b.png",1\n'
    if name.endswith("PARQUET"):
        written(path, path=["a,b.png"])
    else:
        path.write_bytes(gzip.compress(content, mtime=0) if name.lower().endswith("gz") else content)
    assert isinstance(open_source(str(path)), ListedSource)
    assert read(path) == [ListedFile("a,b.png", None, None)]


def test_a_column_that_turns_from_numbers_to_text_does_not_stop_a_listing(tmp_path: Path) -> None:
    rows = "".join(f"{number}.png,{number}\n" for number in range(80_000))
    (tmp_path / "list.csv").write_text(f"path,note\n{rows}last.png,none\n")
    assert len(read(tmp_path / "list.csv")) == 80_001


def test_nothing_reads_a_listing_ahead_while_its_rows_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that only took the header, and is not closed, reads on in a thread and takes rows from others."""
    rows = "".join(f"{number}.png,{number}\n" for number in range(200_000))
    (tmp_path / "list.csv").write_text(f"path,size\n{rows}")
    opened: list[object] = []
    real = pa.PythonFile
    monkeypatch.setattr(pa, "PythonFile", lambda *given: opened.append(given) or real(*given))
    assert len(read(tmp_path / "list.csv")) == 200_000
    assert len(opened) == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b""),
        ("a.csv", b"path,size\na.png\n"),
        ("a.csv.gz", b"no gzip"),
        ("a.csv.gz", gzip.compress(b"path\n" + b"x.png\n" * 999, mtime=0)[:-20]),
        ("a.csv", b"\xff\xfe\nx\n"),
        ("a.parquet", b"no parquet"),
        (
            "manifest.json",
            b'{"destinationBucket": "arn:aws:s3:::b", "fileFormat": "CSV", "fileSchema": "Size", "files": []}',
        ),
    ],
)
def test_a_listing_that_is_no_table_is_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ArchiveError) as caught:
        read(tmp_path / name)
    assert name.split(".")[0] in str(caught.value)
    assert "\n" not in str(caught.value)
