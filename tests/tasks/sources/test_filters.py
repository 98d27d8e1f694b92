"""What is left aside is named by its pattern, has no row, and is neither gone nor failed."""

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet
import pytest

from tasks.archive import log
from tasks.sources.filters import LITTER, NOT_INCLUDED, Filter
from tasks.storage.store import Store
from tests.support.archive_builder import SMALL, folder, pack, png, rows

pytestmark = pytest.mark.usefixtures("children_are_played_here")


@pytest.mark.parametrize(
    ("key", "chosen", "pattern"),
    [
        ("a.jpg", Filter(), None),
        ("x/.DS_Store", Filter(), ".DS_Store"),
        ("x/._a.jpg", Filter(), "._*"),
        ("x/@eaDir/a.jpg/thumb.jpg", Filter(), "@eaDir"),
        ("Thumbs.db", Filter(), "Thumbs.db"),
        ("thumbs.dbx", Filter(), None),
        ("film.MP4", Filter(), None),
        ("film.MP4", Filter(non_images=False), "*.mp4"),
        ("a.jpg", Filter(include=["*.png"]), NOT_INCLUDED),
        ("2024/a.jpg", Filter(include=["2024/*"]), None),
        ("2024/raw/a.jpg", Filter(exclude=["raw"]), "raw"),
        ("2024/raw/a.jpg", Filter(include=["*.jpg"], exclude=["*/raw/*"]), "*/raw/*"),
    ],
)
def test_a_key_is_taken_or_left_aside_for_a_pattern(key: str, chosen: Filter, pattern: str | None) -> None:
    assert chosen.left_aside(key) == pattern


def test_what_is_left_aside_stands_in_the_listing_and_is_neither_gone_nor_failed(
    tmp_path: Path, fake_bundle: Path
) -> None:
    source = folder(tmp_path / "s", {"a.png": png(1), "b.png": png(2), ".DS_Store": b"x", "notes.txt": b"text"})
    totals = pack(source, tmp_path / "a", fake_bundle).totals
    assert (totals["compressed"], totals["fallback"], totals["failed"]) == (2, 1, 0)
    assert [row["key"] for row in rows(tmp_path / "a")] == ["a.png", "b.png", "notes.txt"]
    store = Store(str(tmp_path / "a"))
    plan = log.plan(store, log.read(store), 1)
    assert (plan.excluded, plan.gone) == (1, 0)
    listed = pyarrow.parquet.read_table(tmp_path / "a" / plan.listing).to_pylist()
    assert [(row["key"], row["state"], row["pattern"]) for row in listed][-1] == (".DS_Store", "excluded", ".DS_Store")

    assert pack(source, tmp_path / "a", fake_bundle).runs == [], "a second night is not begun for litter"
    folder(source, {"c.png": png(3)})
    narrower = replace(SMALL, exclude=(*LITTER, "b.png"), non_images="skip")
    pack(source, tmp_path / "a", fake_bundle, narrower)
    second = log.plan(store, log.read(store), 2)
    assert (second.images, second.excluded, second.gone) == (1, 3, 0), "a kept key that is excluded now is not gone"
