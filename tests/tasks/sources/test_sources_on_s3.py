"""Keys of S3 are what they are; an object that S3 will not hand out costs its own row."""

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from s3fs import S3FileSystem

from tasks.processes.codec_process import Models
from tasks.restore.before_after import Pictures
from tasks.restore.restore import restore
from tasks.sources.source import open_source
from tasks.storage.keys import name_of
from tasks.storage.store import NotFoundError, StorageError, Store, UnreadableError
from tests.support.archive_builder import pack, png, rows
from tests.support.fake_codec import FAKE
from tests.support.fake_s3 import in_environment

pytestmark = pytest.mark.usefixtures("children_are_played_here")

ODD = ("x.png", "/x.png", "//x.png", "a/x.png", "a//x.png", "a/x.png?versionId=1", "b/x.png?versionId=1", "c/x.png/")


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with in_environment() as address:
        fsspec.filesystem("s3").mkdir("odd")
        fsspec.filesystem("s3").mkdir("cold")
        yield address


def put(bucket: str, key: str, content: bytes, **options: str) -> None:
    """An object, by the client beneath all file systems."""
    S3FileSystem().call_s3("put_object", Bucket=bucket, Key=key, Body=content, **options)


def test_keys_with_double_or_leading_slashes_or_what_looks_like_a_version_are_each_their_own(
    bucket: str, tmp_path: Path, fake_bundle: Path
) -> None:
    for seed, key in enumerate(ODD):
        put("odd", f"photos/{key}", png(seed))
    put("odd", "photos/empty/", b"")
    source = open_source("s3://odd/photos")
    found = {name_of(entry["key"]): entry for entry in source.entries()}
    assert set(found) == set(ODD)
    for seed, key in enumerate(ODD):
        assert source.fetch(found[key]) == png(seed)
        assert b"".join(source.pieces(found[key])) == png(seed)
    listing = tmp_path / "list.csv"
    listing.write_text("url\n" + "\n".join(f"s3://odd/photos/{key}" for key in ODD) + "\n")
    for number, place in enumerate(("s3://odd/photos", listing)):
        archive = tmp_path / f"archive-{number}"
        assert pack(place, archive, fake_bundle).totals["compressed"] == len(ODD)
        assert len({row["sha256"] for row in rows(archive)}) == len(ODD)
    models = Models("", threads=1, codec=FAKE)
    assert restore(str(tmp_path / "archive-0"), str(tmp_path / "out"), models=models).errors == []
    assert sum(path.is_file() for path in (tmp_path / "out").rglob("*")) == len(ODD)
    with Pictures(Store(str(tmp_path / "archive-1")), models) as pictures:
        for row in rows(tmp_path / "archive-1"):
            assert pictures.original(row).width == 40


def test_an_object_in_a_class_to_be_restored_from_costs_its_own_row(
    bucket: str, tmp_path: Path, fake_bundle: Path
) -> None:
    put("cold", "a.png", png(1))
    put("cold", "b.png", png(2), StorageClass="GLACIER")
    assert pack("s3://cold", tmp_path / "a", fake_bundle).totals["compressed"] == 1
    _, row = rows(tmp_path / "a")
    assert (row["key"], row["status"], row["reason"]) == ("b.png", "failed", "source_unreadable")
    assert "\n" not in row["error"]


def test_of_an_object_that_has_grown_no_more_is_read_than_was_promised(bucket: str) -> None:
    put("cold", "grown/a", bytes(1 << 20))
    store = Store("s3://cold/grown")
    assert b"".join(store.pieces("a", 101, 64)) == bytes(101)
    assert [len(piece) for piece in store.pieces("a", (1 << 20) + 1, 1 << 20)] == [1 << 20]


def test_failures_of_one_object_are_told_from_those_of_credentials_and_endpoint(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store("s3://odd/photos")

    def failing(code: str) -> type[Exception]:
        class Reply(Exception):
            response = {"Error": {"Code": code, "Message": "planted"}}  # noqa: RUF012

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError("planted") from Reply()

        monkeypatch.setattr(store._fs, "cat_file", refuse)
        with pytest.raises(StorageError) as caught:
            store.read("x.png")
        return type(caught.value)

    assert [failing(code) for code in ("AccessDenied", "InvalidObjectState")] == [UnreadableError] * 2
    assert [failing(code) for code in ("ExpiredToken", "InvalidAccessKeyId", "SlowDown")] == [StorageError] * 3
    with pytest.raises(NotFoundError):
        Store("s3://odd/photos").item("/y.png")
    assert store.answers()
    assert not Store("s3://nowhere/photos").answers()
