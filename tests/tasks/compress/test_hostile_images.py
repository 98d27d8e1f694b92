"""Whatever lies in a source ends as the row it should, nothing of it is lost, and the run goes on."""

import shutil
from dataclasses import replace
from typing import Any

import pytest

from codec import lossless
from tasks.archive import log, report
from tasks.storage.keys import key_of
from tasks.storage.store import Store
from tests.support.archive_builder import SMALL, bundle, folder, pack, rows
from tests.support.hostile_images import Row, corpus, links

TABLE = corpus()
LIMITS = replace(SMALL, max_images_per_shard=2000, image_timeout=6.0, image_memory=5 * 10**8)
Found = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Found]:
    """The archive of the corpus and its rows by key."""
    home = tmp_path_factory.mktemp("nasty")
    source = folder(home / "s", {name: content for name, (content, _) in TABLE.items()})
    links(source)
    archive = home / "a"
    pack(source, archive, bundle(home / "b"), LIMITS)
    shutil.rmtree(source)
    return Store(str(archive)), {row["key"]: row for row in rows(archive)}


def stored_bytes(archive: Store, row: dict[str, Any]) -> bytes:
    return archive.read_range(row["tar"], row["offset"], row["length"])


def test_the_corpus_is_large_and_the_run_went_through_it(packed: tuple[Store, Found]) -> None:
    assert len(TABLE) >= 60
    assert 1 in log.read(packed[0]).sealed
    assert packed[1].keys() == {key_of(name) for name in TABLE}


@pytest.mark.parametrize(("name", "row"), [(name, row) for name, (_, row) in TABLE.items()])
def test_every_source_ends_as_the_row_it_should(packed: tuple[Store, Found], name: str, row: Row) -> None:
    found = packed[1][key_of(name)]
    assert (found["status"], found["codec"], found["reason"]) == row, found["error"]


def test_what_is_kept_without_loss_comes_back_exactly(packed: tuple[Store, Found]) -> None:
    archive, found = packed
    codecs = set()
    for name, (content, (status, codec, _)) in TABLE.items():
        row = found[key_of(name)]
        if status != "fallback":
            continue
        codecs.add(codec)
        data = stored_bytes(archive, row)
        if codec == "original":
            assert data == content
        else:
            assert len(data) < len(content)
            assert lossless.content_hash(lossless.restore(data)) == lossless.content_hash(content)
        assert row["verified"]
        assert row["psnr_db"] is row["quality_lambda"] is row["timestep"] is None
    assert codecs == {"original", "jxl"}


def test_what_is_kept_whole_says_why_in_one_line_and_nothing_is_lost(packed: tuple[Store, Found]) -> None:
    kept = [row for row in packed[1].values() if row["status"] == "fallback"]
    for row in kept:
        if row["reason"] != "would_grow":
            assert row["error"]
            assert "\n" not in row["error"]
        assert row["source_sha256"]
        assert row["tar"]
    assert not any(row["status"] == "failed" for row in packed[1].values())
    errors = {row["reason"]: row["error"] for row in kept}
    assert errors["killed"] == "took more memory than image_memory allows"


def test_every_orientation_has_its_upright_size(packed: tuple[Store, Found]) -> None:
    sizes = {
        n: (packed[1][f"oriented/{n}.jpg"]["width"], packed[1][f"oriented/{n}.jpg"]["height"]) for n in range(1, 9)
    }
    assert sizes == {n: (80, 60) if n < 5 else (60, 80) for n in range(1, 9)}


def test_what_is_too_large_to_be_decoded_says_so_and_the_mean_rate_is_of_all(packed: tuple[Store, Found]) -> None:
    row = packed[1]["size/above-the-limit.png"]
    assert (row["width"], row["height"]) == (12_000, 10_000)
    assert "12000 x 10000" in row["error"]
    kept = [row for row in packed[1].values() if row["width"] is not None and row["bytes"] is not None]
    bits, pixels = sum(8 * row["bytes"] for row in kept), sum(row["width"] * row["height"] for row in kept)
    assert report.means(packed[0], [1])["bpp"] == pytest.approx(bits / pixels)


def test_no_two_keys_share_bytes_unless_they_are_twins(packed: tuple[Store, Found]) -> None:
    places: dict[int, list[str]] = {}
    for key, row in packed[1].items():
        if row["offset"] is not None:
            places.setdefault(row["offset"], []).append(key)
    assert [keys for keys in places.values() if len(keys) > 1] == [["named/twin-1.png", "named/twin-2.png"]]
    assert packed[1]["named/twin-2.png"]["duplicate_of"] == "named/twin-1.png"
