"""A source is a folder, a file that lists pictures, or a dataset of shard-images; all are compressed alike."""

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from codec.errors import ArchiveError, SettingsError
from tasks import dataset
from tasks.sources.source import ChangedError, open_source
from tasks.storage.store import NotFoundError, Store
from tests.support.archive_builder import folder, pack, png, rows
from tests.support.fake_codec import RAISE, UNSUPPORTED

pytestmark = pytest.mark.usefixtures("children_are_played_here")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = {"a.png": png(1), "trip/b c.png": png(2), "trip/%41.png": png(1), "e.txt": b"no picture"}
    return folder(tmp_path_factory.mktemp("photos"), files)


def entries(url: Path | str) -> dict[str, dict[str, Any]]:
    return {entry["key"]: entry for entry in open_source(str(url)).entries()}


def test_a_listing_of_relative_paths_is_the_folder_it_lies_in(photos: Path) -> None:
    listing = photos / "listing.csv"
    listing.write_text("Path,taken\na.png,2020\ntrip/b c.png,2021\ntrip/%41.png,\n")
    whole = entries(photos)
    listing_itself = whole.pop("listing.csv")
    assert listing_itself["size"] == listing.stat().st_size
    assert entries(listing) == {key: entry for key, entry in whole.items() if key != "e.txt"}
    source = open_source(str(listing))
    for entry in entries(listing).values():
        assert source.fetch(entry) == open_source(str(photos)).fetch(entry)
        assert source.tail(entry) == open_source(str(photos)).tail(entry)
    listing.unlink()


def test_a_listing_of_urls_may_span_stores_and_its_keys_are_what_follows_the_scheme(
    photos: Path, tmp_path: Path
) -> None:
    Store("memory://bucket").replace("x/y.png", png(3))
    table = pa.table({"url": ["memory://bucket/x/y.png", f"file://{photos}/a.png", str(photos / "trip" / "b c.png")]})
    pa.parquet.write_table(table, tmp_path / "list.parquet")
    found = entries(tmp_path / "list.parquet")
    home = str(photos).lstrip("/")
    assert set(found) == {"bucket/x/y.png", f"{home}/a.png", f"{home}/trip/b c.png"}
    source = open_source(str(tmp_path / "list.parquet"))
    assert source.fetch(found["bucket/x/y.png"]) == png(3)
    assert source.fetch(found[f"{home}/a.png"]) == png(1)


def test_sizes_and_etags_that_a_listing_says_are_believed_until_the_picture_is_read(photos: Path) -> None:
    listing = photos / "etags.csv"
    listing.write_text('key,Size,ETag\na.png,7,"""0123"""\n')
    (entry,) = entries(listing).values()
    assert (entry["size"], entry["stamp"]) == (7, "0123")
    with pytest.raises(ChangedError):
        open_source(str(listing)).fetch(entry)
    listing.unlink()


def test_what_a_listing_names_and_is_not_there_is_a_row_that_says_so_and_doubles_count_once(
    photos: Path, tmp_path: Path, fake_bundle: Path
) -> None:
    listing = photos / "list.csv"
    listing.write_text("uri\na.png\nnothing.png\na.png\n")
    pack(listing, tmp_path / "a", fake_bundle)
    listing.unlink()
    found = [(row["key"], row["status"], row["reason"]) for row in rows(tmp_path / "a")]
    assert found == [("a.png", "compressed", None), ("nothing.png", "failed", "source_missing")]


def test_a_file_that_lists_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("color,size\nred,3\n")
    with pytest.raises(SettingsError, match="has no locations; add a column uri, url, path or key"):
        entries(tmp_path / "a.csv")
    (tmp_path / "manifest.json").write_text('{"files": 3}')
    with pytest.raises(ArchiveError, match="not a manifest of an S3 Inventory"):
        entries(tmp_path / "manifest.json")
    with pytest.raises(ArchiveError, match="listing file does not exist"):
        open_source(str(tmp_path / "none.csv")).check(Store(str(tmp_path / "archive")))


def test_the_tars_of_a_dataset_are_a_source_under_the_original_keys(
    photos: Path, tmp_path: Path, fake_bundle: Path
) -> None:
    sharded = tmp_path / "dataset"
    dataset.pack(str(photos), str(sharded), dataset.ShardingSettings(max_images_per_shard=2))
    pack(sharded, tmp_path / "a", fake_bundle)
    found = {row["key"]: row for row in rows(tmp_path / "a")}
    assert set(found) == {"a.png", "trip/b c.png", "trip/%2541.png"}
    for key, entry in entries(photos).items():
        if key in found:
            content = open_source(str(photos)).fetch(entry)
            assert found[key]["source_sha256"] == hashlib.sha256(content).hexdigest()
    assert found["trip/%2541.png"]["duplicate_of"] == "a.png"
    assert pack(sharded, tmp_path / "a", fake_bundle).runs == []

    tar = next(sharded.rglob("*.tar"))
    content = bytearray(tar.read_bytes())
    content[600] ^= 1
    tar.chmod(0o644)
    tar.write_bytes(content)
    damaged = [entry for entry in entries(sharded).values() if tar.name in entry["uri"]]
    with pytest.raises(ArchiveError, match="damaged; pack the dataset again"):
        [open_source(str(sharded)).fetch(entry) for entry in damaged]
    (sharded / "manifest.parquet").unlink()
    with pytest.raises(SettingsError, match="incomplete"):
        open_source(str(sharded))


def test_a_dataset_is_packed_from_a_listing(photos: Path, tmp_path: Path) -> None:
    listing = photos / "two.csv"
    listing.write_text("path\na.png\ntrip/b c.png\nnothing.png\n")
    totals = dataset.pack(str(listing), str(tmp_path / "dataset"))
    listing.unlink()
    assert (totals["photos"], totals["failed"]) == (2, 1)
    assert dataset.failures(str(tmp_path / "dataset"))[0]["key"] == "nothing.png"


def test_what_failed_is_taken_again_when_asked_and_once(tmp_path: Path, fake_bundle: Path) -> None:
    faults = {"b.png": png(3, fault=RAISE), "c.png": png(2, fault=UNSUPPORTED)}
    source = folder(tmp_path / "s", {"a.png": png(1), "d.txt": b"no picture", **faults})
    pack(source, tmp_path / "a", fake_bundle)
    assert pack(source, tmp_path / "a", fake_bundle).runs == []
    again = pack(source, tmp_path / "a", fake_bundle, retry_failed=True)
    assert again.runs == [2]
    assert [(row["key"], row["reason"]) for row in rows(tmp_path / "a") if row["run"] == 2] == [("b.png", "encoder")]


def test_nothing_at_an_address_is_told_from_what_cannot_be_read(photos: Path) -> None:
    source = open_source(str(photos))
    with pytest.raises(NotFoundError):
        source.fetch({"key": "none", "uri": f"file://{photos}/none", "size": 1, "stamp": ""})
