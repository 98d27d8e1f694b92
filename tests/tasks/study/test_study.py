"""A study keeps its promises: frozen pictures, random order and sides, every answer once, nothing forged."""

import random
import shutil
import threading
import tracemalloc
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from codec.errors import ArchiveError, SettingsError
from codec.images import read_image
from tasks.processes.codec_process import Models
from tasks.study import export as exports
from tasks.study.gallery import Archives, StudyFolder, check, opened
from tasks.study.server import study_app, viewer_app
from tasks.study.study import AlreadyAnswered, ForgedComparison, Study, UnknownParticipant
from tests.support.archive_builder import folder, in_process, pack, png
from tests.support.codecless_archives import make
from tests.support.fake_codec import FAKE
from tests.support.galleries import METHODS, evaluation, write_rows


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evaluation(tmp_path_factory.mktemp("evaluated"))


@pytest.fixture
def study(evaluated: Path, tmp_path: Path) -> Study:
    held = Study.create(tmp_path / "study", StudyFolder(evaluated))
    held.invite(["ada", "ben"])
    return held


def shown(study: Study, participant: str) -> list[tuple[str, str, str]]:
    """The images and sides of a participant's comparisons, in order."""
    study.state(participant)
    sql = 'SELECT image, "left", "right" FROM comparisons WHERE participant = ? ORDER BY position'
    with study.database() as database:
        return list(database.execute(sql, [participant]))


def answered(study: Study) -> int:
    with study.database() as database:
        return int(database.execute("SELECT count(*) FROM answers").fetchone()[0])


def test_everybody_sees_every_pair_of_every_image_once(study: Study) -> None:
    pairs = Counter((image, *sorted(sides)) for image, *sides in shown(study, "ada"))
    assert len(pairs) == 3 * 3
    assert set(pairs.values()) == {1}


def test_order_and_sides_are_random(study: Study) -> None:
    names = [f"p{number}" for number in range(30)]
    study.invite(names)
    plans = [shown(study, name) for name in names]
    assert len({tuple(plan) for plan in plans}) == len(plans)
    assert len({plan[0][0] for plan in plans}) == 3
    left = Counter(row[1] for plan in plans for row in plan)
    assert all(60 < left[method] < 120 for method in METHODS)  # of 180 showings each; 60 is 4.5 standard deviations off


def test_fewer_comparisons_can_be_drawn(evaluated: Path, tmp_path: Path) -> None:
    held = Study.create(tmp_path / "s", StudyFolder(evaluated), per_participant=4, choose=random.Random(1))
    held.invite(["ada", "ben"])
    assert len(set(shown(held, "ada"))) == 4
    assert shown(held, "ada") != shown(held, "ben")


def test_pictures_are_center_crops_of_whole_images_frozen_in_the_study(evaluated: Path, tmp_path: Path) -> None:
    shutil.copytree(evaluated, tmp_path / "e")
    held = Study.create(tmp_path / "study", StudyFolder(tmp_path / "e"), images=["set/photo1.png"])
    for path in (tmp_path / "e").rglob("*.png"):
        path.unlink()
    held.invite(["ada"])
    comparison = held.state("ada").comparison
    assert comparison is not None
    ((image, left, _),) = shown(held, "ada")[:1]
    for side, source in (("original", "originals"), ("left", f"pictures/{left}/setting-1")):
        with Image.open(held.crop(comparison, side)) as crop:  # type: ignore[arg-type]
            whole = read_image(evaluated / source / image).pixels
            assert (np.asarray(crop) == whole[24 : 24 + 512, 54 : 54 + 512]).all()


def test_an_answer_is_stored_at_once_and_a_session_goes_on_where_it_stopped(study: Study) -> None:
    first = study.state("ada")
    assert first.comparison is not None
    then = study.answer("ada", first.comparison, "left", 1.5)
    again = Study(study.folder)  # another process after a crash
    assert again.state("ada") == then
    assert (then.done, then.total) == (1, 9)
    assert again.state("ben").done == 0
    while (comparison := again.state("ada").comparison) is not None:
        again.answer("ada", comparison, "right", 1.0)
    assert again.state("ada").done == 9


def test_an_unknown_participant_is_refused(study: Study) -> None:
    with pytest.raises(UnknownParticipant):
        study.state("mallory")
    with pytest.raises(UnknownParticipant):
        study.answer("mallory", "x", "left", 1.0)


def test_a_double_vote_is_refused(study: Study) -> None:
    comparison = study.state("ada").comparison
    assert comparison is not None
    study.answer("ada", comparison, "left", 1.0)
    with pytest.raises(AlreadyAnswered):
        study.answer("ada", comparison, "right", 1.0)
    assert answered(study) == 1


def test_of_many_votes_at_once_one_counts(study: Study) -> None:
    comparison = study.state("ada").comparison
    assert comparison is not None
    outcomes: list[str] = []

    def vote() -> None:
        try:
            study.answer("ada", comparison, "left", 1.0)
            outcomes.append("stored")
        except AlreadyAnswered:
            outcomes.append("refused")

    threads = [threading.Thread(target=vote) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(outcomes) == {"stored": 1, "refused": 7}
    assert answered(study) == 1


def test_forged_comparisons_are_refused(study: Study) -> None:
    of_ben = study.state("ben").comparison
    assert of_ben is not None
    study.state("ada")
    with study.database() as database:
        (later,) = database.execute("SELECT id FROM comparisons WHERE participant = 'ada' AND position = 5").fetchone()
    for forged in (of_ben, later, "made-up", "' OR 1 = 1 --"):
        with pytest.raises(ForgedComparison):
            study.answer("ada", forged, "left", 1.0)
    assert answered(study) == 0


def test_the_server_refuses_as_the_study_does(study: Study) -> None:
    client = TestClient(study_app(study), raise_server_exceptions=False)
    state = client.post("/api/session", json={"participant": "ada"}).json()
    vote = {"participant": "ada", "comparison": state["comparison"], "choice": "left", "seconds": 2.0}
    assert client.post("/api/session", json={"participant": "mallory"}).status_code == 403
    for wrong in ({"participant": "ben"}, {"comparison": "made-up"}):
        assert client.post("/api/answers", json=vote | wrong).status_code == 403
    wrongs = ({"choice": "both"}, {"seconds": -1}, {"seconds": "inf"}, {"left": "fine"}, {"participant": ""})
    for wrong in wrongs:
        assert client.post("/api/answers", json=vote | wrong).status_code == 422
    assert answered(study) == 0
    assert client.post("/api/answers", json=vote).json()["done"] == 1
    assert client.post("/api/answers", json=vote).status_code == 409
    assert answered(study) == 1


def test_the_browser_is_not_told_which_method_is_where(study: Study) -> None:
    client = TestClient(study_app(study))
    reply = client.post("/api/session", json={"participant": "ada"})
    picture = client.get(f"/comparisons/{reply.json()['comparison']}/left.png")
    told = reply.text + repr(picture.headers) + client.get("/").text
    assert picture.headers["content-type"] == "image/png"
    assert picture.headers["cache-control"] == "no-store"
    assert not any(method in told for method in METHODS)


OUTSIDE = (
    "../../study.sqlite",
    "..%2f..%2fstudy.sqlite",
    "%2e%2e/%2e%2e/study.sqlite",
    "....//study.sqlite",
    "/etc/passwd",
    "..%5c..%5cstudy.sqlite",
    "x%00.png",
)


@pytest.mark.parametrize("path", OUTSIDE)
def test_paths_outside_are_not_served(study: Study, evaluated: Path, path: str) -> None:
    for app in (study_app(study), viewer_app(StudyFolder(evaluated))):
        client = TestClient(app, raise_server_exceptions=False)
        for prefix in ("", "page/", "pictures/0/", "pictures/", "comparisons/x/", "comparisons/"):
            assert client.get(f"/{prefix}{path}").status_code in (403, 404, 405, 422), prefix


def test_a_link_or_a_row_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(1))
    by_hand = folder(tmp_path / "hand", {"originals/a.png": png(1), "ours/a.png": png(1), "theirs/b.png": png(1)})
    (by_hand / "ours" / "b.png").symlink_to(secret)
    with pytest.raises(SettingsError, match=r"ours/b.png: leads out of"):
        StudyFolder(by_hand)
    rows = folder(tmp_path / "rows", {"originals/a.png": png(1)})
    write_rows(rows, [{"image": "a", "codec": "x", "asked_bpp": None, "setting": 1.0, "picture": "../secret.png"}])
    with pytest.raises(SettingsError, match="leads out of"):
        StudyFolder(rows)


def test_answers_and_images_are_exported_with_bitrates(study: Study) -> None:
    state = study.state("ada")
    sides = shown(study, "ada")
    for choice in ("left", "right", "right"):
        assert state.comparison is not None
        state = study.answer("ada", state.comparison, choice, 2.5)  # type: ignore[arg-type]
    answers, images, table = exports.export(study)
    rows = pyarrow.parquet.read_table(answers).to_pylist()
    assert [(row["image"], row["left"], row["right"]) for row in rows] == sides[:3]
    assert [row["closer"] for row in rows] == [sides[0][1], sides[1][2], sides[2][2]]
    assert rows[0]["seconds"] == 2.5
    kept = {(row["image"], row["method"]): row for row in pyarrow.parquet.read_table(images).to_pylist()}
    assert len(kept) == 3 * 4
    assert kept["set/photo2.png", "middling"]["bpp"] == 0.52
    assert kept["set/photo2.png", None]["bpp"] is None
    row = kept["set/photo0.png", "fine"]
    assert (row["width"], row["height"], row["crop_left"], row["crop_top"]) == (620, 560, 54, 24)
    assert (study.folder / "crops" / f"{row['crop']}.png").is_file()
    lines = table.read_text().splitlines()
    assert lines[0] == "| bpp | set/photo0.png | set/photo1.png | set/photo2.png |"
    assert "| middling | 0.5 | 0.51 | 0.52 |" in lines


def test_games_come_from_the_study_or_from_its_export(study: Study, tmp_path: Path) -> None:
    for name in ("ada", "ben"):
        while (comparison := study.state(name).comparison) is not None:
            study.answer(name, comparison, "left", 1.0)
    exports.export(study)
    for place in (study.folder, study.folder / "answers.parquet"):
        games = exports.games(place)
        assert (len(games), games.players) == (18, tuple(sorted(METHODS)))
        assert games.score.tolist() == [1.0] * 18
    with pytest.raises(SettingsError, match="neither a study nor its answers"):
        exports.games(tmp_path / "nothing.parquet")


def test_a_method_need_not_name_the_only_bundle(tmp_path: Path) -> None:
    methods = ("fdcodec-018a91a2 8", "fdcodec-018a91a2 2", "fdcodec-7d6aa503 2", "hevc at 0.1")
    pictures = {f"{method}/a.png": png(1) for method in ("originals", *methods)}
    gallery = StudyFolder(folder(tmp_path, pictures))
    assert check(gallery, "methods", ["hevc at 0.1", "fdcodec 8"]) == ["hevc at 0.1", "fdcodec-018a91a2 8"]
    assert check(gallery, "methods", ["fdcodec 8", "fdcodec-018a91a2 8"]) == ["fdcodec-018a91a2 8"], "it is one"
    with pytest.raises(SettingsError, match="no methods fdcodec 2 here; there are fdcodec-018a91a2 2, "):
        check(gallery, "methods", ["fdcodec 2"])
    assert check(gallery, "methods", []) == sorted(methods)


def test_a_study_that_cannot_be_made_says_why(evaluated: Path, study: Study, tmp_path: Path) -> None:
    gallery = StudyFolder(evaluated)
    with pytest.raises(SettingsError, match="name a new folder"):
        Study.create(study.folder, gallery)
    with pytest.raises(SettingsError, match="at least two methods"):
        Study.create(tmp_path / "one", gallery, methods=["fine"])
    with pytest.raises(SettingsError, match="no methods jpeg here; there are coarse"):
        Study.create(tmp_path / "none", gallery, methods=["jpeg"])
    with pytest.raises(SettingsError, match="no study here"):
        Study(tmp_path)
    small = folder(tmp_path / "e", {"originals/a.png": png(1), "x/a.png": png(1, 20, 20), "y/a.png": png(1)})
    with pytest.raises(
        SettingsError, match="a by x is 20x20, its original 40x24: not a reconstruction of the whole image"
    ):
        Study.create(tmp_path / "cropped", StudyFolder(small))
    partial = folder(tmp_path / "p", {"originals/a.png": png(1), "originals/b.png": png(2), "x/a.png": png(1)})
    folder(partial, {"y/a.png": png(1), "y/b.png": png(2)})
    with pytest.raises(SettingsError, match="x has no reconstruction of b"):
        Study.create(tmp_path / "partial", StudyFolder(partial))
    Study.create(tmp_path / "partial", StudyFolder(partial), images=["a"])  # the interrupted folder may be named again
    with pytest.raises(SettingsError, match="holds no reconstructions"):
        StudyFolder(folder(tmp_path / "bare", {"originals/a.png": png(1)}))
    with pytest.raises(SettingsError, match="folder does not exist"):
        StudyFolder(tmp_path / "nowhere")


def test_methods_with_several_settings_are_told_apart(tmp_path: Path) -> None:
    originals = folder(tmp_path / "photos", {"a.png": png(1)})
    folder(tmp_path / "e", {"r/1.png": png(2), "r/2.png": png(3), "r/3.png": png(4)})
    points = [("webp", 0.1, 20.0), ("webp", 0.2, 47.0), ("ours", None, 8.0)]
    rows = [
        {"image": "a.png", "codec": codec, "asked_bpp": asked, "setting": setting, "picture": f"r/{number}.png"}
        for number, (codec, asked, setting) in enumerate(points, 1)
    ]
    write_rows(tmp_path / "e", rows)
    gallery = StudyFolder(tmp_path / "e", originals)
    assert gallery.methods == ["ours", "webp at 0.1", "webp at 0.2"]
    assert (gallery.reconstruction("a.png", "webp at 0.2").pixels == read_image(png(3)).pixels).all()
    with pytest.raises(SettingsError, match="name the originals of an evaluation with --originals"):
        StudyFolder(tmp_path / "e")


def test_the_viewer_serves_pictures_by_number(evaluated: Path) -> None:
    client = TestClient(viewer_app(StudyFolder(evaluated)), raise_server_exceptions=False)
    assert client.get("/api/gallery").json()["methods"] == ["coarse", "fine", "middling"]
    assert client.get("/api/images/1").json()["figures"][1] == {"bpp": 1.01, "psnr_db": 40.0}
    assert client.get("/api/images", params={"find": "PHOTO2"}).json() == [{"number": 2, "name": "set/photo2.png"}]
    assert client.get("/pictures/2/original.png").headers["content-type"] == "image/png"
    assert client.get("/pictures/2/1.png").status_code == 200
    for wrong in ("3/original", "-1/original", "0/3", "0/-1"):
        assert client.get(f"/pictures/{wrong}.png").status_code == 404


def test_an_archive_of_many_pictures_is_shown_in_bounded_memory(tmp_path: Path) -> None:
    keys = [f"{number:05d}" for number in range(20_000)]
    make(tmp_path / "a", [{key: key.encode() for key in keys}], per_shard=len(keys))
    with ExitStack() as stack:
        tracemalloc.start()
        stack.callback(tracemalloc.stop)
        gallery = opened([str(tmp_path / "a")], None, Models("", codec=FAKE), stack)
        assert gallery.images == keys
        assert gallery.figures("12345", "a") == {"bpp": 5.0}
        assert gallery.figures("no picture", "a") is None
        assert tracemalloc.get_traced_memory()[1] < 16 << 20


def test_an_archive_shows_what_it_keeps_beside_its_sources(tmp_path: Path, fake_bundle: Path) -> None:
    source = folder(tmp_path / "s", {"a.png": png(1), "b.png": png(2), "torn.png": b"no picture"})
    with in_process():
        pack(source, tmp_path / "one", fake_bundle)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    (source / "b.png").unlink()
    places = [str(tmp_path / name) for name in ("one", "two")]
    with ExitStack() as stack:
        gallery = opened(places, None, Models("", codec=FAKE), stack)
        assert isinstance(gallery, Archives)
        assert (gallery.images, gallery.methods) == (["a.png", "b.png"], ["one", "two"])
        client = TestClient(viewer_app(gallery), raise_server_exceptions=False)
        original, kept = (read_image(client.get(f"/pictures/0/{name}.png").content) for name in ("original", "1"))
        assert (original.pixels & 0xE0 == kept.pixels).all()
        missing = client.get("/pictures/1/original.png")
        assert missing.status_code == 404
        assert "not found" in missing.json()["detail"]
    with pytest.raises(ArchiveError, match="no archive here"):
        opened([str(tmp_path / "nowhere")], None, Models(""), ExitStack())
