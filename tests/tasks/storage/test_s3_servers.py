"""Servers of other makers: what each honors is found out before an archive depends on it."""

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import fsspec
import pytest

from codec.errors import ArchiveError
from tasks.archive import layout, report
from tasks.archive.opening import create, existing, prepare, writable
from tasks.maintenance import compaction
from tasks.maintenance.audit import audit
from tasks.maintenance.status import status
from tasks.processes.codec_process import Models
from tasks.restore.filesystem import ArchiveFileSystem
from tasks.restore.restore import restore
from tasks.storage import uploads
from tasks.storage.probe import NotExclusiveError, probe
from tasks.storage.store import StorageError, Store
from tests.support.archive_builder import pack, png, rows
from tests.support.codecless_archives import make
from tests.support.fake_codec import FAKE
from tests.support.fake_s3 import in_environment
from tests.support.faulty_proxy import Proxy, proxying
from tests.support.maintenance_runs import RUNS

pytestmark = pytest.mark.s3

CHECKS = ("checks-checksums",)
CARELESS = ("ignores-condition-on-put", "ignores-condition-on-complete")
WRITES = "^(PUT|POST|DELETE) "


@contextmanager
def proxied(ways: Sequence[str] = ()) -> Iterator[Proxy]:
    """A proxy in the environment, before a server with these ways and a bucket."""
    with in_environment(ways=ways) as server, proxying(server) as proxy, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", proxy.address)
        fsspec.filesystem("s3").mkdir("tried")
        yield proxy


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    with proxied(CHECKS) as proxy:
        yield proxy


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "PART", 5 << 20)
    monkeypatch.setattr(Store, "largest_put", 10 << 20)


# --- what verifies an upload


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize(
    ("ways", "small", "large"),
    [
        (CHECKS, "checksum", "composite"),
        (("knows-no-checksums",), "read_back", "read_back"),
        ((), "read_back", "read_back"),  # it keeps what it is told, unchecked
    ],
)
def test_what_a_server_has_checked_itself_is_not_downloaded_again(
    tmp_path: Path, ways: Sequence[str], small: str, large: str
) -> None:
    contents = {"small": b"1" * 1000, "large": bytes(range(256)) * (11 << 12)}
    with proxied(ways) as proxy:
        store = Store("s3://tried/archive")
        for name, content in contents.items():
            path = tmp_path / name
            path.write_bytes(content)
            assert store.publish(name, path)
            proxy.rule()
            assert store.verify(name, path) == (small if name == "small" else large)
            downloads = [request for request in proxy.log() if request.startswith("GET ")]
            assert bool(downloads) == (small == "read_back")
        assert [name for name in store.children("") if name.startswith("probe-")] == []


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("size", [1000, 11 << 20])
def test_other_bytes_than_ours_are_never_verified(proxy: Proxy, tmp_path: Path, size: int) -> None:
    store, ours = Store(f"s3://tried/other-{size}"), tmp_path / "ours"
    ours.write_bytes(b"a" * size)
    store.replace("x", b"b" * size)
    assert store.verify("x", ours) == ""
    assert store.publish("x", ours) is False


def test_what_came_without_a_sha256_is_verified_by_its_crc_where_that_can_be_computed(
    proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("awscrt", reason="CRC-64/NVME is computed by awscrt, which is not installed")
    monkeypatch.setattr(uploads, "PART", 1 << 20)
    ours, other = tmp_path / "ours", tmp_path / "other"
    ours.write_bytes(bytes(range(256)) * (5 << 12))
    store = Store("s3://tried/copied")
    crc = uploads.crc64nvme_of(ours)
    put = {"Bucket": "tried", "Key": "copied/x", "Body": ours.read_bytes()}
    fsspec.filesystem("s3").call_s3("put_object", **put, ChecksumAlgorithm="CRC64NVME", ChecksumCRC64NVME=crc)
    assert uploads.checksums(fsspec.filesystem("s3"), "tried/copied/x") == ("", crc)
    proxy.rule()
    assert store.verify("x", ours) == "crc64nvme"
    assert [request for request in proxy.log() if request.startswith("GET ")] == []
    other.write_bytes(ours.read_bytes()[:-1] + b"!")
    assert store.verify("x", other) == ""


def test_a_row_says_how_its_tar_was_verified(proxy: Proxy, fake_bundle: Path, tmp_path: Path) -> None:
    source = Store("s3://tried/photos")
    source.replace("a.png", png(1))
    proxy.rule()
    pack(source.url, "s3://tried/said", fake_bundle)
    assert [row["verified_by"] for row in rows("s3://tried/said")] == ["checksum"]
    assert [request for request in proxy.log() if re.match(r"GET \S+\.tar", request)] == []
    pack(source.url, tmp_path / "local", fake_bundle)
    assert [row["verified_by"] for row in rows(tmp_path / "local")] == ["read_back"]


# --- what keeps two writers apart


@pytest.mark.parametrize(
    ("way", "named"),
    [
        ("ignores-condition-on-put", "If-None-Match on PUT"),
        ("ignores-condition-on-complete", "If-None-Match on CompleteMultipartUpload"),
    ],
)
def test_a_server_that_ignores_a_condition_is_refused_with_the_ways_on(way: str, named: str) -> None:
    with proxied((way,)), pytest.raises(NotExclusiveError) as refused:
        create(Store("s3://tried/archive"))
    for said in (f"ignores {named},", "local folder", "copy it here", "--single-writer"):
        assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_server_that_refuses_the_condition_on_large_files_is_refused_at_creation(proxy: Proxy) -> None:
    proxy.rule("501", pattern="^POST .*uploadId=")
    with pytest.raises(NotExclusiveError, match="ignores If-None-Match on CompleteMultipartUpload"):
        create(Store("s3://tried/refusing"))
    proxy.rule()
    assert list(Store("s3://tried/refusing").list()) == []


def _copied(archive: Store, url: str) -> Store:
    copy = Store(url)
    for item in archive.list():
        copy.replace(item.name, archive.read(item.name))
    return copy


def test_a_copy_in_another_store_is_tried_before_it_is_written_and_read_without(tmp_path: Path) -> None:
    archive = make(tmp_path / "archive", RUNS)
    with proxied(("ignores-condition-on-complete",)):
        copy = _copied(archive, "s3://tried/copy")
        with pytest.raises(NotExclusiveError, match="CompleteMultipartUpload"):
            writable(copy.url)
        with pytest.raises(NotExclusiveError, match="CompleteMultipartUpload"):
            create(copy)
        assert restore(copy.url, str(tmp_path / "out")).images == 7
        assert audit(copy.url).problems == []


def test_a_place_is_tried_once_and_a_moved_one_once_more(proxy: Proxy) -> None:
    archive = make("s3://tried/moved", RUNS[:1])
    writable(archive.url)
    for known, requests in ((True, 3), (False, 40)):
        proxy.rule()
        writable(archive.url)
        assert len(proxy.log()) <= requests
        tried = [request for request in proxy.log() if "/probe-" in request]
        assert bool(tried) != known
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Store, "identity", lambda self: f"another endpoint {self.url}")
            writable(archive.url)
            archive = existing(archive.url)
        if known:
            moved = [name for name in archive.children(layout.PLACES) if name != "claim"]
            assert len(moved) == 2
            archive.remove(f"{layout.PLACES}/{moved[0]}")
            archive.remove(f"{layout.PLACES}/{moved[1]}")


def test_what_only_reads_works_with_credentials_that_only_read(
    proxy: Proxy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    archive = make("s3://tried/read-only", RUNS)
    compaction.compact(archive)
    proxy.rule("403", pattern=WRITES)
    url = archive.url
    assert restore(url, str(tmp_path / "out")).images == 7
    assert len(status(url).runs) == 3
    assert report.query(existing(url), "SELECT count(*) AS n FROM rows")[0]["n"] == 11
    fsspec.register_implementation("fdc", ArchiveFileSystem, clobber=True)
    with fsspec.open(f"fdc://trip/g.jpg::{url}") as file:
        assert file.read() == b"ggg"
    assert [request for request in proxy.log() if re.match(WRITES, request)] == [], "nobody tries to write"
    found = audit(url)
    assert (found.problems, found.findings) == ([], "")
    assert "the findings cannot be written to the archive" in caplog.text
    with pytest.raises(StorageError, match="AccessDenied"):
        writable("s3://tried/read-only")
    proxy.rule()
    assert audit(url).findings.startswith(f"{layout.AUDITS}/")


# --- one writer, by its owner's word


@pytest.fixture
def careless() -> Iterator[Proxy]:
    with proxied(CARELESS) as proxy:
        yield proxy


@pytest.mark.usefixtures("children_are_played_here")
def test_a_single_writer_is_warned_each_time_and_remembered(
    careless: Proxy, fake_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, archive = Store("s3://tried/photos"), "s3://tried/archive"
    source.replace("a.png", png(1))
    with pytest.raises(NotExclusiveError):
        pack(source.url, archive, fake_bundle)
    assert pack(source.url, archive, fake_bundle, single_writer=True).runs == [1]
    assert "cannot keep two writers apart" in caplog.text
    assert "detected before the next commit, but not kept out" in caplog.text
    caplog.clear()
    source.replace("b.png", png(2))
    assert pack(source.url, archive, fake_bundle).runs == [2]
    assert "cannot keep two writers apart" in caplog.text
    caplog.clear()
    compaction.compact(writable(archive))
    assert "cannot keep two writers apart" in caplog.text
    caplog.clear()
    assert audit(archive, models=Models("", threads=1, codec=FAKE)).problems == []
    assert caplog.text == "", "readers are not concerned"


def test_the_warning_stands_on_the_terminal(careless: Proxy) -> None:
    archive = make("s3://tried/shown", RUNS[:1])
    prepare(archive, single_writer=True)
    command = [sys.executable, "-m", "flows.archive", "compact", archive.url]
    run = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=True)
    assert run.stderr.startswith("warning: s3://tried/shown: this store cannot keep two writers apart")
    assert run.stdout == f"{len(RUNS[0])} rows of 1 runs in 1 files\n"


def test_a_second_writer_stops_the_first_before_its_next_commit(careless: Proxy) -> None:
    first, second = Store("s3://tried/archive"), Store("s3://tried/archive")
    create(first, single_writer=True)
    assert first.publish("x", b"first") is True
    prepare(second)
    with pytest.raises(ArchiveError, match="another writer started after this one") as told:
        first.publish("y", b"first")
    assert not isinstance(told.value, StorageError), "which would be tried again"
    assert not first.exists("y")
    assert second.publish("y", b"second") is True


def test_a_single_writer_replaces_nothing_that_stands(careless: Proxy, tmp_path: Path) -> None:
    store, content = Store("s3://tried/archive"), tmp_path / "content"
    create(store, single_writer=True)
    content.write_bytes(b"other")
    assert store.publish("x", b"first") is True
    assert store.publish("x", content) is False
    assert store.publish("x", b"first") is True
    assert store.read("x") == b"first"


def test_where_two_writers_are_kept_apart_nobody_needs_to_vouch(proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    store = Store("s3://tried/vouched")
    create(store, single_writer=True)
    assert (store.token, caplog.text) == ("", "")
    assert store.children(layout.PLACES)


# --- what errors say


def test_a_server_that_says_the_whole_checksum_with_a_range_is_read() -> None:
    with proxied(("says-checksums-of-ranges",)):
        store = Store("s3://tried/archive")
        store.replace("x", b"0123456789")
        assert store.read_range("x", 3, 4) == b"3456"
        assert b"".join(store.pieces("x", 4, 2, start=3)) == b"3456"


def test_an_error_without_a_message_says_code_and_status(proxy: Proxy) -> None:
    proxy.rule("403", pattern=WRITES)
    with pytest.raises(StorageError, match=r"^s3://tried/silent/x: cannot write: AccessDenied \(HTTP 403\)$"):
        Store("s3://tried/silent").publish("x", b"1")
    proxy.rule()


def test_a_bucket_that_does_not_exist_is_not_an_archive_that_is_missing(proxy: Proxy) -> None:
    for ask in (existing, writable, status, audit, lambda url: create(Store(url)), lambda url: Store(url).children("")):
        with pytest.raises(StorageError, match=r"^s3://no-such: this bucket does not exist; [^\n]*$"):
            ask("s3://no-such/archive")


def test_a_server_that_cannot_list_uploads_has_none_to_abort(proxy: Proxy) -> None:
    proxy.rule("501", pattern=r"^GET \S+[?&]uploads")
    assert Store("s3://tried/unlisted").abort_uploads() == []
    assert len(proxy.log()) == 1
    proxy.rule()


def test_the_probe_leaves_nothing_behind(proxy: Proxy) -> None:
    store = Store("s3://tried/probed")
    assert "If-None-Match" in probe(store)
    assert list(store.list()) == []
    assert store.abort_uploads() == []
