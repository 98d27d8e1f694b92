"""What was kept comes back: right sizes, own bytes for originals, every range checked."""

import io
import os
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from codec.errors import ArchiveError, SettingsError
from tasks.archive import log, report, schema, tables
from tasks.maintenance import compaction
from tasks.maintenance.forget import forget
from tasks.processes.codec_process import Models
from tasks.restore import stored_file
from tasks.restore.restore import Restored, RestoreJob, restore, restore_members
from tasks.storage.store import Store
from tests.codec.containers.test_live_photo import NAME, apple_film, apple_jpeg
from tests.support import archive_builder, fake_codec
from tests.support.archive_builder import SMALL, Counter, folder, pack, png, rows
from tests.support.codecless_archives import make
from tests.support.fake_codec import FAKE
from tests.support.maintenance_runs import RUNS

pytestmark = pytest.mark.usefixtures("children_are_played_here")

FAKES = Models("", threads=1, codec=FAKE)


def jpeg(seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (31, 17, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG", quality=100, subsampling=0)
    return buffer.getvalue()


def pixels(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image)


def size(path: Path) -> tuple[int, int]:
    height, width, _ = pixels(path).shape
    return width, height


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, fake_bundle: Path) -> tuple[Path, Path]:
    """Pictures of several sizes and kinds, and their archive of two runs with different bundles."""
    home = tmp_path_factory.mktemp("restore")
    files = {"a.png": png(1, 33, 9), "x/a.png": png(1, 33, 9), "b.jpg": jpeg(2), "bad.jpg": b"no"}
    source = folder(home / "s", files | {"grow.PNG": png(3, fault=fake_codec.GROW)})
    one_shard = replace(SMALL, max_images_per_shard=9)
    pack(source, home / "a", fake_bundle, one_shard)
    folder(source, {"b.png": png(5, 8, 8), "a.png": png(6, 12, 13)})
    pack(source, home / "a", archive_builder.bundle(home / "other", "other"), one_shard)
    return source, home / "a"


def test_the_last_version_of_every_kept_key_comes_back(packed: tuple[Path, Path], tmp_path: Path) -> None:
    source, archive = packed
    progress = Counter()
    assert restore(str(archive), str(tmp_path / "out"), models=FAKES, progress=progress) == Restored(6, [])
    assert progress.total == progress.done == 6
    out = {str(path.relative_to(tmp_path / "out")): path for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert out.keys() == {"a.png", "x/a.png", "b.jpg.png", "b.png", "grow.PNG", "bad.jpg"}
    sizes = {name: size(path) for name, path in out.items() if name != "bad.jpg"}
    assert sizes == {
        "a.png": (12, 13),
        "x/a.png": (33, 9),
        "b.jpg.png": (17, 31),
        "b.png": (8, 8),
        "grow.PNG": (40, 24),
    }
    assert out["grow.PNG"].read_bytes() == (source / "grow.PNG").read_bytes()
    assert np.array_equal(pixels(out["b.png"]), pixels(source / "b.png") & 0xE0)


def test_single_keys_come_back_alone(packed: tuple[Path, Path], tmp_path: Path) -> None:
    assert restore(str(packed[1]), str(tmp_path), ["b.jpg"], models=FAKES).images == 1
    assert [path.name for path in tmp_path.iterdir()] == ["b.jpg.png"]


def test_a_key_that_was_never_kept_is_refused_before_anything_is_written(
    packed: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(ArchiveError, match=r"no picture under the key 'none.jpg'"):
        restore(str(packed[1]), str(tmp_path / "out"), ["a.png", "none.jpg"], models=FAKES)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ArchiveError, match="no archive here"):
        restore(str(tmp_path), str(tmp_path / "out"), models=FAKES)


def test_keys_that_would_share_a_name_get_one_each(tmp_path: Path, fake_bundle: Path) -> None:
    source = folder(tmp_path / "s", {"a.jpg": jpeg(1), "a.jpg.png": png(2)})
    pack(source, tmp_path / "a", fake_bundle)
    assert restore(str(tmp_path / "a"), str(tmp_path / "out"), models=FAKES).images == 2
    sizes = {path.name: size(path) for path in (tmp_path / "out").iterdir()}
    assert sizes == {"a.jpg.png": (17, 31), "a.jpg.png.png": (40, 24)}


def test_a_damaged_member_is_told_and_the_others_come_back(tmp_path: Path, fake_bundle: Path) -> None:
    source = folder(tmp_path / "s", {"a.png": png(1), "b.png": png(2)})
    pack(source, tmp_path / "a", fake_bundle)
    row = rows(tmp_path / "a")[0]
    tar = tmp_path / "a" / row["tar"]
    content = bytearray(tar.read_bytes())
    content[row["offset"] + 200] ^= 1
    tar.write_bytes(content)
    restored = restore(str(tmp_path / "a"), str(tmp_path / "out"), models=FAKES)
    assert restored.images == 1
    assert restored.errors == [f"a.png: file://{tar}: damaged at byte {row['offset']}; restore it from a mirror"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.png"]


def test_as_of_a_run_what_later_runs_kept_is_left_out(tmp_path: Path) -> None:
    store = make(tmp_path / "a", RUNS)
    for number in (0, 1):
        restored = [{}, {}, {}, {}]
        for run in (1, 2, 3):
            target = tmp_path / f"out{number}{run}"
            assert restore(str(tmp_path / "a"), str(target), as_of=run).errors == []
            restored[run] = {path.name: path.read_bytes() for path in target.rglob("*") if path.is_file()}
        first = {"a": b"aaa", "b": b"b~~1", "c": b"ccc", "d": b"ddd"}
        second = first | {"b": b"b~~2", "f": b"fff", "g.jpg": b"ggg"}
        assert restored[1:] == [first, second, second | {"h": b"hhh"}]
        compaction.compact(store)
    with pytest.raises(ArchiveError, match="holds no run 4; `status` lists its runs"):
        restore(str(tmp_path / "a"), str(tmp_path / "out"), as_of=4)
    with pytest.raises(ArchiveError, match="no picture under the key 'f'"):
        restore(str(tmp_path / "a"), str(tmp_path / "out"), ["f"], as_of=1)


def test_an_unchanged_row_points_at_the_old_bytes(tmp_path: Path) -> None:
    make(tmp_path / "a", RUNS)
    for tar in (tmp_path / "a").glob("runs/00000[23]/shards/*"):
        tar.unlink()
    assert restore(str(tmp_path / "a"), str(tmp_path / "out"), ["a", "d"]).images == 2
    assert (tmp_path / "out" / "d").read_bytes() == b"ddd"


def test_jobs_come_tar_by_tar_while_they_are_worked_off(tmp_path: Path) -> None:
    make(tmp_path / "a", RUNS)
    seen: list[tuple[str, int]] = []

    def watched(jobs: Iterable[RestoreJob]) -> Iterator[Restored]:
        for job in jobs:
            assert len(list((tmp_path / "out").rglob("*"))) == sum(count for _, count in seen)
            seen.append((job.members[0].tar, len(job.members)))
            yield restore_members(job)

    assert restore(str(tmp_path / "a"), str(tmp_path / "out"), ["a", "b", "c", "f", "h"], job_map=watched).images == 5
    assert [count for _, count in seen] == [2, 2, 1]  # a and c, b and f, h: a tar a run
    assert len({tar for tar, _ in seen}) == 3


def test_names_that_no_folder_can_hold_stay_inside_the_target(tmp_path: Path) -> None:
    keys = {"../up": b"1", "a//b": b"2", "./here": b"3", "100%": b"4"}
    make(tmp_path / "a", [keys])
    assert restore(str(tmp_path / "a"), str(tmp_path / "out")).errors == []
    found = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert found == {"%2E%2E/up", "a/%00/b", "%2E/here", "100%"}


def test_modification_times_come_back(tmp_path: Path, fake_bundle: Path) -> None:
    source = folder(tmp_path / "s", {"a.png": png(1), "b.txt": b"text"})
    os.utime(source / "a.png", ns=(1, 1_234_567_890_123_456_789))
    os.utime(source / "b.txt", ns=(1, 987_654_321_000_000_001))
    pack(source, tmp_path / "a", fake_bundle)
    restore(str(tmp_path / "a"), str(tmp_path / "out"), models=FAKES)
    assert (tmp_path / "out" / "a.png").stat().st_mtime_ns == 1_234_567_890_123_456_789
    assert (tmp_path / "out" / "b.txt").stat().st_mtime_ns == 987_654_321_000_000_001


@pytest.mark.parametrize(
    ("kind", "name"), [("jpeg:80", "a.png.jpg"), ("webp", "a.png.webp"), ("avif:60", "a.png.avif")]
)
def test_pictures_come_back_as_the_kind_that_is_asked_for(
    tmp_path: Path, fake_bundle: Path, kind: str, name: str
) -> None:
    source = folder(tmp_path / "s", {"a.png": png(1), "b.txt": b"text"})
    pack(source, tmp_path / "a", fake_bundle)
    restore(str(tmp_path / "a"), str(tmp_path / "out"), kind=kind, models=FAKES)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {name, "b.txt"}
    with Image.open(tmp_path / "out" / name) as image:
        assert image.size == (40, 24)
        assert image.format == {"jpeg:80": "JPEG", "webp": "WEBP", "avif:60": "AVIF"}[kind]


def test_an_unknown_kind_is_refused_before_anything_is_written(packed: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="'tiff' is not a file kind"):
        restore(str(packed[1]), str(tmp_path / "out"), kind="tiff", models=FAKES)
    assert not (tmp_path / "out").exists()


def test_names_that_differ_by_case_or_unicode_form_alone_are_told_apart(tmp_path: Path, fake_bundle: Path) -> None:
    files = {"a.png": png(1), "A.png": png(2), "\u00e4.png": png(3), "a\u0308.png": png(4)}
    source = folder(tmp_path / "s", files)
    pack(source, tmp_path / "a", fake_bundle)
    restore(str(tmp_path / "a"), str(tmp_path / "out"), models=FAKES)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert len({unicodedata.normalize("NFC", name).casefold() for name in names}) == 4


def test_companions_keep_one_stem_with_groups_and_share_a_column(tmp_path: Path, fake_bundle: Path) -> None:
    source = folder(tmp_path / "s", {"x/IMG_1.JPG": jpeg(1), "x/IMG_1.MOV": b"film", "x/b.png": png(2)})
    pack(source, tmp_path / "a", fake_bundle)
    assert {row["key"]: row["group"] for row in rows(tmp_path / "a")} == {
        "x/IMG_1.JPG": "x/IMG_1",
        "x/IMG_1.MOV": "x/IMG_1",
        "x/b.png": None,
    }
    restore(str(tmp_path / "a"), str(tmp_path / "out"), groups=True, models=FAKES)
    assert {path.name for path in (tmp_path / "out" / "x").iterdir()} == {"IMG_1.png", "IMG_1.MOV", "b.png"}


def test_what_a_live_photo_is_named_apart_is_one_group_by_its_identifier(tmp_path: Path, fake_bundle: Path) -> None:
    files = {"IMG_1.JPG": apple_jpeg(), "films/clip.mov": apple_film(), "b.png": png(2)}
    pack(folder(tmp_path / "s", files), tmp_path / "a", fake_bundle)
    assert {row["key"]: row["group"] for row in rows(tmp_path / "a")} == {
        "IMG_1.JPG": NAME.decode(), "films/clip.mov": NAME.decode(), "b.png": None,
    }  # fmt: skip
    with pytest.raises(ArchiveError, match=r"'films/clip.mov' are companions of the keys to forget"):
        forget(Store(str(tmp_path / "a")), ["IMG_1.JPG"])


def test_what_does_not_fit_into_memory_goes_through_a_disk(
    tmp_path: Path, fake_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = b"no picture" * 900
    pack(folder(tmp_path / "s", {"a.png": png(1), "film.mov": large}), tmp_path / "a", fake_bundle)
    monkeypatch.setattr(stored_file, "LARGE", 1000)
    monkeypatch.setattr("tasks.storage.store.PIECE", 1000)
    read = Store.read_range
    within = lambda self, name, offset, length: read(self, name, offset, length) if length < 9000 else pytest.fail()  # noqa: E731
    monkeypatch.setattr(Store, "read_range", within)
    assert restore(str(tmp_path / "a"), str(tmp_path / "out"), models=FAKES).errors == []
    assert (tmp_path / "out" / "film.mov").read_bytes() == large
    with fsspec.open(f"fdc://film.mov::file://{tmp_path / 'a'}") as file:
        assert file.read() == large
    (tar,) = (tmp_path / "a").glob("runs/*/shards/*.tar")
    tar.chmod(0o644)
    tar.write_bytes(tar.read_bytes().replace(b"no picture", b"NO picture", 1))
    assert restore(str(tmp_path / "a"), str(tmp_path / "two"), models=FAKES).errors[0].startswith("film.mov: ")
    assert not (tmp_path / "two" / "film.mov").exists()


@pytest.mark.parametrize("kind", [None, "jpeg:90"])
@pytest.mark.parametrize("groups", [False, True])
def test_a_key_that_is_the_folder_of_another_comes_back_beside_it(
    kind: str | None, groups: bool, tmp_path: Path, fake_bundle: Path, children_are_played_here: None
) -> None:
    pictures = {"x.png/in.png": png(1), "x.png/deep/er.png": png(2), "y/a.png": png(3), "z": b"text"}
    source = folder(tmp_path / "s", pictures)
    pack(source, tmp_path / "a", fake_bundle)
    rename = {"y/a.png": "x.png", "z": "x.png/deep"}
    store = Store(str(tmp_path / "a"))
    renamed(store, rename)
    done = restore(str(tmp_path / "a"), str(tmp_path / "out"), kind=kind, groups=groups, models=FAKES)
    assert (done.errors, done.images) == ([], 4)
    there = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(there) == 4
    assert any(path.read_bytes() == b"text" for path in there)


def renamed(store: Store, keys: dict[str, str]) -> None:
    """Give rows other keys, which a bucket can have and a folder cannot."""
    head = log.read(store)
    changed = [row | {"key": keys.get(row["key"], row["key"])} for row in report.rows(store).to_table().to_pylist()]
    changed.sort(key=lambda row: str(row["key"]))
    file = tables.publish(store, head.record + 1, 0, schema.table(changed, {}))
    assert log.append(store, head, "compact", replace(head, tables=(replace(head.tables[0], files=(file,)),)))


def test_as_of_a_source_what_was_deleted_or_renamed_by_then_is_absent(
    tmp_path: Path, fake_bundle: Path, children_are_played_here: None
) -> None:
    source, archive = folder(tmp_path / "s", {"a.png": png(1), "b.png": png(2), "c.png": png(3)}), tmp_path / "a"
    pack(source, archive, fake_bundle)
    times = ((source / "b.png").stat().st_atime_ns, (source / "b.png").stat().st_mtime_ns)
    (source / "b.png").unlink()
    (source / "c.png").rename(source / "renamed.png")
    pack(source, archive, fake_bundle, allow_shrink=True)
    folder(source, {"b.png": png(2), "d.png": png(4)})
    os.utime(source / "b.png", ns=times)  # as if it had never been away
    pack(source, archive, fake_bundle)
    compaction.compact(Store(str(archive)), afresh=True)

    def names(**which: int) -> set[str]:
        target = tmp_path / str(which)
        assert restore(str(archive), str(target), models=FAKES, **which).errors == []  # type: ignore[arg-type]
        return {path.name for path in target.iterdir()}

    assert names(as_of_source=1) == {"a.png", "b.png", "c.png"}
    assert names(as_of_source=2) == {"a.png", "renamed.png"}
    assert names(as_of_source=3) == {"a.png", "b.png", "d.png", "renamed.png"}
    assert names(as_of=2) == {"a.png", "b.png", "c.png", "renamed.png"}, "all that was kept"
    with pytest.raises(SettingsError, match="mutually exclusive"):
        restore(str(archive), str(tmp_path / "out"), as_of=1, as_of_source=1)
    with pytest.raises(ArchiveError, match="holds no run 4"):
        restore(str(archive), str(tmp_path / "out"), as_of_source=4)
