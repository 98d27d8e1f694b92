"""Nothing is lost: whatever a source is or does, it ends as the row it should, and the shard goes on."""

import os
import signal
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import webdataset

from codec.errors import ArchiveError
from tasks.archive import layout, report
from tasks.archive.tar import Tar
from tasks.compress import listing, shard
from tasks.processes.child import ChildDied, Frame
from tasks.processes.requests import Encode, Request
from tasks.sources.source import ChangedError, FolderSource
from tasks.storage.keys import member
from tasks.storage.store import StorageError, Store
from tests.support import fake_codec
from tests.support.archive_builder import SMALL, InProcess, folder, pack, png, reopened, rows

pytestmark = pytest.mark.usefixtures("children_are_played_here")

ONE_SHARD = replace(SMALL, max_images_per_shard=100)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, fake_bundle: Path) -> tuple[Path, Path, dict[str, dict[str, Any]]]:
    """A source of good and bad files in one shard, its archive, and its rows by key."""
    home = tmp_path_factory.mktemp("mixed")
    files = {
        "good.png": png(1),
        "again/good.png": png(1),
        "after.png": png(2),
        "text.jpg": b"no picture at all",
        "truncated.png": png(3)[:-500],
        "empty.jpg": b"",
        "crash.png": png(4, fault=fake_codec.CRASH),
        "killed.png": png(5, fault=fake_codec.KILLED),
        "hang.png": png(6, fault=fake_codec.HANG),
        "raise.png": png(7, fault=fake_codec.RAISE),
        "corrupt.png": png(8, fault=fake_codec.CORRUPT),
        "grow.PNG": png(9, fault=fake_codec.GROW),
        "unsupported.png": png(10, fault=fake_codec.UNSUPPORTED),
    }
    source = folder(home / "s", files)
    pack(source, home / "a", fake_bundle, replace(ONE_SHARD, image_timeout=3.0))
    return source, home / "a", {row["key"]: row for row in rows(home / "a")}


Mixed = tuple[Path, Path, dict[str, dict[str, Any]]]


def test_every_source_ends_as_the_row_it_should(mixed: Mixed) -> None:
    assert {key: (row["status"], row["reason"]) for key, row in mixed[2].items()} == {
        "good.png": ("compressed", None),
        "again/good.png": ("compressed", None),
        "after.png": ("compressed", None),
        "text.jpg": ("fallback", "not_an_image"),
        "truncated.png": ("fallback", "damaged"),
        "empty.jpg": ("fallback", "damaged"),
        "crash.png": ("fallback", "crashed"),
        "killed.png": ("fallback", "killed"),
        "hang.png": ("fallback", "timeout"),
        "raise.png": ("fallback", "encoder"),
        "corrupt.png": ("fallback", "unverified"),
        "grow.PNG": ("fallback", "would_grow"),
        "unsupported.png": ("fallback", "unsupported"),
    }


def test_what_a_crash_or_its_content_keeps_from_being_compressed_says_why_in_one_line(mixed: Mixed) -> None:
    for row in mixed[2].values():
        if row["status"] == "fallback" and row["reason"] not in ("would_grow", "unverified"):
            assert row["error"]
            assert "\n" not in row["error"]
        assert row["source_sha256"]
    assert mixed[2]["raise.png"]["error"] == "RuntimeError: the encoder is out of sorts"


def test_a_fallback_keeps_the_sources_own_bytes(mixed: Mixed) -> None:
    source, archive, found = mixed
    for key in [key for key, row in found.items() if row["status"] == "fallback"]:
        row = found[key]
        assert row["codec"] == "original"
        kept = Store(str(archive)).read_range(row["tar"], row["offset"], row["length"])
        assert kept == (source / key).read_bytes()
        assert row["sha256"] == row["source_sha256"]
        assert row["psnr_db"] is row["quality_lambda"] is row["timestep"] is None


def test_equal_content_is_stored_once_in_a_shard_and_names_the_first_key(mixed: Mixed) -> None:
    first, second = mixed[2]["again/good.png"], mixed[2]["good.png"]
    assert (first["duplicate_of"], second["duplicate_of"]) == (None, "again/good.png")
    assert (first["tar"], first["offset"]) == (second["tar"], second["offset"])
    total = report.count(shard.committed(Store(str(mixed[1])), 1, 0))
    with tarfile.open(mixed[1] / first["tar"]) as tar:
        assert total["stored_bytes"] == sum(member.size for member in tar)


def test_equal_content_in_another_shard_names_the_first_key_and_has_bytes_of_its_own(
    tmp_path: Path, fake_bundle: Path
) -> None:
    source = folder(tmp_path / "s", {"a.png": png(1), "b.png": png(1)})
    pack(source, tmp_path / "a", fake_bundle, replace(SMALL, max_images_per_shard=1))
    first, second = rows(tmp_path / "a")
    assert second["duplicate_of"] == "a.png"
    assert second["tar"] != first["tar"]
    assert second["sha256"] == first["sha256"]


def test_webdataset_reads_the_tar_one_sample_a_member(mixed: Mixed) -> None:
    stored = {row["tar"]: None for row in mixed[2].values() if row["tar"]}
    (tar,) = stored
    with (mixed[1] / tar).open("rb") as file:
        found = webdataset.tariterators.tar_file_expander([{"url": tar, "stream": file}])
        samples = list(webdataset.tariterators.group_by_keys(found))
    by_key = {sample["__key__"]: [name for name in sample if not name.startswith("__")] for sample in samples}
    keys = sorted(mixed[2])
    expected = {
        member(keys.index(key), key, "fdc" if row["codec"] == "fdc" else key[-3:].lower())
        for key, row in mixed[2].items()
        if row["tar"] and not row["duplicate_of"]
    }
    assert {f"{key}.{extension}" for key, (extension,) in by_key.items()} == expected


def test_members_have_a_fixed_owner_mode_and_time(mixed: Mixed) -> None:
    with tarfile.open(mixed[1] / mixed[2]["good.png"]["tar"]) as tar:
        about = {(member.uid, member.gid, member.uname, member.gname, member.mtime, member.mode) for member in tar}
    assert about == {(0, 0, "", "", 0, 0o444)}


def test_a_planted_fault_would_pass_unverified(tmp_path: Path, fake_bundle: Path) -> None:
    source = folder(tmp_path / "s", {"corrupt.png": png(8, fault=fake_codec.CORRUPT)})
    pack(source, tmp_path / "a", fake_bundle, replace(ONE_SHARD, verify=False))
    (row,) = rows(tmp_path / "a")
    assert (row["status"], row["verified"]) == ("compressed", None)


def test_more_pictures_that_could_not_be_kept_than_allowed_stop_the_run_before_it_commits(
    tmp_path: Path, fake_bundle: Path
) -> None:
    source = folder(tmp_path / "s", {"a.png": png(1), "b.jpg": b"no picture", "c.jpg": b"nor this"})
    strict = replace(ONE_SHARD, max_failed_fraction=0.5, metadata="none", strict_metadata=True)
    with pytest.raises(ArchiveError, match=r"2 of 3 pictures failed.*fraction 0.5.*first is 'b.jpg'"):
        pack(source, tmp_path / "a", fake_bundle, strict)
    assert rows(tmp_path / "a") == []
    (source / "a.png").rename(source / "b.jpg")
    assert pack(source, tmp_path / "b", fake_bundle, strict).totals["failed"] == 1


def test_sources_that_could_not_be_read_or_are_kept_whole_do_not_count_as_failed(
    tmp_path: Path, fake_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = {f"{name}.png": png(2, fault=fake_codec.RAISE) for name in "bc"}
    source = folder(tmp_path / "s", {"a.png": png(1), **bad})
    while_reading(monkeypatch, "a.png", (source / "a.png").unlink)
    totals = pack(source, tmp_path / "a", fake_bundle, replace(ONE_SHARD, max_failed_fraction=0.0)).totals
    assert (totals["failed"], totals["fallback"]) == (1, 2)


def test_what_is_no_picture_is_kept_and_not_tried_again_until_it_changes(tmp_path: Path, fake_bundle: Path) -> None:
    source = folder(tmp_path / "s", {"a.png": b"not yet a picture"})
    assert pack(source, tmp_path / "a", fake_bundle).totals["fallback"] == 1
    assert pack(source, tmp_path / "a", fake_bundle).runs == []
    folder(source, {"a.png": png(1)})
    assert pack(source, tmp_path / "a", fake_bundle).totals["compressed"] == 1
    assert [(row["version"], row["status"]) for row in rows(tmp_path / "a")] == [(1, "fallback"), (2, "compressed")]


def while_reading(monkeypatch: pytest.MonkeyPatch, name: str, act: Callable[[], object]) -> None:
    """Do something whenever a source of this name is read, before its bytes are."""
    pieces = Store.pieces

    def intrude(self: Store, asked: str, most: int, length: int) -> Iterator[bytes]:
        if asked == name:
            act()
        return pieces(self, asked, most, length)

    monkeypatch.setattr(Store, "pieces", intrude)


def test_a_source_that_changes_or_vanishes_is_not_held(
    tmp_path: Path, fake_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder(tmp_path / "s", {"changes.png": png(1), "stays.png": png(2), "vanishes.png": png(3)})
    with monkeypatch.context() as patch:
        while_reading(patch, "changes.png", lambda: os.utime(source / "changes.png", ns=(7, 7)))
        while_reading(patch, "vanishes.png", (source / "vanishes.png").unlink)
        pack(source, tmp_path / "a", fake_bundle)
    assert [(row["status"], row["reason"], row["source_sha256"] is None) for row in rows(tmp_path / "a")] == [
        ("failed", "source_changed", True),
        ("compressed", None, False),
        ("failed", "source_missing", True),
    ]
    folder(source, {"vanishes.png": png(3)})
    pack(source, tmp_path / "a", fake_bundle)
    second = [(row["key"], row["status"], row["version"]) for row in rows(tmp_path / "a") if row["run"] == 2]
    assert second == [("changes.png", "compressed", 1), ("vanishes.png", "compressed", 1)]


def test_a_source_that_shows_nothing_any_more_commits_no_row_and_the_next_call_completes(
    tmp_path: Path, fake_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder(tmp_path / "s", {"a.png": png(1), "b.png": png(2)})

    def unmount() -> None:
        source.rename(tmp_path / "away")
        raise StorageError("the disk is on fire")

    with monkeypatch.context() as patch:
        while_reading(patch, "b.png", unmount)
        with pytest.raises(StorageError, match=r"is unavailable.*on fire"):
            pack(source, tmp_path / "a", fake_bundle)
    assert rows(tmp_path / "a") == []
    (tmp_path / "away").rename(source)
    assert pack(source, tmp_path / "a", fake_bundle).totals["compressed"] == 2


def test_a_source_too_large_for_memory_is_kept_in_pieces(
    tmp_path: Path, fake_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge, pieces = png(2) + bytes(9000), Store.pieces

    def in_pieces(self: Store, name: str, most: int, length: int) -> Iterator[bytes]:
        assert name != "huge.png" or length == 1000
        return pieces(self, name, most, length)

    source = folder(tmp_path / "s", {"a.png": png(1), "huge.png": huge, "z.png": png(3)})
    monkeypatch.setattr(listing, "LARGEST_SOURCE", 9000)
    monkeypatch.setattr("tasks.sources.source.PIECE", 1000)
    monkeypatch.setattr(Store, "pieces", in_pieces)
    pack(source, tmp_path / "a", fake_bundle)
    found = rows(tmp_path / "a")
    assert [row["reason"] for row in found] == [None, "too_large", None]
    store = Store(str(tmp_path / "a"))
    assert store.read_range(found[1]["tar"], found[1]["offset"], found[1]["length"]) == huge
    os.utime(source / "huge.png", ns=(7, 7))
    pack(source, tmp_path / "a", fake_bundle)
    assert [(row["key"], row["status"]) for row in rows(tmp_path / "a")[3:]] == [("huge.png", "unchanged")]


def test_a_large_source_that_changes_while_it_is_read_leaves_no_trace_in_the_tar(
    tmp_path: Path, fake_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder(tmp_path / "s", {"a.png": png(1), "huge.png": png(2) + bytes(9000), "z.png": png(3)})
    monkeypatch.setattr(listing, "LARGEST_SOURCE", 9000)
    pieces = FolderSource.pieces

    def changing(self: FolderSource, entry: dict[str, Any]) -> Iterator[bytes]:
        yield from pieces(self, entry)
        raise ChangedError("changed")

    monkeypatch.setattr(FolderSource, "pieces", changing)
    pack(source, tmp_path / "a", fake_bundle, ONE_SHARD)
    assert [row["reason"] for row in rows(tmp_path / "a")] == [None, "source_changed", None]
    (tar,) = (tmp_path / "a").glob("runs/*/shards/*.tar")
    with tarfile.open(tar) as members:
        assert len(members.getnames()) == 2


def test_an_offset_that_is_wrong_is_noticed_before_anything_is_committed(
    tmp_path: Path, fake_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder(tmp_path / "s", {"a.png": png(1)})
    add = Tar.add
    monkeypatch.setattr(Tar, "add", lambda self, name, data: add(self, name, data) + 1)
    with pytest.raises(ArchiveError, match=r"'a.png': its bytes are not at the offset"):
        pack(source, tmp_path / "a", fake_bundle)
    assert list((tmp_path / "a" / layout.run(1)).glob("*/*")) == []


def test_a_tar_that_the_store_altered_is_noticed(
    tmp_path: Path, fake_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder(tmp_path / "s", {"a.png": png(1)})
    sha256 = Store.sha256
    monkeypatch.setattr(Store, "sha256", lambda self, name: "0" * 64 if name.endswith(".tar") else sha256(self, name))
    with pytest.raises(StorageError, match="differs from the written one"):
        pack(source, tmp_path / "a", fake_bundle)
    assert rows(tmp_path / "a") == []


def test_a_shard_without_pictures_has_a_part_and_no_tar(
    tmp_path: Path, fake_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder(tmp_path / "s", {"a.png": png(1)})
    with monkeypatch.context() as patch:
        while_reading(patch, "a.png", (source / "a.png").unlink)
        assert pack(source, tmp_path / "a", fake_bundle).totals["failed"] == 1
    assert not (tmp_path / "a" / layout.shards(1)).exists()


@pytest.mark.parametrize(("deaths", "ends_as"), [(1, ("compressed", None)), (2, ("fallback", "crashed"))])
def test_what_ended_a_child_is_asked_once_more_and_only_then_is_a_row(
    tmp_path: Path, fake_bundle: Path, monkeypatch: pytest.MonkeyPatch, deaths: int, ends_as: tuple[str, str | None]
) -> None:
    source = folder(tmp_path / "s", {"a.png": png(1), "b.png": png(2)})
    ask, left = InProcess.ask, [None] * deaths

    def dying(self: InProcess, request: Request, payload: bytes = b"", **options: Any) -> Frame:
        if isinstance(request, Encode) and left:
            left.pop()
            raise ChildDied(-signal.SIGSEGV)
        return ask(self, request, payload, **options)

    monkeypatch.setattr(InProcess, "ask", dying)
    pack(source, tmp_path / "a", fake_bundle)
    first, second = rows(tmp_path / "a")
    assert (first["status"], first["reason"]) == ends_as
    assert second["status"] == "compressed"


def test_a_shard_that_is_done_starts_no_process_and_tells_its_totals(
    tmp_path: Path, fake_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder(tmp_path / "s", {f"{name}.png": png(seed) for seed, name in enumerate("abc")})
    done = pack(source, tmp_path / "a", fake_bundle, replace(SMALL, max_images_per_shard=2))
    job = shard.CompressionJob(str(tmp_path / "a"), 1)
    monkeypatch.setattr(shard.process_pair, "for_shard", lambda *_: pytest.fail("a process for a shard that is done"))
    assert [shard.encode_shard(job, number)["images"] for number in (0, 1)] == [2, 1]  # of a sealed run
    reopened(tmp_path / "a", 1)
    assert shard.encode_shard(job, 0)["compressed"] == done.totals["compressed"] - 1  # of an open one


def test_a_source_is_kept_though_the_one_that_it_equals_was_lost_meanwhile(
    tmp_path: Path, fake_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder(tmp_path / "s", {"a.png": png(1), "b.png": png(1)})
    listed: list[str] = []

    def vanish() -> None:
        if listed:  # it was read once already, when it was found to equal the other
            (source / "a.png").unlink()
        listed.append("a.png")

    while_reading(monkeypatch, "a.png", vanish)
    pack(source, tmp_path / "a", fake_bundle, ONE_SHARD)
    lost, kept = rows(tmp_path / "a")
    assert (lost["status"], lost["reason"]) == ("failed", "source_missing")
    assert (kept["status"], kept["duplicate_of"]) == ("compressed", "a.png")
