"""The cache keeps its bound, survives restarts, and never gives back damaged bytes or removes files of others."""

import os
from pathlib import Path

import pytest

from codec.errors import SettingsError
from tasks.gateway.cache import HASH_BYTES, DiskCache

FIRST, SECOND = "1" * 64, "2" * 64


def size_on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_the_cache_keeps_its_bound_and_what_was_used_last(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "c", 10 * (1000 + HASH_BYTES))
    for number in range(50):
        cache.put(bytes([number]) * 1000, FIRST, number)
        assert cache.get(FIRST, 0) == bytes(1000), "used each time, so never the oldest"
    assert len(cache) == 10 and cache.bytes == size_on_disk(tmp_path / "c") <= cache.most
    assert cache.get(FIRST, 1) is None and cache.get(FIRST, 49) == bytes([49]) * 1000
    cache.put(bytes(20_000), FIRST, "larger than all")
    assert cache.get(FIRST, "larger than all") is None and len(cache) == 10
    cache.put(bytes(500), FIRST, 49)
    assert cache.bytes == size_on_disk(tmp_path / "c")


def test_a_restart_keeps_the_files_their_order_and_a_smaller_bound(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "c", 10**6)
    for number in range(6):
        cache.put(bytes(1000), FIRST, number)
        [path] = [path for path in (tmp_path / "c" / FIRST).iterdir() if path.stat().st_mtime > 1000]
        os.utime(path, (number, number))
    (tmp_path / "c" / FIRST / ".killed").write_bytes(bytes(5000))
    again = DiskCache(tmp_path / "c", 3 * (1000 + HASH_BYTES))
    assert [again.get(FIRST, number) is not None for number in range(6)] == [False] * 3 + [True] * 3
    assert again.bytes == size_on_disk(tmp_path / "c")


def test_damaged_bytes_are_not_given_back(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "c", 10**6)
    cache.put(b"picture", FIRST, "png")
    [path] = (tmp_path / "c" / FIRST).iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    assert cache.get(FIRST, "png") is None and cache.bytes == 0
    cache.put(b"picture", FIRST, "png")
    assert cache.get(FIRST, "png") == b"picture"


def test_what_the_archive_does_not_hold_is_removed_from_the_disk(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "c", 10**6)
    for stored in (FIRST, SECOND):
        cache.put(stored.encode(), stored, "png")
        cache.put(stored.encode(), stored, "webp")
    cache.keep_only(lambda hashes: hashes - {FIRST})
    assert cache.get(FIRST, "png") is None and cache.get(SECOND, "webp") == SECOND.encode()
    assert not (tmp_path / "c" / FIRST).exists()
    assert len(cache) == 2


def test_a_folder_of_others_is_not_taken_for_a_cache(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("irreplaceable")
    with pytest.raises(SettingsError, match="empty folder"):
        DiskCache(tmp_path, 10**6)
    assert (tmp_path / "thesis.txt").read_text() == "irreplaceable"


def test_a_disk_that_takes_nothing_only_costs_the_cache(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "c", 10**6)
    (tmp_path / "c" / FIRST).write_text("in the way of a folder")
    cache.put(b"picture", FIRST, "png")
    assert cache.get(FIRST, "png") is None and cache.bytes == 0
