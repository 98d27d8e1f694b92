"""Owners' commands on an object store, over HTTP, and what they cost in requests."""

import datetime
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pytest

from codec.errors import ArchiveError
from flows import command
from flows.archive import app
from tasks.archive import layout, report
from tasks.maintenance import compaction, forget, holds
from tasks.maintenance.audit import audit
from tasks.maintenance.status import status
from tasks.restore.filesystem import ArchiveFileSystem
from tasks.restore.restore import restore
from tasks.storage.store import Store
from tests.support.codecless_archives import make
from tests.support.fake_s3 import in_environment
from tests.support.maintenance_runs import RUNS


@dataclass
class Bucket:
    """An S3 server's bucket and the log of its requests."""

    url: str
    log: Path

    def requests(self, since: int = 0) -> list[str]:
        """Method and object of each request."""
        return re.findall(r'"([A-Z]+ /owners\S*) HTTP', self.log.read_text())[since:]


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    """The server's address and credentials are in the environment, as for any user."""
    log = tmp_path_factory.mktemp("s3") / "requests.log"
    with in_environment(log):
        fsspec.filesystem("s3").mkdir("owners")
        yield Bucket("s3://owners", log)


def test_one_picture_of_thirty_compacted_runs_takes_five_requests_and_one(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # 120 shards
    runs = [{f"{run:03d}-{number}": b"%d %d" % (run, number) for number in range(4)} for run in range(30)]
    local = make(tmp_path / "a", runs, per_shard=1)
    assert [table.rows for table in compaction.compact(local).tables] == [120]
    archive = f"{bucket.url}/thirty"
    wanted = report.query(local, "SELECT tar FROM rows WHERE key = '022-3'")[0]["tar"]
    spared = ("/shards/", "/report/")  # 240 objects, whose requests would count like any other
    uploaded = [item.name for item in local.list() if item.name == wanted or not any(map(item.name.count, spared))]
    fsspec.filesystem("s3").pipe({f"{archive}/{name}": local.read(name) for name in uploaded})

    before = len(bucket.requests())
    assert restore(archive, str(tmp_path / "out"), ["022-3"]).images == 1
    assert (tmp_path / "out" / "022-3").read_bytes() == b"22 3"
    requests = bucket.requests(before)
    on_tars = [request for request in requests if request.endswith(".tar")]
    assert len(on_tars) == 1
    assert len(requests) - len(on_tars) <= 5


def test_every_command_does_on_a_bucket_what_it_does_on_a_folder(bucket: Bucket, tmp_path: Path) -> None:
    url = f"{bucket.url}/archive"
    store = make(url, RUNS)
    mirror = make(tmp_path / "mirror", RUNS)
    assert audit(url).problems == []
    assert [table.rows for table in compaction.compact(store).tables] == [11]
    assert [run["state"] for run in status(url).runs] == ["sealed"] * 3

    tar = report.query(store, "SELECT tar FROM rows WHERE key = 'f'")[0]["tar"]
    store.replace(tar, store.read(tar)[:-1] + b"x")
    store.remove(layout.part(2, 1))
    found = audit(url, repair_from=mirror.url)
    assert [(problem["state"], problem["repaired"]) for problem in found.problems] == [
        ("damaged", True),
        ("missing", True),
    ]
    assert audit(url, sample=0.1).problems == []

    assert forget.forget(store, ["b"]) == 2
    assert audit(url).problems == []
    with pytest.raises(ArchiveError, match="no picture under the key 'b'"):
        restore(url, str(tmp_path / "out"), ["b"])
    assert restore(url, str(tmp_path / "out"), as_of=2).images == 5
    fsspec.register_implementation("fdc", ArchiveFileSystem, clobber=True)  # this checkout may not be the installed one
    with fsspec.open(f"fdc://trip/g.jpg::{url}") as file:
        assert file.read() == b"ggg"
    assert not any(b"b~~" in Store(url).read(item.name) for item in store.list())


def test_an_upload_that_a_killed_writer_left_is_aborted(bucket: Bucket) -> None:
    url = f"{bucket.url}/uploads"
    make(url, RUNS[:1])
    s3 = fsspec.filesystem("s3")
    s3.call_s3("create_multipart_upload", Bucket="owners", Key="uploads/runs/000001/shards/000009-abc.tar")
    found = audit(url)  # this server says of every upload that it began years ago
    assert [(problem["state"], problem["name"], problem["repaired"]) for problem in found.problems] == [
        ("dangling", "runs/000001/shards/000009-abc.tar", True)
    ]
    assert audit(url).problems == []


def test_an_upload_that_a_run_may_be_sending_is_spared_for_a_day(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, key = f"{bucket.url}/young", "runs/000001/shards/000009-abc.tar"
    make(url, RUNS[:1])
    client = fsspec.filesystem("s3", use_listings_cache=False)  # the one that a Store has
    call, age = client.call_s3, datetime.timedelta(hours=1)

    def dated(method: str, **request: Any) -> Any:
        """The test's server says of every upload that it began years ago."""
        answer = call(method, **request)
        for upload in answer.get("Uploads", ()) if method == "list_multipart_uploads" else ():
            upload["Initiated"] = datetime.datetime.now(datetime.UTC) - age
        return answer

    call("create_multipart_upload", Bucket="owners", Key=f"young/{key}")
    monkeypatch.setattr(client, "call_s3", dated)
    assert audit(url).problems == []
    assert [upload["Key"] for upload in call("list_multipart_uploads", Bucket="owners")["Uploads"]] == [f"young/{key}"]
    age = datetime.timedelta(hours=25)
    assert [problem["name"] for problem in audit(url).problems] == [key]


def test_what_a_bucket_with_versions_keeps_of_a_forgotten_picture_is_told_and_purged(
    bucket: Bucket, capsys: pytest.CaptureFixture[str]
) -> None:
    fs = fsspec.filesystem("s3")
    fs.mkdir("versioned")
    fs.call_s3("put_bucket_versioning", Bucket="versioned", VersioningConfiguration={"Status": "Enabled"})
    store = make("s3://versioned/archive", RUNS)

    def kept() -> int:
        """Versions of tars, current ones too, that have the picture's bytes."""
        page = fs.call_s3("list_object_versions", Bucket="versioned", Prefix="archive/runs")
        found = 0
        for entry in page.get("Versions", ()):
            if entry["Key"].endswith(".tar"):
                answer = fs.call_s3("get_object", Bucket="versioned", Key=entry["Key"], VersionId=entry["VersionId"])
                found += b"b~~1" in fsspec.asyn.sync(fs.loop, answer["Body"].read)
        return found

    assert kept() == 1
    call = ["forget", store.url, "b"]
    assert called(*call) == command.FAILED_ROWS
    told = capsys.readouterr().out
    assert re.search(
        r"tombstones: 2\n\d+ noncurrent versions remain in the bucket; --purge-versions deletes them", told
    )
    assert kept() == 1
    assert called("forget", store.url) == command.FAILED_ROWS, "until they are gone"
    assert called("forget", store.url, "--purge-versions") == command.DONE
    assert kept() == 0
    assert called("forget", store.url) == command.DONE
    assert audit(store.url).problems == []


def test_what_a_bucket_with_versions_keeps_of_a_redacted_key_is_purged_too(bucket: Bucket) -> None:
    fs = fsspec.filesystem("s3")
    fs.mkdir("redacting")
    fs.call_s3("put_bucket_versioning", Bucket="redacting", VersioningConfiguration={"Status": "Enabled"})
    store = make("s3://redacting/archive", RUNS)
    holds.hold(store, "trip/g.jpg", "a court asked")
    holds.release(store, "trip/g.jpg")

    def naming() -> int:
        """Versions of JSON objects, current ones too, that name the key."""
        page = fs.call_s3("list_object_versions", Bucket="redacting", Prefix="archive/")
        found = 0
        for entry in page["Versions"]:
            if entry["Key"].endswith(".json"):
                answer = fs.call_s3("get_object", Bucket="redacting", Key=entry["Key"], VersionId=entry["VersionId"])
                found += b"trip/g.jpg" in fsspec.asyn.sync(fs.loop, answer["Body"].read)
        return found

    assert naming() > 1
    assert called("forget", store.url, "trip/g.jpg", "--redact-key") == command.FAILED_ROWS
    assert naming() > 1
    assert called("forget", store.url, "--purge-versions") == command.DONE
    assert naming() == 0
    assert audit(store.url).problems == []


def test_a_bucket_that_must_retain_a_version_says_so_in_one_line(
    bucket: Bucket, capsys: pytest.CaptureFixture[str]
) -> None:
    fs = fsspec.filesystem("s3")
    fs.call_s3("create_bucket", Bucket="retaining", ObjectLockEnabledForBucket=True)
    retention = {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 30}}
    lock = {"ObjectLockEnabled": "Enabled", "Rule": retention}
    fs.call_s3("put_object_lock_configuration", Bucket="retaining", ObjectLockConfiguration=lock)
    store = make("s3://retaining/archive", RUNS)
    assert called("forget", store.url, "b") == command.FAILED_ROWS
    assert called("forget", store.url, "--purge-versions") == command.FATAL
    said = capsys.readouterr().err
    until = datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=30)
    assert re.fullmatch(
        rf"error: s3://retaining/archive/runs/\S+: the bucket must retain a version until {until}; purge it then\n",
        said,
    )


def called(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        app(list(arguments), standalone_mode=True)
    return int(ended.value.code or 0)
