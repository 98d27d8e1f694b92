"""What cannot be read costs its own row; what cannot be listed is neither gone nor new."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from codec.errors import ArchiveError
from tasks import dataset
from tasks.archive import log
from tasks.archive.log import ArchiveHead
from tasks.compress import listing
from tasks.sources import reading
from tasks.sources.filters import Filter
from tasks.sources.reading import SourceReader
from tasks.sources.sharding import Limits
from tasks.sources.source import FolderSource, open_source
from tasks.storage.store import NotFoundError, StorageError, Store, UnreadableError
from tests.support.archive_builder import SMALL, bundle, folder, pack, png, rows
from tests.support.privileges import without_privileges

pytestmark = pytest.mark.usefixtures("children_are_played_here")


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder that any user can reach, other than those of pytest."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


BOTH = ("key", "status", "reason")


def said(archive: Path, run: int = 1) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in BOTH) for row in rows(archive) if row["run"] == run]


def listed(source: Path, archive: Path, tmp_path: Path, run: int) -> dict[str, str]:
    """The states of a run's listing."""
    store = Store(str(archive))
    assert log.read(store).runs == run - 1
    frozen = listing.freeze(open_source(str(source)), store, log.read(store), Limits(100, 10**9, 9), tmp_path)
    found = listing.read(Store(str(frozen.path.parent)), frozen.path.name, 0, 10**9)
    return {row["key"]: row["state"] for row in found}


def test_a_file_or_folder_that_denies_reading_costs_its_own_row_and_is_taken_again(home: Path) -> None:
    source = folder(home / "s", {name: png(seed) for seed, name in enumerate(("a.png", "b.png", "sub/c.png"))})
    (source / "b.png").chmod(0)
    (source / "sub").chmod(0)
    own = bundle(home / "bundle")
    with without_privileges(home):
        assert pack(source, home / "a", own).totals["failed"] == 2
        assert said(home / "a") == [
            ("a.png", "compressed", None),
            ("b.png", "failed", "source_unreadable"),
            ("sub/", "failed", "unreadable_folder"),
        ]
        errors = [row["error"] for row in rows(home / "a") if row["error"]]
        assert all("Permission denied" in error and "\n" not in error for error in errors)
        (source / "b.png").chmod(0o600)
        (source / "sub").chmod(0o700)
        pack(source, home / "a", own)
    assert said(home / "a", 2) == [("b.png", "compressed", None), ("sub/c.png", "compressed", None)]


def test_keys_below_a_place_that_cannot_be_listed_are_neither_gone_nor_new(home: Path) -> None:
    names = ("a.png", "gone.png", "sub/b.png", "sub/deep/c.png", "subordinate/d.png")
    source = folder(home / "s", {name: png(seed) for seed, name in enumerate(names)})
    own = bundle(home / "bundle")
    with without_privileges(home):
        pack(source, home / "a", own)
        (source / "gone.png").unlink()
        (source / "subordinate" / "d.png").unlink()
        (source / "sub").chmod(0)
        state = listed(source, home / "a", home, 2)
        (source / "sub").chmod(0o700)
    assert state == {"gone.png": "gone", "sub/": "unreadable", "subordinate/d.png": "gone"}


def test_a_folder_whose_names_but_not_files_can_be_seen_loses_none_of_them(home: Path) -> None:
    source = folder(home / "s", {"sub/b.png": png(1), "a.png": png(2)})
    own = bundle(home / "bundle")
    with without_privileges(home):
        pack(source, home / "a", own)
        (source / "sub").chmod(0o400)
        state = listed(source, home / "a", home, 2)
        pack(source, home / "a", own)
        (source / "sub").chmod(0o700)
    assert state == {"sub/b.png": "unreadable"}
    assert said(home / "a", 2) == [("sub/b.png", "failed", "source_unreadable")]


def fail_in(monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    """Fails as a disk that cannot read one folder."""
    scan = os.scandir

    def failing(path: str) -> Any:
        if str(path).endswith(ending):
            raise OSError(5, "Input/output error")
        return scan(path)

    monkeypatch.setattr("os.scandir", failing)


def test_a_disk_that_fails_in_one_folder_costs_that_folder(
    tmp_path: Path, fake_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder(tmp_path / "s", {"bad/b.png": png(1), "good/a.png": png(2)})
    fail_in(monkeypatch, "/bad")
    pack(source, tmp_path / "a", fake_bundle)
    assert said(tmp_path / "a") == [("bad/", "failed", "unreadable_folder"), ("good/a.png", "compressed", None)]
    assert listed(source, tmp_path / "a", tmp_path, 2) == {"bad/": "unreadable"}


def test_a_place_that_is_left_aside_is_no_failure_and_one_that_no_pattern_takes_is(tmp_path: Path) -> None:
    source = open_source(str(folder(tmp_path / "s", {"a.png": png(1)})))
    found = list(source.entries())
    places = [{"key": key, "uri": "file:///x", "size": 0, "stamp": "", "fault": "denied"} for key in ("@eaDir/", "x/")]
    source.entries = lambda: iter([*found, *places])  # type: ignore[method-assign]
    chosen = Filter(include=("*.png",))
    limits = Limits(9, 10**9, 9)
    frozen = listing.freeze(source, Store(str(tmp_path / "a")), ArchiveHead(), limits, tmp_path, chosen=chosen)
    state = {row["key"]: row["state"] for row in listing.read(Store(str(tmp_path)), frozen.path.name, 0, 99)}
    assert state == {"a.png": "new", "x/": "unreadable", "@eaDir/": "excluded"}


def test_what_a_listing_names_and_is_no_file_or_not_there_is_a_row(tmp_path: Path, fake_bundle: Path) -> None:
    source = folder(tmp_path / "s", {"a.png": png(1), "sub/b.png": png(2)})
    os.mkfifo(source / "pipe.png")
    (source / "dangling.png").symlink_to(source / "nothing")
    (source / "itself.png").symlink_to(source / "itself.png")
    names = ["a.png", "sub", "sub/", "pipe.png", "dangling.png", "itself.png", "a.png/b.png", "none://where/x.png"]
    (source / "list.csv").write_text("path\n" + "\n".join(names) + "\n/dev/zero\n")
    with_sizes = "path,size,etag\na.png,7,0\npipe.png,7,0\nsub,7,0\n"
    (source / "sizes.csv").write_text(with_sizes)
    pack(source / "list.csv", tmp_path / "a", fake_bundle, replace(SMALL, max_images_per_shard=100))
    assert said(tmp_path / "a") == [
        ("a.png", "compressed", None),
        ("a.png/b.png", "failed", "source_unreadable"),
        ("dangling.png", "failed", "source_missing"),
        ("dev/zero", "failed", "source_unreadable"),
        ("itself.png", "failed", "source_unreadable"),
        ("pipe.png", "failed", "source_unreadable"),
        ("sub", "failed", "source_unreadable"),
        ("sub/", "failed", "source_unreadable"),
        ("where/x.png", "failed", "source_unreadable"),
    ]
    pack(source / "sizes.csv", tmp_path / "b", fake_bundle)
    assert [row[2] for row in said(tmp_path / "b")] == ["source_changed", "source_unreadable", "source_unreadable"]


def test_an_unreadable_photo_does_not_stop_a_dataset(tmp_path: Path) -> None:
    source = folder(tmp_path / "s", {"a.png": png(1), "sub/b.png": png(2)})
    (source / "list.csv").write_text("path\na.png\nsub\n")
    totals = dataset.pack(str(source / "list.csv"), str(tmp_path / "d"))
    assert (totals["photos"], totals["failed"]) == (1, 1)


class Flaky(FolderSource):
    """A folder in which some reads fail, and listing may stop on the way."""

    def __init__(self, store: Store, errors: list[Exception | None]) -> None:
        super().__init__(store)
        self.errors, self.asked, self.is_there = list(errors), 0, True

    def fetch(self, entry: dict[str, Any]) -> bytes:
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error
        return b"read"

    def lists(self) -> bool:
        self.asked += 1
        return self.is_there


ENTRY = {"key": "x", "uri": "file:///x", "size": 4, "stamp": "0"}


def outcomes(source: Flaky, count: int) -> list[str]:
    reader, found = SourceReader(source), []
    for _ in range(count):
        try:
            found.append(reader.fetch(ENTRY).decode())
        except reading.LostError as lost:
            found.append(lost.reason)
    return found


def test_after_so_many_failures_in_a_row_the_source_is_asked_once_whether_it_is_there(tmp_path: Path) -> None:
    missing: list[Exception | None] = [NotFoundError("none")] * (reading.PATIENCE + 9)
    source = Flaky(Store(str(tmp_path)), missing)
    assert set(outcomes(source, len(missing))) == {"source_missing"}
    assert source.asked == 1
    source = Flaky(Store(str(tmp_path)), missing[: reading.PATIENCE])
    source.is_there = False
    with pytest.raises(StorageError, match=r"is unavailable.*close the run"):
        outcomes(source, reading.PATIENCE)
    interrupted = [*missing[: reading.PATIENCE - 1], None, *missing[: reading.PATIENCE - 1]]
    source = Flaky(Store(str(tmp_path)), interrupted)
    outcomes(source, len(interrupted))
    assert source.asked == 0


def test_at_the_first_failure_of_the_endpoint_the_source_is_asked_and_the_object_tried_once_more(
    tmp_path: Path,
) -> None:
    down = StorageError("no route")
    source = Flaky(Store(str(tmp_path)), [down, None, down, down, UnreadableError("denied"), None])
    assert outcomes(source, 4) == ["read", "source_unreadable", "source_unreadable", "read"]
    assert source.asked == 2
    source = Flaky(Store(str(tmp_path)), [down])
    source.is_there = False
    with pytest.raises(StorageError, match="no route"):
        outcomes(source, 1)


def test_a_source_that_lists_nothing_or_less_than_half_is_refused_unless_that_is_allowed(
    tmp_path: Path, fake_bundle: Path
) -> None:
    source, archive = folder(tmp_path / "s", {f"{name}.png": png(ord(name)) for name in "abcd"}), tmp_path / "a"
    pack(source, archive, fake_bundle)
    for name in "ab":
        (source / f"{name}.png").unlink()
    assert pack(source, archive, fake_bundle).runs == []
    (source / "c.png").rename(source / "e.png")
    with pytest.raises(ArchiveError, match=r"contains 1 of 4 kept pictures.*--allow-shrink"):
        pack(source, archive, fake_bundle)
    shutil.rmtree(source)
    source.mkdir()
    with pytest.raises(ArchiveError, match=r"is empty.*--allow-shrink"):
        pack(source, archive, fake_bundle)
    assert pack(source, archive, fake_bundle, allow_shrink=True).runs == [2], "what is gone is known from now on"
    assert pack(source, archive, fake_bundle, allow_shrink=True).runs == []
    folder(source, {"e.png": png(9)})
    assert pack(source, archive, fake_bundle).runs == [3]
    assert [row["key"] for row in rows(archive)] == ["a.png", "b.png", "c.png", "d.png", "e.png"]


def test_keys_that_could_not_be_looked_for_are_not_missed(
    tmp_path: Path, fake_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("a.png", "sub/b.png", "sub/c.png", "sub/d.png")
    source = folder(tmp_path / "s", {name: png(seed) for seed, name in enumerate(names)})
    pack(source, tmp_path / "a", fake_bundle)
    fail_in(monkeypatch, "/sub")
    pack(source, tmp_path / "a", fake_bundle)
    assert said(tmp_path / "a", 2) == [("sub/", "failed", "unreadable_folder")]


def test_an_archive_inside_its_source_through_a_link_is_refused(tmp_path: Path, fake_bundle: Path) -> None:
    source = folder(tmp_path / "s", {"a.png": png(1)})
    (tmp_path / "link").symlink_to(source)
    with pytest.raises(ArchiveError, match="is inside the source"):
        pack(source, tmp_path / "link" / "a", fake_bundle)
    with pytest.raises(ArchiveError, match="is inside the source"):
        pack(tmp_path / "link", source / "a", fake_bundle)
    (source / "elsewhere").symlink_to(tmp_path / "outside")
    (tmp_path / "outside").mkdir()
    for _ in range(2):
        with pytest.raises(
            ArchiveError, match=r"the source contains the archive, as .*elsewhere/a; choose a folder outside the source"
        ):
            pack(source, tmp_path / "outside" / "a", fake_bundle)
    assert log.read(Store(str(tmp_path / "outside" / "a"))).runs == 0


def test_of_what_has_grown_no_more_is_read_than_was_promised_and_a_byte(
    tmp_path: Path, fake_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder(tmp_path / "s", {"a.png": bytes(1 << 20), "b.png": bytes(1 << 20)})
    (source / "list.csv").write_text("path,size,etag\na.png,100,0\nb.png,100,1\n")
    read, pieces = [0], Store.pieces

    def counting(self: Store, name: str, most: int, length: int) -> Iterator[bytes]:
        for piece in pieces(self, name, most, length):
            read[0] += len(piece)
            yield piece

    monkeypatch.setattr(Store, "pieces", counting)
    pack(source / "list.csv", tmp_path / "a", fake_bundle)
    assert [row["reason"] for row in rows(tmp_path / "a")] == ["source_changed"] * 2
    assert read[0] == 2 * 101
    pictures = open_source(str(source / "list.csv"))
    with pytest.raises(ArchiveError, match="changed"):
        pictures.sha256(next(pictures.entries()))
    assert read[0] == 3 * 101
