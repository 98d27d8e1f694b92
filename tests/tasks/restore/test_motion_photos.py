"""The film of a motion photo is kept beside its picture, to the byte, through everything that is done with archives."""

import struct
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

from codec.containers.inspect import inspect
from codec.containers.judgement import Policy, judge
from codec.containers.reasons import Reason
from tasks.archive import report
from tasks.maintenance import compaction, forget
from tasks.maintenance.audit import audit
from tasks.restore.restore import restore
from tasks.storage.store import Store
from tests.support.archive_builder import SMALL, folder, pack, png, rows
from tests.support.containers import box, coded_item, film, heif
from tests.tasks.restore.test_restore import FAKES, jpeg

pytestmark = pytest.mark.usefixtures("children_are_played_here")

FILM = film(20_000)
SAMSUNG = b"\0\0\x30\x0a\x10\0\0\0MotionPhoto_Data" + FILM + b"SEFH" + bytes(20) + struct.pack("<I", 24) + b"SEFT"
FILES = {"x/a.jpg": jpeg(1) + FILM, "x/b.jpg": jpeg(2) + SAMSUNG, "x/c.png": png(3)}


@pytest.fixture
def archive(tmp_path: Path, fake_bundle: Path) -> Path:
    pack(folder(tmp_path / "s", FILES), tmp_path / "a", fake_bundle)
    return tmp_path / "a"


def restored(archive: Path, target: Path, **options: str) -> dict[str, bytes]:
    assert restore(str(archive), str(target), models=FAKES, **options).errors == []  # type: ignore[arg-type]
    return {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}


def test_a_film_is_a_second_member_of_its_row_and_comes_back_to_the_byte(archive: Path, tmp_path: Path) -> None:
    kept = {row["key"]: row for row in rows(archive)}
    assert {(row["status"], row["film_length"]) for row in kept.values()} == {
        ("compressed", len(FILM)), ("compressed", len(SAMSUNG)), ("compressed", None),
    }  # fmt: skip
    found = restored(archive, tmp_path / "out")
    assert found.keys() == {"x/a.jpg.png", "x/a.jpg.mp4", "x/b.jpg.png", "x/b.jpg.mp4", "x/c.png"}
    assert found["x/a.jpg.mp4"] == FILM
    assert found["x/b.jpg.mp4"].startswith(FILM)  # a player begins with its first box
    for path, key in (("x/a.jpg.mp4", "x/a.jpg"), ("x/a.jpg.png", "x/a.jpg")):
        with fsspec.open(f"fdc://{path}::file://{archive}", fdc={"codec": FAKES.codec}) as file:
            assert file.read() == found[path], key


def test_a_jpeg_that_comes_back_as_a_jpeg_has_its_film_behind_it(archive: Path, tmp_path: Path) -> None:
    found = restored(archive, tmp_path / "out", kind="jpeg:95")
    assert found.keys() == {"x/a.jpg", "x/b.jpg", "x/c.png.jpg"}
    assert found["x/a.jpg"].endswith(b"\xff\xd9" + FILM)
    assert found["x/b.jpg"].endswith(b"\xff\xd9" + SAMSUNG)


def test_a_forgotten_film_is_gone_and_others_move_with_their_pictures(archive: Path, tmp_path: Path) -> None:
    store = Store(str(archive))
    compaction.compact(store)
    forget.forget(store, ["x/a.jpg"])
    left = b"".join(path.read_bytes() for path in archive.rglob("*.tar"))
    assert left.count(FILM) == 1  # Samsung's holds the same
    assert restored(archive, tmp_path / "out").keys() == {"x/b.jpg.png", "x/b.jpg.mp4", "x/c.png"}
    assert audit(str(archive), models=FAKES).problems == []


def test_a_flipped_bit_in_a_film_is_found(archive: Path, tmp_path: Path) -> None:
    row = next(row for row in rows(archive) if row["key"] == "x/a.jpg")
    path = archive / row["tar"]
    data = bytearray(path.read_bytes())
    data[row["film_offset"] + 5] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    problems = audit(str(archive), models=FAKES).problems
    assert {problem["key"] for problem in problems if problem["key"]} == {"x/a.jpg"}
    errors = restore(str(archive), str(tmp_path / "out"), models=FAKES).errors
    assert [line.partition(":")[0] for line in errors] == ["x/a.jpg"]


def test_bytes_of_films_count_as_stored(archive: Path) -> None:
    kept = rows(archive)
    totals = report.count(report.rows(Store(str(archive))).to_table())
    assert totals["stored_bytes"] == sum(row["bytes"] + (row["film_length"] or 0) for row in kept)


def test_a_film_keeps_the_file_where_metadata_may_not_all_stay(tmp_path: Path, fake_bundle: Path) -> None:
    settings = replace(SMALL, metadata="no-location")
    pack(folder(tmp_path / "s", FILES), tmp_path / "a", fake_bundle, settings)
    assert {row["key"]: row["reason"] for row in rows(tmp_path / "a")} == {
        "x/a.jpg": "trailing_data", "x/b.jpg": "trailing_data", "x/c.png": None,
    }  # fmt: skip


def test_the_film_of_a_heic_is_told_from_its_box_and_bytes_elsewhere_keep_the_file() -> None:
    beside = Policy(film_beside=True)
    data = heif(coded_item(), top=box(b"mpvd", FILM))
    verdict = judge(inspect(data), beside)
    assert verdict.reason is None and verdict.film is not None
    assert data[verdict.film[0] :][: verdict.film[1]] == FILM
    behind = judge(inspect(jpeg(1) + bytes(3) + b"of nobody" + bytes(5000) + b"x"), beside)
    assert (behind.reason, behind.film) == (Reason.TRAILING_DATA, None)
