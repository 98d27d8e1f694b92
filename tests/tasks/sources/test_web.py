"""The `url` column of a listing may name files of web servers, whatever these leave unsaid or refuse."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from codec.errors import SettingsError
from tasks.sources.source import open_source
from tasks.storage import http, readable
from tasks.storage.store import StorageError, Store
from tests.support.archive_builder import pack, png, rows
from tests.support.web_server import WebServer, web

pytestmark = pytest.mark.usefixtures("children_are_played_here")


@pytest.fixture
def website() -> Iterator[WebServer]:
    with web() as started:
        yield started


def listing(folder: Path, website: WebServer, *paths: str) -> Path:
    path = folder / "list.csv"
    path.write_text("url\n" + "\n".join(f"{website.address}{path}" for path in paths) + "\n")
    return path


def outcomes(archive: Path, website: WebServer) -> dict[str, tuple[Any, ...]]:
    host = website.address.removeprefix("http://")
    return {row["key"].removeprefix(host): (row["status"], row["reason"]) for row in rows(archive)}


KEPT = ("compressed", None)


def test_pictures_of_a_web_server_are_compressed_with_and_without_ranges_redirected_and_of_unsaid_size(
    website: WebServer, tmp_path: Path, fake_bundle: Path
) -> None:
    paths = ("/ranges/a.png", "/plain/b%20c.png", "/unsaid/d.png", "/headless/e.png", "/plain/f?size=large")
    website.files = {path: png(seed) for seed, path in enumerate(paths)}
    source = listing(tmp_path, website, *paths, "/moved/plain/b%20c.png")
    pack(source, tmp_path / "a", fake_bundle)
    found = {row["source_uri"]: row for row in rows(tmp_path / "a")}
    assert {row["status"] for row in found.values()} == {"compressed"}
    assert len(found) == len(paths) + 1
    for path in paths:
        row = found[f"{website.address}{path.replace('%', '%25')}"]
        assert row["source_sha256"] == hashlib.sha256(website.files[path]).hexdigest()
        assert (row["source_bytes"], row["source_modified_at"]) == (len(website.files[path]), None)
    assert pack(source, tmp_path / "a", fake_bundle).runs == []
    website.files["/plain/b%20c.png"] = png(77)
    totals = pack(source, tmp_path / "a", fake_bundle).totals
    assert totals["compressed"] == 2


def test_what_a_web_server_refuses_or_breaks_off_costs_its_own_row(
    website: WebServer, tmp_path: Path, fake_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "SILENT_SECONDS", 0.3)
    fsspec.get_filesystem_class("http").clear_instance_cache()
    website.files = {path: png(seed) for seed, path in enumerate(("/plain/a.png", "/cut/b.png", "/slow/c.png"))}
    refused = ("/status/403/x", "/status/401/x", "/status/410/x", "/status/500/x", "/status/503/x", "/loop/x")
    pack(listing(tmp_path, website, *website.files, *refused, "/plain/none.png"), tmp_path / "a", fake_bundle)
    lost, missing = ("failed", "source_unreadable"), ("failed", "source_missing")
    assert outcomes(tmp_path / "a", website) == {
        "/plain/a.png": KEPT,
        "/plain/none.png": missing,
        "/status/410/x": missing,
        **dict.fromkeys(("/cut/b.png", "/slow/c.png", "/loop/x"), lost),
        **{f"/status/{status}/x": lost for status in (401, 403, 500, 503)},
    }
    errors = {row["key"].partition("/")[2]: row["error"] for row in rows(tmp_path / "a")}
    assert "HTTP 403 Forbidden" in errors["status/403/x"]
    assert "HTTP 500" in errors["status/500/x"]
    fsspec.get_filesystem_class("http").clear_instance_cache()


def test_a_server_is_asked_whether_it_is_there_for_its_own_failures_and_not_for_a_files(
    website: WebServer, tmp_path: Path, fake_bundle: Path
) -> None:
    pack(listing(tmp_path, website, "/status/403/x", "/status/404/x"), tmp_path / "a", fake_bundle)
    assert ("GET", "/") not in website.requests
    pack(listing(tmp_path, website, "/status/500/x"), tmp_path / "b", fake_bundle)
    assert ("GET", "/") in website.requests


def test_a_web_server_that_is_gone_stops_the_run_before_it_commits_and_one_of_two_costs_its_rows(
    website: WebServer, tmp_path: Path, fake_bundle: Path
) -> None:
    with web() as other:
        other.files = {"/plain/a.png": png(1)}
        source = listing(tmp_path, other, "/plain/a.png")
        (entry,) = open_source(str(source)).entries()
    source.write_text(f"url,size,etag\n{entry['uri']},{entry['size']},{entry['stamp']}\n")
    with pytest.raises(StorageError, match="is unavailable"):
        pack(source, tmp_path / "a", fake_bundle)
    assert rows(tmp_path / "a") == []
    source.write_text(f"url\n{entry['uri']}\n")
    with pytest.raises(StorageError, match="cannot read"):
        pack(source, tmp_path / "b", fake_bundle)
    website.files = {"/plain/b.png": png(2)}
    source.write_text(f"url\n{entry['uri']}\n{website.address}/plain/b.png\n")
    assert pack(source, tmp_path / "c", fake_bundle).totals["failed"] == 1
    assert outcomes(tmp_path / "c", website)["/plain/b.png"] == KEPT


def test_of_a_web_servers_file_no_more_is_read_than_was_promised(
    website: WebServer, tmp_path: Path, fake_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    website.files = {"/plain/a.png": bytes(1 << 20), "/unsaid/b.png": bytes(3000)}
    source = tmp_path / "list.csv"
    source.write_text(f"url,size,etag\n{website.address}/plain/a.png,100,0\n")
    pack(source, tmp_path / "a", fake_bundle)
    assert outcomes(tmp_path / "a", website) == {"/plain/a.png": ("failed", "source_changed")}
    assert list(map(len, Store(website.address).pieces("plain/a.png", 101, 64))) == [64, 37]
    monkeypatch.setattr(readable, "LARGEST_UNSAID", 2000)
    with pytest.raises(StorageError, match="has no stated size and is larger than 2000 bytes"):
        Store(website.address).item("unsaid/b.png")


@pytest.mark.parametrize("path", ["", "/ranges/", "/ranges/a.png"])
def test_a_folder_of_a_web_server_is_refused_in_one_line_that_says_what_to_do(website: WebServer, path: str) -> None:
    with pytest.raises(SettingsError, match=r"no reliable listing; name its files in the `url` column of a listing"):
        open_source(website.address + path)


def test_a_listing_may_lie_on_a_web_server_and_name_what_lies_beside_it(
    website: WebServer, tmp_path: Path, fake_bundle: Path
) -> None:
    website.files = {"/plain/list.csv": b"path\na.png\n", "/plain/a.png": png(1)}
    assert pack(f"{website.address}/plain/list.csv", tmp_path / "a", fake_bundle).totals["compressed"] == 1
    assert Store(website.address).read("plain/a.png") == png(1)
    assert Store(website.address).read_range("plain/a.png", 5, 9) == png(1)[5:14]
    assert b"".join(Store(website.address).pieces("plain/a.png", 9, 4, start=5)) == png(1)[5:14]
