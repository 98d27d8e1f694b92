"""shard-images: photos packed once, whole, and named for what they are."""

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet
import pytest
import webdataset

from codec import ArchiveError, SettingsError
from codec.training.data import ShardedImages
from tasks.dataset import ShardingSettings, failures, local_tars, pack
from tests.support.archive_builder import Counter, folder, png

SMALL = ShardingSettings(max_images_per_shard=3)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = {f"{name}.png": png(seed) for seed, name in enumerate("abcd")}
    broken = {"cut.png": png(9)[:200], "text.jpg": b"no picture", "sub/z a.b.png": png(0), "test-1.png": png(7)}
    return folder(tmp_path_factory.mktemp("source"), files | broken)


def manifest(dataset: Path) -> dict[str, dict[str, Any]]:
    rows = pyarrow.parquet.read_table(dataset / "manifest.parquet").to_pylist()
    return {row["key"]: row for row in rows}


def state(dataset: Path) -> dict[str, str]:
    files = (path for path in dataset.rglob("*") if path.is_file())
    return {str(path.relative_to(dataset)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_every_source_has_a_row_and_every_photo_its_original_bytes(source: Path, tmp_path: Path) -> None:
    progress = Counter()
    totals = pack(str(source), str(tmp_path / "out"), SMALL, progress=progress)
    rows = manifest(tmp_path / "out")
    assert totals == {"photos": 6, "failed": 2, "duplicates": 1, "tars": 3, "bytes": totals["bytes"]}
    assert progress.done == progress.total == len(rows) == 8
    for key, row in rows.items():
        original = (source / key).read_bytes()
        assert row["bytes"] == len(original)
        if row["status"] == "packed":
            with (tmp_path / "out" / row["tar"]).open("rb") as tar:
                tar.seek(row["offset"])
                assert tar.read(row["length"]) == original
            assert row["sha256"] == hashlib.sha256(original).hexdigest()
            assert (row["width"], row["height"], row["format"]) == (40, 24, "PNG")


def test_files_that_are_no_photos_are_failed_rows(source: Path, tmp_path: Path) -> None:
    pack(str(source), str(tmp_path / "out"), SMALL)
    rows = manifest(tmp_path / "out")
    assert {key for key, row in rows.items() if row["status"] == "failed"} == {"cut.png", "text.jpg"}
    assert rows["text.jpg"]["reason"] == "content"
    assert [row["key"] for row in failures(str(tmp_path / "out"))] == ["cut.png", "text.jpg"]


def test_duplicates_name_the_first_key_with_their_content_across_shards(source: Path, tmp_path: Path) -> None:
    pack(str(source), str(tmp_path / "out"), SMALL)
    rows = manifest(tmp_path / "out")
    assert rows["sub/z a.b.png"]["duplicate_of"] == "a.png"
    assert rows["sub/z a.b.png"]["shard"] != rows["a.png"]["shard"]
    assert rows["a.png"]["duplicate_of"] is None


def test_excluded_patterns_are_left_out(source: Path, tmp_path: Path) -> None:
    pack(str(source), str(tmp_path / "out"), ShardingSettings(exclude=("test-*", "sub/*")))
    assert sorted(manifest(tmp_path / "out")) == ["a.png", "b.png", "c.png", "cut.png", "d.png", "text.jpg"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves its files open
def test_webdataset_and_the_trainer_read_the_tars(source: Path, tmp_path: Path) -> None:
    pack(str(source), str(tmp_path / "out"), ShardingSettings())
    tars = sorted(str(path) for path in (tmp_path / "out").rglob("*.tar"))
    samples = list(webdataset.WebDataset(tars, shardshuffle=False))
    assert [sample["png"] for sample in samples] == [
        (source / key).read_bytes() for key, row in manifest(tmp_path / "out").items() if row["status"] == "packed"
    ]
    assert len(ShardedImages([tmp_path / "out"])) == 6


def test_a_dataset_at_a_url_is_packed_as_a_local_one_and_copied_for_the_trainer(source: Path, tmp_path: Path) -> None:
    totals = pack(str(source), "memory://photos/dataset", SMALL)
    assert totals == pack(str(source), str(tmp_path / "out"), SMALL)
    local = Path(local_tars("memory://photos/dataset", tmp_path / "data"))
    kept = {str(path.relative_to(local)) for path in local.rglob("*") if path.is_file()}
    assert kept == {name for name in state(tmp_path / "out") if name.endswith(".tar")}
    assert [ShardedImages([local]).read(i) for i in range(6)] == [
        ShardedImages([tmp_path / "out"]).read(i) for i in range(6)
    ]
    name = min(kept)
    whole = (local / name).read_bytes()
    (local / name).write_bytes(b"half")
    local_tars("memory://photos/dataset", tmp_path / "data")
    assert (local / name).read_bytes() == whole
    assert Path(local_tars(f"memory://photos/dataset/{name}", tmp_path / "data")).read_bytes() == whole
    fsspec.filesystem("memory").rm("/photos", recursive=True)


def test_local_places_are_the_trainers_own(source: Path, tmp_path: Path) -> None:
    pack(str(source), str(tmp_path / "out"), SMALL)
    assert local_tars(str(tmp_path / "out"), tmp_path / "data") == str(tmp_path / "out")
    assert local_tars(f"file://{tmp_path}/out", tmp_path / "data") == str(tmp_path / "out")
    tar = next((tmp_path / "out").rglob("*.tar"))
    assert local_tars(str(tar), tmp_path / "data") == str(tar)
    (tmp_path / "out" / "manifest.parquet").unlink()
    with pytest.raises(SettingsError, match="incomplete; run shard-images again"):
        local_tars(str(tmp_path / "out"), tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_packing_again_changes_nothing(source: Path, tmp_path: Path) -> None:
    pack(str(source), str(tmp_path / "one"), SMALL)
    before = state(tmp_path / "one")
    pack(str(source), str(tmp_path / "one"), SMALL)
    assert state(tmp_path / "one") == before
    pack(str(source), str(tmp_path / "two"), SMALL)
    tars = [{name for name in state(tmp_path / place) if name.endswith(".tar")} for place in ("one", "two")]
    assert tars[0] == tars[1]


def test_killed_and_packed_again_gives_the_same_tars(source: Path, tmp_path: Path) -> None:
    pack(str(source), str(tmp_path / "whole"), SMALL)
    program = (
        "import os, signal, sys; from tasks import dataset; from tasks.dataset import ShardingSettings; "
        "commit = dataset._commit; "
        "dataset._commit = lambda store, shard, *rest: "
        "os.kill(os.getpid(), signal.SIGKILL) if shard == 1 else commit(store, shard, *rest); "
        "dataset.pack(sys.argv[1], sys.argv[2], ShardingSettings(max_images_per_shard=3))"
    )
    command = [sys.executable, "-c", program, str(source), str(tmp_path / "killed")]
    assert subprocess.run(command, check=False, env={**os.environ}).returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "manifest.parquet").exists()
    pack(str(source), str(tmp_path / "killed"), SMALL)
    whole, again = state(tmp_path / "whole"), state(tmp_path / "killed")
    assert {name: digest for name, digest in whole.items() if name != "plan.json"} == {
        name: digest for name, digest in again.items() if name != "plan.json"
    }


def test_other_settings_or_another_source_are_refused(source: Path, tmp_path: Path) -> None:
    pack(str(source), str(tmp_path / "out"), SMALL)
    with pytest.raises(SettingsError, match="started with another settings"):
        pack(str(source), str(tmp_path / "out"), ShardingSettings())
    with pytest.raises(SettingsError, match="started with another source"):
        pack(str(source / "sub"), str(tmp_path / "out"), SMALL)


def test_an_empty_source_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArchiveError, match="no files to pack"):
        pack(str(tmp_path / "empty"), str(tmp_path / "out"))
