"""Storage: publishing is exclusive and survives being killed, races and lost replies; errors keep secrets."""

import ctypes
import errno
import multiprocessing
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.dirfs import DirFileSystem

from codec.errors import ArchiveError
from tasks.storage import local
from tasks.storage.probe import probe
from tasks.storage.store import NotFoundError, StorageError, Store


def _publish_many(url: str, content: bytes, together: Any, results: Any) -> None:
    store = Store(url)
    together.wait()
    results.put([store.publish(f"race/{number}", content * 1000) for number in range(50)])


def test_of_two_processes_that_publish_one_name_exactly_one_wins(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results, together = context.Queue(), context.Barrier(2)
    runners = [
        context.Process(target=_publish_many, args=(str(tmp_path), content, together, results))
        for content in (b"a", b"b")
    ]
    for runner in runners:
        runner.start()
    won = [results.get(timeout=300) for _ in runners]
    for runner in runners:
        runner.join()
    assert all(sum(pair) == 1 for pair in zip(*won, strict=True))
    contents = {path.read_bytes() for path in (tmp_path / "race").iterdir()}
    assert contents <= {b"a" * 1000, b"b" * 1000}


def test_a_refused_publication_leaves_what_was_there(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    assert store.publish("x/y", b"first")
    assert not store.publish("x/y", b"second")
    assert store.read("x/y") == b"first"
    assert [item.name for item in store.list()] == ["x/y"]


def test_publishing_what_stands_there_already_succeeds(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    spool = tmp_path / "spool"
    spool.write_bytes(b"same")
    assert store.publish("x", b"same")
    assert store.publish("x", spool)


def test_a_publisher_whose_reply_was_lost_finds_out_that_it_won(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path))
    create = store._create

    def lose_reply(name: str, content: bytes | Path) -> None:
        create(name, content)
        raise TimeoutError("no reply")

    monkeypatch.setattr(store, "_create", lose_reply)
    assert store.publish("x", b"mine")


def test_a_publication_that_cannot_be_told_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path))
    monkeypatch.setattr(store, "_create", _raise(OSError(28, "No space left on device")))
    with pytest.raises(StorageError, match="cannot write: No space left on device"):
        store.publish("x", b"mine")


def test_a_half_written_file_is_not_listed_and_is_cleared_away(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.publish("runs/part", b"done")
    (tmp_path / "runs" / ".0123456789abcdef.unfinished").write_bytes(b"half")
    assert [item.name for item in store.list()] == ["runs/part"]
    assert store.children("runs") == ["part"]
    store.remove_unfinished("runs")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["part"]


class CarelessFileSystem(DirFileSystem):  # type: ignore[misc]  # fsspec is untyped
    """Creates exclusively by looking first and writing then, as most file systems of fsspec do."""

    protocol = "careless"
    together = threading.Barrier(2)
    """Both writers have looked before one of them writes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(fs=fsspec.filesystem("memory"), path="/careless")

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        if mode == "create" and self.exists(path):
            raise FileExistsError(path)
        if mode == "create":
            self.together.wait()
        super().pipe_file(path, value)


def test_a_store_in_which_two_writers_win_is_refused(tmp_path: Path) -> None:
    fsspec.register_implementation("careless", CarelessFileSystem, clobber=True)
    with pytest.raises(ArchiveError, match="single-writer"):
        probe(Store("careless://archive"))
    assert "link" in probe(Store(str(tmp_path)))
    assert list(Store(str(tmp_path)).list()) == []


def test_errors_name_the_place_and_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2hunter2")
    store = Store(str(tmp_path))
    monkeypatch.setattr(store, "_given", "s3://someone:password@bucket/archive")
    monkeypatch.setattr(store._fs, "cat_file", _raise(OSError(5, "signature by hunter2hunter2 refused")))
    with pytest.raises(StorageError) as caught:
        store.read("x")
    assert str(caught.value) == "s3://bucket/archive/x: cannot read: signature by *** refused"


def test_what_is_not_there_is_told_from_what_cannot_be_read(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for ask in (store.read, store.item, store.sha256):
        with pytest.raises(NotFoundError):
            ask("nothing")
    assert not store.exists("nothing")
    assert store.children("nothing") == []
    store.remove("nothing")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError):
        store.read("folder")


def test_a_range_beyond_the_end_is_an_error(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.publish("x", b"0123456789")
    assert store.read_range("x", 3, 4) == b"3456"
    with pytest.raises(StorageError, match="7 of 8 bytes at 3"):
        store.read_range("x", 3, 8)


def test_listing_follows_links_once_and_leaves_out_what_is_no_file(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    (root / "sub").mkdir(parents=True)
    elsewhere.mkdir()
    (root / "sub" / "a").write_bytes(b"1")
    (elsewhere / "b").write_bytes(b"22")
    (root / "linked").symlink_to(elsewhere)
    (root / "sub" / "loop").symlink_to(root)
    (root / "itself").symlink_to(root / "itself")
    (root / "broken").symlink_to(root / "nothing")
    os.mkfifo(root / "pipe")
    assert sorted((item.name, item.size) for item in Store(str(root)).list()) == [("linked/b", 2), ("sub/a", 1)]


def test_a_name_that_is_no_utf_8_is_listed_read_and_addressed(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/\xff%FF.jpg"
    Path(os.fsdecode(raw)).write_bytes(b"x")
    store = Store(str(tmp_path))
    (item,) = store.list()
    assert store.read(item.name) == b"x"
    assert store.uri(item.name) == f"file://{tmp_path}/%FF%25FF.jpg"


def test_a_stamp_changes_with_the_file(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.replace("x", b"one")
    before = store.item("x")
    os.utime(tmp_path / "x", ns=(1, 1))
    assert before.stamp != store.item("x").stamp == "1"


def test_replacing_leaves_no_moment_without_a_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path))
    store.replace("x", b"old")
    monkeypatch.setattr(Path, "replace", _raise(OSError(5, "killed")))
    with pytest.raises(StorageError):
        store.replace("x", b"new")
    assert store.read("x") == b"old"


def _raise(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


@pytest.fixture
def no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hard links fail as on exFAT or SMB."""

    def refused(self: Path, target: Path) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM), str(self))

    monkeypatch.setattr(Path, "hardlink_to", refused)


@pytest.mark.usefixtures("no_links")
def test_a_name_is_taken_once_where_there_are_no_hard_links(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    assert probe(store, rounds=2)
    assert store.publish("a/b", b"first") is True
    assert store.publish("a/b", b"second") is False
    assert store.publish("a/b", b"first") is True
    assert store.read("a/b") == b"first"
    assert [item.name for item in store.list()] == ["a/b"]


@pytest.mark.usefixtures("no_links")
def test_a_file_system_that_can_neither_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        def __getattr__(self, name: str) -> Any:
            def call(*_: object) -> int:
                ctypes.set_errno(errno.EINVAL)
                return -1

            return call

    monkeypatch.setattr(local.ctypes, "CDLL", lambda *_, **__: Library())
    with pytest.raises(StorageError, match="neither hard links nor exclusive renames") as told:
        Store(str(tmp_path)).publish("a", b"a")
    assert "\n" not in str(told.value)
    assert list(Store(str(tmp_path)).list()) == []


def test_no_temporary_copy_is_left_by_a_publication_that_won_or_lost(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    assert (store.publish("x", b"a"), store.publish("x", b"b")) == (True, False)
    store.replace("y", b"c")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x", "y"]


def test_folders_made_on_the_way_survive_a_power_cut_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    real = local.sync
    monkeypatch.setattr(local, "sync", lambda folder: (synced.append(folder), real(folder)))
    Store(str(tmp_path)).publish("a/b/c", b"x")
    assert {tmp_path, tmp_path / "a", tmp_path / "a" / "b"} <= set(synced)


@pytest.mark.parametrize("put", [Store.publish, Store.replace], ids=["published", "replaced"])
def test_bytes_are_on_the_disk_before_they_have_their_name_and_then_the_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, put: Callable[[Store, str, bytes], object]
) -> None:
    """After a power cut only synced bytes are there. Records what was synced, and which names existed by then."""
    synced: list[tuple[str, object]] = []
    real = os.fsync

    def noted(descriptor: int) -> None:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            synced.append(("folder", "name" in os.listdir(descriptor)))  # of a descriptor
        else:
            synced.append(("file", status.st_size))
            assert not (tmp_path / "name").exists(), "no name yet"
        real(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    put(Store(str(tmp_path)), "name", b"content")
    assert synced == [("file", len(b"content")), ("folder", True)]
