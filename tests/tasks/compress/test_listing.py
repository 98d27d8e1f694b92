"""A run takes what is new or changed, knows what is gone, and shards it within the limits."""

import os
from pathlib import Path
from typing import Any

import pytest

from tasks.archive import log
from tasks.compress import listing
from tasks.compress.listing import Frozen
from tasks.sources.sharding import Limits
from tasks.sources.source import open_source
from tasks.storage.store import Store
from tests.support.archive_builder import folder, pack, png

pytestmark = pytest.mark.usefixtures("children_are_played_here")

WIDE = Limits(100, 10**9, 9)


def freeze(tmp_path: Path, source: Path, limits: Limits = WIDE, archive: Path | None = None) -> Frozen:
    (tmp_path / "scratch").mkdir(exist_ok=True)
    store = Store(str(archive or tmp_path / "none"))
    return listing.freeze(open_source(str(source)), store, log.read(store), limits, tmp_path / "scratch")


def rows(frozen: Frozen, start: int = 0, stop: int = 10**9) -> list[dict[str, Any]]:
    return listing.read(Store(str(frozen.path.parent)), frozen.path.name, start, stop)


def test_a_listing_is_sorted_by_key_and_the_same_each_time(tmp_path: Path) -> None:
    source = folder(tmp_path / "s", {"b": b"1", "a/z": b"22", "a.b": b"333", "B": b"4444"})
    first, again = freeze(tmp_path, source), freeze(tmp_path, source)
    assert [row["key"] for row in rows(first)] == ["B", "a.b", "a/z", "b"]
    assert first.sha256 == again.sha256
    assert rows(first)[3]["uri"] == f"file://{source}/b"


def test_shards_hold_at_most_so_many_pictures_and_bytes(tmp_path: Path) -> None:
    source = folder(tmp_path / "s", {f"{number}": bytes(number + 1) for number in range(6)})
    assert freeze(tmp_path, source, Limits(4, 100, 9)).shards == [(0, 4), (4, 6)]
    assert freeze(tmp_path, source, Limits(4, 6, 9)).shards == [(0, 3), (3, 4), (4, 5), (5, 6)]
    assert freeze(tmp_path, source, Limits(1, 1, 9)).shards == [(number, number + 1) for number in range(6)]


def test_a_run_that_is_full_leaves_the_rest_to_the_next(tmp_path: Path) -> None:
    source = folder(tmp_path / "s", {f"{number}": bytes(number + 1) for number in range(6)})
    frozen = freeze(tmp_path, source, Limits(2, 100, 2))
    assert frozen.truncated
    assert frozen.shards == [(0, 2), (2, 4)]
    assert [row["key"] for row in rows(frozen)] == ["0", "1", "2", "3"]


def test_any_rows_are_read_across_row_groups(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(listing, "BATCH", 2)
    source = folder(tmp_path / "s", {f"{number}": bytes(number + 1) for number in range(7)})
    frozen = freeze(tmp_path, source)
    assert [row["key"] for row in rows(frozen, 1, 6)] == ["1", "2", "3", "4", "5"]
    assert [row["key"] for row in rows(frozen, 6, 7)] == ["6"]
    assert rows(frozen, 7, 9) == []


def test_equal_content_is_known_before_any_shard_starts(tmp_path: Path) -> None:
    source = folder(tmp_path / "s", {"b": b"same", "a": b"same", "c": b"else", "d": b"longer"})
    found = {row["key"]: (row["duplicate_of"], row["sha256"] is not None) for row in rows(freeze(tmp_path, source))}
    assert found == {"a": (None, True), "b": ("a", True), "c": (None, False), "d": (None, False)}


def test_an_empty_source_has_no_shards(tmp_path: Path) -> None:
    assert freeze(tmp_path, folder(tmp_path / "s", {"x/y": b""}) / "x" / "nothing").shards == []


def test_history_decides_what_is_new_changed_and_gone(tmp_path: Path, fake_bundle: Path) -> None:
    source = folder(tmp_path / "s", {name: png(seed) for seed, name in enumerate(("kept", "changed", "gone"))})
    folder(source, {"bad": b"no picture"})
    archive = tmp_path / "a"
    pack(source, archive, fake_bundle)
    (source / "gone").unlink()
    folder(source, {"new": png(7)})
    os.utime(source / "changed", ns=(5, 5))
    frozen = freeze(tmp_path, source, archive=archive)
    state = [(row["key"], row["state"], row["version"], row["held_sha256"] is not None) for row in rows(frozen)]
    assert state == [("changed", "changed", 2, True), ("new", "new", 1, False), ("gone", "gone", 1, True)]
    assert frozen.shards == [(0, 2)]
    assert frozen.gone == 1


def test_what_is_gone_is_listed_once_and_opens_no_run_alone(tmp_path: Path, fake_bundle: Path) -> None:
    source = folder(tmp_path / "s", {"a": png(1), "b": png(2)})
    archive = tmp_path / "a"
    pack(source, archive, fake_bundle)
    (source / "a").unlink()
    assert pack(source, archive, fake_bundle).runs == []
    folder(source, {"c": png(3)})
    assert pack(source, archive, fake_bundle).runs == [2]
    assert freeze(tmp_path, source, archive=archive).gone == 0


def test_a_plan_is_the_same_however_many_buckets_and_reads_it_takes(
    tmp_path: Path, fake_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder(tmp_path / "s", {f"{number}": png(number) for number in range(7)})
    archive = tmp_path / "a"
    pack(source, archive, fake_bundle)
    (source / "1").unlink()
    os.utime(source / "2", ns=(5, 5))
    folder(source, {"new": png(7), "again": png(7)})
    at_once = freeze(tmp_path, source, archive=archive)
    kept = rows(at_once)
    monkeypatch.setattr(listing, "KEYS_PER_BUCKET", 1)
    bit_by_bit = freeze(tmp_path, source, archive=archive)
    assert [row["key"] for row in kept] == ["2", "again", "new", "1"]
    assert rows(bit_by_bit) == kept
    assert bit_by_bit.sha256 == at_once.sha256
