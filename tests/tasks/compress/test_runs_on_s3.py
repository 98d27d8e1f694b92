"""The same promises on an object store, over HTTP."""

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import fsspec
import pyarrow as pa
import pyarrow.parquet
import pytest

from tasks.processes.codec_process import Models
from tasks.restore.restore import restore
from tasks.sources.source import open_source
from tasks.storage import uploads
from tasks.storage.keys import name_of
from tasks.storage.store import StorageError, Store
from tests.support import runner_processes
from tests.support.archive_builder import pack, png, rows, snapshot
from tests.support.fake_codec import FAKE
from tests.support.fake_s3 import in_environment


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The URL of a bucket; the server's address and credentials are in the environment, as for any user."""
    with in_environment():
        fsspec.filesystem("s3").mkdir("pictures")
        yield "s3://pictures"


def _publish_many(url: str, content: bytes, environment: dict[str, str], both: Any, results: Any) -> None:
    os.environ.update(environment)
    store = Store(url)
    both.wait(60)
    results.put([store.publish(f"race/{number}", content) for number in range(20)])


def test_of_two_processes_that_publish_one_name_exactly_one_wins(bucket: str) -> None:
    context = runner_processes.CONTEXT
    results, both = context.Queue(), context.Barrier(2)
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    arguments = [(f"{bucket}/race", content, environment, both, results) for content in (b"a", b"b")]
    racing = [context.Process(target=_publish_many, args=each) for each in arguments]
    for process in racing:
        process.start()
    won = [results.get(timeout=60) for _ in racing]
    for process in racing:
        process.join()
    assert all(sum(pair) == 1 for pair in zip(*won, strict=True))


def test_a_large_file_in_parts_is_published_exclusively_too(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "PART", 5 << 20)
    monkeypatch.setattr(Store, "largest_put", 10 << 20)
    store = Store(f"{bucket}/large")
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(bytes(11 << 20))
    second.write_bytes(b"1" * (11 << 20))
    assert store.publish("x", first)
    assert not store.publish("x", second)
    assert store.publish("x", first)
    (item,) = store.list()
    assert item.size == 11 << 20
    assert item.stamp.strip('"').endswith("-3"), "as S3 marks what came in three parts"


def test_a_publisher_whose_reply_was_lost_finds_out_that_it_won(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(f"{bucket}/lost")
    create = store._create

    def lose_reply(name: str, content: bytes | Path) -> None:
        create(name, content)
        create(name, content)  # as a client does that saw no reply and asks again

    monkeypatch.setattr(store, "_create", lose_reply)
    assert store.publish("x", b"mine")
    assert not store.publish("x", b"other")


def test_a_conflict_is_tried_again(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(f"{bucket}/conflict")
    create, conflicts = store._create, [409, 409]

    class Reply(Exception):
        response = {"ResponseMetadata": {"HTTPStatusCode": 409}}  # noqa: RUF012

    def conflict(name: str, content: bytes | Path) -> None:
        if conflicts:
            conflicts.pop()
            raise OSError(16, "conflict") from Reply()
        create(name, content)

    monkeypatch.setattr(store, "_create", conflict)
    assert store.publish("x", b"mine")


def test_a_bucket_that_is_not_there_and_a_secret_that_is(bucket: str) -> None:
    with pytest.raises(StorageError, match=r"^s3://nowhere: this bucket does not exist"):
        Store("s3://nowhere").read("x")
    with pytest.raises(StorageError, match=r"^s3://nowhere: this bucket does not exist") as caught:
        Store("s3://nowhere").publish("x", b"1")
    assert "planted-secret" not in str(caught.value)


def test_pictures_in_a_bucket_become_an_archive_in_a_bucket_and_pictures_again(
    bucket: str, fake_bundle: Path, tmp_path: Path
) -> None:
    source = Store(f"{bucket}/photos")
    files = {"a.png": png(1), "trip/b c.png": png(2), "trip/d.jpg": b"no picture"}
    for name, content in files.items():
        source.replace(name, content)
    archive = f"{bucket}/archive"
    assert pack(source.url, archive, fake_bundle).totals["compressed"] == 2
    state = snapshot(archive)
    assert pack(source.url, archive, fake_bundle).runs == []
    assert snapshot(archive) == state
    source.replace("a.png", png(3))
    source.remove("trip/d.jpg")
    assert pack(source.url, archive, fake_bundle).runs == [2]
    found = [(row["key"], row["version"], row["status"], row["source_uri"]) for row in rows(archive)]
    assert found == [
        ("a.png", 1, "compressed", f"{bucket}/photos/a.png"),
        ("trip/b c.png", 1, "compressed", f"{bucket}/photos/trip/b c.png"),
        ("trip/d.jpg", 1, "fallback", f"{bucket}/photos/trip/d.jpg"),
        ("a.png", 2, "compressed", f"{bucket}/photos/a.png"),
    ]
    models = Models("", threads=1, codec=FAKE)
    assert restore(archive, f"{bucket}/out", models=models).errors == []
    assert sorted(item.name for item in Store(f"{bucket}/out").list()) == ["a.png", "trip/b c.png", "trip/d.jpg"]


@pytest.mark.parametrize("kind", ["CSV", "Parquet"])
def test_an_inventory_of_a_bucket_is_the_listing_of_that_bucket(bucket: str, kind: str) -> None:
    photos = Store(f"{bucket}/inventoried")
    for name in ("a.png", "trip/b+c d%41.png"):
        photos.replace(name, png(len(name)))
    listed = [entry | {"key": f"pictures/inventoried/{entry['key']}"} for entry in open_source(photos.url).entries()]
    objects = [(name_of(entry["key"]).partition("/")[2], entry["size"], entry["stamp"]) for entry in listed]
    if kind == "CSV":
        lines = [f'"pictures","{quote_plus(key)}","true","{size}","{etag}"' for key, size, etag in objects]
        lines.append('"pictures","deleted.png","false","1","0"')
        data, columns = gzip.compress("\n".join(lines).encode()), "Bucket, Key, IsLatest, Size, ETag"
    else:
        sink = pa.BufferOutputStream()
        keys, sizes, etags = zip(*objects, strict=True)
        buckets = ["pictures"] * len(keys)
        pa.parquet.write_table(pa.table({"bucket": buckets, "key": keys, "size": sizes, "e_tag": etags}), sink)
        data, columns = sink.getvalue().to_pybytes(), "message s3.inventory {}"
    reports = Store(f"{bucket}/reports")
    reports.replace(f"data/1.{kind.lower()}.gz", data)
    document = {
        "sourceBucket": "pictures",
        "destinationBucket": "arn:aws:s3:::pictures",
        "fileFormat": kind,
        "fileSchema": columns,
        "files": [{"key": f"reports/data/1.{kind.lower()}.gz"}],
    }
    reports.replace(f"{kind}/manifest.json", json.dumps(document).encode())
    source = open_source(f"{bucket}/reports/{kind}/manifest.json")
    found = list(source.entries())
    assert [entry | {"uri": ""} for entry in found] == [entry | {"uri": ""} for entry in listed]
    assert source.stamps_tell_content
    for entry in found:
        assert source.fetch(entry) == photos.read(name_of(entry["key"]).removeprefix("pictures/inventoried/"))
