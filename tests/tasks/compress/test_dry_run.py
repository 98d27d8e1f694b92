"""A dry run counts what is ahead, tries some of it, and writes nothing."""

from pathlib import Path

import pytest

from codec.errors import ArchiveError
from tasks.compress.dry_run import READS_A_PICTURE, READS_A_SHARD, predict
from tasks.processes.codec_process import Models
from tasks.quality.questions import answer
from tests.support.archive_builder import SMALL, folder, pack, png
from tests.support.containers import segment, with_segments
from tests.support.fake_codec import FAKE
from tests.tasks.restore.test_restore import jpeg


def test_a_plan_counts_all_and_tries_twenty_spread_over_the_sizes(
    tmp_path: Path, fake_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"{number:02d}.png": png(number, 16 + number, 16) for number in range(24)} | {"bad.jpg": b"no"}
    source = folder(tmp_path / "s", files)
    models = Models(str(fake_bundle), codec=FAKE)
    found = predict(str(source), str(tmp_path / "a"), SMALL, models=models, workers=2)
    assert not (tmp_path / "a").exists()
    assert (found.pictures, found.shards, found.runs, found.gone) == (25, 9, 1, 0)
    assert found.source_bytes == sum(map(len, files.values()))
    assert found.read_requests == READS_A_PICTURE * 25 + READS_A_SHARD * 9
    assert (found.sampled, found.failed) == (20, 0)
    assert found.stored_bytes is not None
    assert 0 < found.stored_bytes < found.source_bytes
    assert found.seconds_a_picture is not None
    assert found.hours == pytest.approx(found.seconds_a_picture * 25 / 2 / 3600)


def test_nothing_to_do_is_a_plan_too(tmp_path: Path) -> None:
    source = folder(tmp_path / "s", {})
    found = predict(str(source), str(tmp_path / "a"), allow_shrink=True)
    assert (found.pictures, found.shards, found.sampled, found.hours) == (0, 0, 0, None)
    with pytest.raises(ArchiveError, match="source folder does not exist"):
        predict(str(tmp_path / "none"), str(tmp_path / "a"))


def test_a_plan_says_what_would_be_kept_whole_and_what_a_discard_would_save(tmp_path: Path, fake_bundle: Path) -> None:
    signed = with_segments(segment(0xEB, b"JP\0\1\0\0\0\1" + b"jumb" + b"c2pa" * 9), data=jpeg(1))
    trailed = jpeg(2) + b"appended" * 400
    files = {"a.png": png(1), "signed.jpg": signed, "trailed.jpg": trailed, "c.txt": b"no picture" * 900}
    source = folder(tmp_path / "s", files)
    models = Models(str(fake_bundle), codec=FAKE)
    found = predict(str(source), str(tmp_path / "a"), SMALL, models=models)
    assert found.judged == 4
    kept = {whole.reason: whole for whole in found.kept_whole}
    assert {reason: (whole.pictures, whole.bytes, whole.discard) for reason, whole in kept.items()} == {
        "not_an_image": (1, 9000, None),
        "trailing_data": (1, len(trailed), "trailer"),
        "signed": (1, len(signed), "content-credentials"),
    }
    assert kept["not_an_image"].would_save_bytes is None
    pack(source, tmp_path / "a", fake_bundle)
    told = {row["reason"]: row for row in answer(str(tmp_path / "a"), "kept_whole").to_pylist()}
    for reason in ("trailing_data", "signed"):
        row = told[reason]
        assert (row["pictures"], row["discard"]) == (kept[reason].pictures, kept[reason].discard)
        stands = row["would_save_bytes"] + kept[reason].bytes - row["stored_bytes"]  # JPEG XL may stand for the source
        assert kept[reason].would_save_bytes == pytest.approx(stands, abs=2)


def test_a_plan_refuses_a_source_that_has_shrunk_as_the_run_would(
    tmp_path: Path, fake_bundle: Path, children_are_played_here: None
) -> None:
    source = folder(tmp_path / "s", {f"{number}.png": png(number) for number in range(4)})
    pack(source, tmp_path / "a", fake_bundle)
    for number in range(1, 4):
        (source / f"{number}.png").unlink()
    with pytest.raises(ArchiveError, match="if this is intended, set --allow-shrink"):
        predict(str(source), str(tmp_path / "a"), SMALL)
    assert predict(str(source), str(tmp_path / "a"), SMALL, allow_shrink=True).gone == 3
