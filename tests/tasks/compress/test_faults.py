"""An object store over an unreliable wire: killed, refused, cut off, without a reply, an archive ends as it should."""

import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from s3fs import S3FileSystem

from codec.errors import ArchiveError
from tasks.archive.opening import create
from tasks.storage.store import StorageError, Store
from tests.support import runner_processes
from tests.support.archive_builder import pack, png, rows, snapshot
from tests.support.fake_s3 import serving
from tests.support.faulty_proxy import Proxy, proxying

ATTEMPTS = 8

PHOTOS = "s3://wire/photos"

KILLS = {
    "planning, listing half sent": ("kill-middle", "PUT .*/listing-"),
    "planning, manifest half sent": ("kill-middle", "PUT .*/manifest-"),
    "planning, manifest published, reply lost": ("kill-after", "PUT .*/manifest-"),
    "encoding, the tar half spooled": ("kill-before", "GET .*/photos/b.png"),
    "committing, tar half sent in parts": ("kill-middle", r"PUT .*/000000-\w*.tar\?.*partNumber=3"),
    "committing, tar published without its part": ("kill-after", r"PUT .*/000000-\w*.tar"),
    "committing, part half sent": ("kill-middle", "PUT .*/part-000000"),
    "committing, part published, reply lost": ("kill-after", "PUT .*/part-000000"),
    "sealing, seal half sent": ("kill-middle", "PUT .*/complete.json"),
    "sealing, seal published, reply lost": ("kill-after", "PUT .*/complete.json"),
    "sealing, the record half sent": ("kill-middle", "PUT .*/log/000000/000000003.json"),
    "sealing, on record, reply lost": ("kill-after", "PUT .*/log/000000/000000003.json"),
}
SEALED = ("sealing, seal published, reply lost", "sealing, the record half sent", "sealing, on record, reply lost")
"""After these nothing is left to do but to put it on record."""

LATE = "replies too late, slow reads and reads cut off"
FAULTS = {
    "internal errors and throttling": (["500", "503"], "."),
    "connections dropped and replies lost": (["drop", "lose"], "."),
    LATE: (["drip", "cut", "stall"], "GET"),
    "conflicts and refusals without reason": (["409", "412"], "PUT"),
}


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    """A proxy before a server with four sources; every s3:// of this module goes through it."""
    with serving() as server, proxying(server) as started, pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        patch.setenv("AWS_ENDPOINT_URL", started.address)
        patch.setitem(fsspec.config.conf, "s3", {"config_kwargs": {"retries": {"max_attempts": 2}}})
        fsspec.filesystem("s3").mkdir("wire")
        for name, content in {"a.png": png(1), "b.png": png(2), "c.png": png(3), "d.jpg": b"no picture"}.items():
            Store(PHOTOS).replace(name, content)
        yield started


ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "planted-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@pytest.fixture
def impatient(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Clients that wait a second for a reply: on a busy machine that is too short for most tests."""
    options = {"config_kwargs": {"read_timeout": 1, "retries": {"max_attempts": 2}}}
    monkeypatch.setitem(fsspec.config.conf, "s3", options)
    S3FileSystem.clear_instance_cache()
    yield
    S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def undisturbed(proxy: Proxy, fake_bundle: Path) -> dict[str, str]:
    proxy.rule()
    pack(PHOTOS, "s3://wire/undisturbed/archive", fake_bundle)
    return snapshot("s3://wire/undisturbed/archive")


@pytest.mark.usefixtures("children_are_played_here")  # those of the second run; the first one's die with it
@pytest.mark.parametrize("point", KILLS)
def test_killed_and_run_again(point: str, proxy: Proxy, fake_bundle: Path, undisturbed: dict[str, str]) -> None:
    archive = f"s3://wire/{list(KILLS).index(point)}/archive"
    proxy.rule()
    create(Store(archive))
    act, pattern = KILLS[point]
    proxy.rule(act, pattern=pattern, once=True)
    in_parts = "in parts" in point
    environment = {**ENVIRONMENT, "AWS_ENDPOINT_URL": proxy.address}
    runner = runner_processes.start(PHOTOS, archive, fake_bundle, environment=environment, in_parts=in_parts)
    proxy.kill(runner.pid or 0)
    assert runner_processes.end(runner) == -signal.SIGKILL
    assert bool(uploads(archive)) == in_parts, "they are kept and billed until someone aborts them"
    outcome = pack(PHOTOS, archive, fake_bundle)
    assert uploads(archive) == []
    assert outcome.runs == ([] if point in SEALED else [1])
    assert snapshot(archive) == undisturbed


def uploads(archive: str) -> list[str]:
    """The keys of uploads in parts below an archive that were neither completed nor aborted."""
    bucket, _, prefix = archive.removeprefix("s3://").partition("/")
    found = fsspec.filesystem("s3").call_s3("list_multipart_uploads", Bucket=bucket, Prefix=f"{prefix}/")
    return [upload["Key"] for upload in found.get("Uploads", ())]


@pytest.mark.usefixtures("children_are_played_here")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_completes_or_a_later_one_completes_it(
    fault: str, proxy: Proxy, fake_bundle: Path, undisturbed: dict[str, str], request: pytest.FixtureRequest
) -> None:
    if fault == LATE:
        request.getfixturevalue("impatient")
    archive = f"s3://wire/fault-{list(FAULTS).index(fault)}/archive"
    acts, pattern = FAULTS[fault]
    proxy.rule(*acts, pattern=pattern, every={".": 9, "GET": 5, "PUT": 3}[pattern])
    for _ in range(ATTEMPTS):
        try:
            pack(PHOTOS, archive, fake_bundle)
            break
        except ArchiveError as error:
            assert "\n" not in str(error)
            assert "planted-secret" not in str(error)
    else:
        pytest.fail(f"not complete after {ATTEMPTS} attempts")
    suffered = [entry for entry in proxy.log() if re.search(pattern, entry)]
    assert len(suffered) > 20
    proxy.rule()
    assert snapshot(archive) == undisturbed


@pytest.mark.usefixtures("children_are_played_here")
def test_a_store_that_answers_nothing_but_errors_fails_clearly(proxy: Proxy, fake_bundle: Path) -> None:
    proxy.rule("500", pattern="PUT .*/part-000000")
    archive = "s3://wire/broken/archive"
    with pytest.raises(StorageError, match=r"part-000000.parquet: cannot write"):
        pack(PHOTOS, archive, fake_bundle)
    assert rows(archive) == []
    proxy.rule()
    assert pack(PHOTOS, archive, fake_bundle).runs == [1]


@pytest.mark.usefixtures("children_are_played_here")
def test_uploads_that_killed_runners_left_are_aborted_by_the_seal(proxy: Proxy, fake_bundle: Path) -> None:
    proxy.rule()
    client, archive = fsspec.filesystem("s3"), "s3://wire/uploads/archive"
    for key in ("uploads/archive/runs/000001/shards/000000-0000000000000000.tar", "uploads/else"):
        client.call_s3("create_multipart_upload", Bucket="wire", Key=key)
    pack(PHOTOS, archive, fake_bundle)
    left = client.call_s3("list_multipart_uploads", Bucket="wire", Prefix="uploads/")["Uploads"]
    assert [upload["Key"] for upload in left] == ["uploads/else"]
    since_1970 = time.time()
    assert Store("s3://wire/uploads").abort_uploads(older_than=since_1970) == []
    assert Store("s3://wire/uploads").abort_uploads() == ["else"]


def test_a_listing_is_read_in_pages(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy.rule()
    client = fsspec.filesystem("s3", use_listings_cache=False)  # the one that a Store has
    call = client.call_s3

    def two_a_page(method: str, **request: Any) -> Any:
        return call(method, MaxKeys=2, **request)

    monkeypatch.setattr(client, "call_s3", two_a_page)
    assert sorted(item.name for item in Store(PHOTOS).list()) == ["a.png", "b.png", "c.png", "d.jpg"]
    assert len([request for request in proxy.log() if "list-type=2" in request]) == 2


def test_a_name_and_a_folder_take_one_request_each(proxy: Proxy) -> None:
    proxy.rule()
    photos = Store(PHOTOS)
    assert photos.exists("a.png") and not photos.exists("e.png")
    assert photos.size("a.png") == len(png(1))
    assert photos.children("") == ["a.png", "b.png", "c.png", "d.jpg"]
    assert (photos.children("none"), Store("s3://wire").children("photos/a.png")) == ([], [])
    assert "photos" in Store("s3://wire").children("")
    assert len(proxy.log()) == 7
    fsspec.filesystem("s3").call_s3("put_object", Bucket="wire", Key="odd//x", Body=b"")
    assert Store("s3://wire/odd").children("") == [], "no name of its own between two slashes"
