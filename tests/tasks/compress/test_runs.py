"""An archive grows by runs: exclusive, resumed with their own settings, taking what is new and only that."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from codec.errors import ArchiveError, SettingsError
from tasks.archive import index_files, layout, log
from tasks.archive.manifest import Manifest, RunSettings, from_json, to_json
from tasks.compress import listing
from tasks.compress import runs as archives
from tasks.processes.codec_process import Models
from tasks.sources.source import open_source
from tasks.storage.store import Store, sha256_of
from tests.support import archive_builder
from tests.support.archive_builder import (
    SMALL,
    Counter,
    folder,
    manifest_name,
    pack,
    png,
    reopened,
    rows,
    snapshot,
)
from tests.support.fake_codec import FAKE

Hook = Callable[[str], None]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, fake_bundle: Path) -> tuple[Path, Path]:
    """A source of four pictures and its archive of two shards."""
    home = tmp_path_factory.mktemp("packed")
    source = folder(home / "s", {f"{name}.png": png(seed) for seed, name in enumerate("abcd")})
    pack(source, home / "a", fake_bundle)
    return source, home / "a"


@pytest.fixture
def grown(packed: tuple[Path, Path], tmp_path: Path, children_are_played_here: None) -> tuple[Path, Path]:
    """Copies of source and archive to change, times of modification kept."""
    source, archive = packed
    shutil.copytree(source, tmp_path / "s")
    shutil.copytree(archive, tmp_path / "a")
    moved(tmp_path / "a", str(source), str(tmp_path / "s"))
    return tmp_path / "s", tmp_path / "a"


def moved(archive: Path, old: str, new: str) -> None:
    """Change the source that a sealed run's manifest names, and every reference to the manifest."""
    name = manifest_name(archive)
    document = from_json((archive / name).read_bytes(), "")
    data = to_json(document | {"source": document["source"].replace(old, new)})
    (archive / name).write_bytes(data)
    seal = from_json((archive / layout.seal(1)).read_bytes(), "")
    seal["manifest"]["sha256"] = sha256_of(data)
    (archive / layout.seal(1)).write_bytes(to_json(seal))


def before(monkeypatch: pytest.MonkeyPatch, pattern: str, act: Callable[[], object]) -> None:
    """Do something once, just before the first publication of a name that holds the pattern."""
    publish, waiting = Store.publish, [act]

    def intrude(self: Store, name: str, content: bytes | Path) -> bool:
        if pattern in name and waiting:
            waiting.pop()()
        return publish(self, name, content)

    monkeypatch.setattr(Store, "publish", intrude)


def test_every_source_has_one_row_and_every_stored_file_is_where_its_row_says(packed: tuple[Path, Path]) -> None:
    _, archive = packed
    found = rows(archive)
    assert [row["key"] for row in found] == ["a.png", "b.png", "c.png", "d.png"]
    assert {row["status"] for row in found} == {"compressed"}
    assert all(row["verified"] for row in found)
    assert [row["shard"] for row in found] == [0, 0, 0, 1]
    for row in found:
        assert row["bpp"] == 8 * row["bytes"] / (40 * 24)
        data = Store(str(archive)).read_range(row["tar"], row["offset"], row["length"])
        assert data.startswith(b"salt")


def test_nothing_new_opens_no_run(packed: tuple[Path, Path], fake_bundle: Path) -> None:
    source, archive = packed
    state = snapshot(archive)
    outcome = pack(source, archive, fake_bundle)
    assert outcome.runs == []
    assert outcome.totals["images"] == 0
    assert snapshot(archive) == state


def test_new_pictures_make_the_next_run_and_old_files_stay(grown: tuple[Path, Path], fake_bundle: Path) -> None:
    source, archive = grown
    state = snapshot(archive)
    folder(source, {"e.png": png(50), "a/z.png": png(51)})
    assert pack(source, archive, fake_bundle).runs == [2]
    assert [row["key"] for row in rows(archive) if row["run"] == 2] == ["a/z.png", "e.png"]
    assert state.items() - snapshot(archive).items() == {("rows", state["rows"])}


def test_a_changed_source_is_a_new_version_and_a_touched_one_points_at_the_old_bytes(
    grown: tuple[Path, Path], fake_bundle: Path
) -> None:
    source, archive = grown
    folder(source, {"a.png": png(99)})
    os.utime(source / "b.png", ns=(1, 1))
    assert pack(source, archive, fake_bundle).totals["unchanged"] == 1
    history = {(row["key"], row["run"]): row for row in rows(archive)}
    assert history["a.png", 2]["version"] == 2
    assert history["a.png", 2]["status"] == "compressed"
    touched = history["b.png", 2]
    assert (touched["status"], touched["version"]) == ("unchanged", 1)
    for field in ("tar", "offset", "length", "sha256", "bpp", "source_sha256"):
        assert touched[field] == history["b.png", 1][field]
    assert pack(source, archive, fake_bundle).runs == []


def test_a_run_starts_only_what_has_no_part(grown: tuple[Path, Path], fake_bundle: Path) -> None:
    source, archive = grown
    state = snapshot(archive)
    reopened(archive, 1)
    first = (archive / layout.part(1, 0)).read_bytes()
    assert pack(source, archive, fake_bundle).runs == [1]
    assert (archive / layout.part(1, 0)).read_bytes() == first
    assert snapshot(archive) == state


def test_a_tar_without_its_part_is_not_done_and_a_foreign_one_is_left_to_the_audit(
    grown: tuple[Path, Path], fake_bundle: Path
) -> None:
    source, archive = grown
    state = snapshot(archive)
    reopened(archive, 0)
    orphan = archive / layout.tar(1, 0, "f" * 64)
    orphan.write_bytes(b"left by a runner that died")
    assert [row["key"] for row in rows(archive)] == ["d.png"]
    pack(source, archive, fake_bundle)
    orphan.unlink()
    assert snapshot(archive) == state


def test_an_open_run_keeps_its_own_settings_and_its_escrowed_bundle(grown: tuple[Path, Path], tmp_path: Path) -> None:
    source, archive = grown
    reopened(archive, 1)
    folder(source, {"e.png": png(50)})
    other = archive_builder.bundle(tmp_path / "other", "another")
    assert pack(source, archive, other, replace(SMALL, quality=7.0)).runs == [1, 2]
    found = {row["key"]: row for row in rows(archive)}
    assert found["d.png"]["quality_lambda"] == 4.0
    assert found["e.png"]["quality_lambda"] == 7.0
    assert found["d.png"]["bundle_id"] != found["e.png"]["bundle_id"]
    assert {path.parent.name for path in (archive / "escrow").glob("*/salt")} == {
        row["bundle_id"] for row in found.values()
    }


def test_resuming_a_run_with_other_settings_is_refused_naming_them(
    grown: tuple[Path, Path], fake_bundle: Path, tmp_path: Path
) -> None:
    source, archive = grown
    reopened(archive, 1)
    differences = r"quality \(given 7.0, run has 4.0\), verify \(given False, run has True\)"
    with pytest.raises(SettingsError, match=differences):
        pack(source, archive, fake_bundle, replace(SMALL, quality=7.0, verify=False), resume=1)
    with pytest.raises(
        SettingsError, match=r"metrics \(given \('psnr',\), run has \(\)\), metrics_sample \(given 0.5, run has 0"
    ):
        pack(source, archive, fake_bundle, replace(SMALL, metrics=("psnr",), metrics_sample=0.5), resume=1)
    other_source, other_bundle = folder(tmp_path / "t", {}), archive_builder.bundle(tmp_path / "other", "another")
    with pytest.raises(SettingsError, match=r"source \(given .*/t, run has .*/s\), bundle \(given"):
        pack(other_source, archive, other_bundle, resume=1)
    assert pack(source, archive, fake_bundle, replace(SMALL, quality=None), resume=1).runs == [1]
    with pytest.raises(ArchiveError, match="run 1 cannot be resumed: no run is open"):
        pack(source, archive, fake_bundle, resume=1)


def test_resuming_does_nothing_else(grown: tuple[Path, Path], fake_bundle: Path) -> None:
    source, archive = grown
    reopened(archive)
    folder(source, {"e.png": png(50)})
    assert pack(source, archive, fake_bundle, resume=1).runs == [1]
    assert log.read(Store(str(archive))).runs == 1


def test_the_loser_of_the_manifest_adopts_the_winners_plan(
    tmp_path: Path, fake_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder(tmp_path / "s", {"a.png": png(1), "b.png": png(2)})
    archive = tmp_path / "a"

    def winner() -> None:
        settings = replace(SMALL, quality=9.0, max_images_per_shard=1)
        archives.plan_run(open_source(str(source)), Store(str(archive)), settings, Models(str(fake_bundle), codec=FAKE))

    before(monkeypatch, layout.record(2), winner)
    assert pack(source, archive, fake_bundle).runs == [1]
    assert [(row["quality_lambda"], row["shard"]) for row in rows(archive)] == [(9.0, 0), (9.0, 1)]
    assert len(list((archive / "runs").iterdir())) == 1


def test_a_run_that_another_runner_opened_meanwhile_is_adopted(
    grown: tuple[Path, Path], fake_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, archive = grown
    folder(source, {"e.png": png(50)})
    store, models = Store(str(archive)), Models(str(fake_bundle), codec=FAKE)
    before = log.read(store)
    assert archives.plan_run(open_source(str(source)), store, SMALL, models) == 2
    assert archives.plan_run(open_source(str(source)), store, SMALL, models) == 2
    settled, seen = archives.settled, [before]  # by a runner that looked just before
    monkeypatch.setattr(archives, "settled", lambda archive: seen.pop() if seen else settled(archive))
    pack(source, archive, fake_bundle)
    assert [row["key"] for row in rows(archive) if row["run"] > 1] == ["e.png"]


def test_a_closed_run_goes_without_its_missing_shards_and_their_pictures_return_in_the_next(
    grown: tuple[Path, Path], fake_bundle: Path
) -> None:
    source, archive = grown
    store = Store(str(archive))
    with pytest.raises(ArchiveError, match="run 1 cannot be closed: no run is open"):
        archives.close_run(store, 1, "why not")
    late = (archive / layout.part(1, 0)).read_bytes()
    reopened(archive, 0)
    with pytest.raises(SettingsError, match="give one"):
        archives.close_run(store, 1, " ")
    assert archives.close_run(store, 1, "the disk of its machine died") == [0]
    seal = json.loads((archive / layout.seal(1)).read_bytes())
    assert seal["closed"] == {"reason": "the disk of its machine died", "missing": [0]}
    assert [row["key"] for row in rows(archive)] == ["d.png"]

    (archive / layout.part(1, 0)).write_bytes(late)  # a runner that did not hear of it
    with pytest.raises(ArchiveError, match=r"run 1 was closed meanwhile \(the disk of its machine died\)"):
        archives.seal(store, Manifest.from_bytes(store.read(manifest_name(archive)), ""))
    assert pack(source, archive, fake_bundle).runs == [2]
    assert sorted(row["key"] for row in rows(archive)) == ["a.png", "b.png", "c.png", "d.png"]


def test_the_loser_of_a_part_removes_its_tar_and_keeps_the_winners_rows(
    grown: tuple[Path, Path], fake_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, archive = grown
    winning_part = archive / layout.part(1, 1)
    table = pa.parquet.read_table(winning_part)
    reopened(archive, 1)
    own = next((archive / layout.shards(1)).glob("000001-*"))
    winning_tar = layout.tar(1, 1, "e" * 64)

    def winner() -> None:
        (archive / winning_tar).write_bytes(own.read_bytes())
        about = {key.decode(): value.decode() for key, value in table.schema.metadata.items()} | {"tar": winning_tar}
        rows = [row | {"tar": winning_tar} for row in table.to_pylist()]
        winning_part.write_bytes(index_files.encoded(rows, about))

    before(monkeypatch, "part-000001", winner)
    pack(source, archive, fake_bundle)
    assert not own.exists()
    assert (archive / winning_tar).exists()
    assert (archive / layout.seal(1)).exists()


def test_a_run_is_not_sealed_while_a_shard_is_missing(grown: tuple[Path, Path]) -> None:
    _, archive = grown
    store = Store(str(archive))
    reopened(archive, 0)
    plan = Manifest.from_bytes(store.read(manifest_name(archive)), "")
    with pytest.raises(ArchiveError, match="so run 1 cannot be sealed"):
        archives.seal(store, plan)
    assert not (archive / layout.seal(1)).exists()


def test_the_seal_names_every_part_with_size_and_hash(packed: tuple[Path, Path]) -> None:
    _, archive = packed
    seal = json.loads((archive / layout.seal(1)).read_bytes())
    store = Store(str(archive))
    assert [part["name"] for part in seal["parts"]] == [layout.part(1, 0), layout.part(1, 1)]
    for part in seal["parts"]:
        assert (part["size"], part["sha256"]) == (store.size(part["name"]), store.sha256(part["name"]))


def test_a_damaged_listing_stops_the_run(grown: tuple[Path, Path], fake_bundle: Path) -> None:
    source, archive = grown
    reopened(archive)
    frozen = next((archive / layout.run(1)).glob("listing-*"))
    frozen.write_bytes(frozen.read_bytes()[:-1] + b"?")
    with pytest.raises(ArchiveError, match=r"listing-.*damaged"):
        pack(source, archive, fake_bundle)


def test_more_runs_follow_until_the_listing_is_empty(
    tmp_path: Path, fake_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder(tmp_path / "s", {f"{name}.png": png(seed) for seed, name in enumerate("abc")})
    monkeypatch.setattr(listing, "SHARDS_PER_RUN", 1)
    progress = Counter()
    outcome = pack(source, tmp_path / "a", fake_bundle, replace(SMALL, max_images_per_shard=2), progress=progress)
    assert outcome.runs == [1, 2]
    assert outcome.totals["images"] == progress.total == progress.done == 3


def test_the_settings_and_surroundings_of_a_run_are_in_its_manifest(packed: tuple[Path, Path]) -> None:
    source, archive = packed
    manifest = json.loads((archive / manifest_name(archive)).read_bytes())
    assert manifest["settings"] == {
        **SMALL.__dict__,
        "discard": list(SMALL.discard),
        "include": [],
        "exclude": list(SMALL.exclude),
        "metrics": [],
    }
    assert manifest["source"] == f"file://{source}"
    assert (manifest["parent"], manifest["shards"]) == (None, [[0, 3], [3, 4]])
    assert {"bundle_id", "package_version", "listing_sha256"} <= manifest.keys()
    described = json.loads((archive / layout.ARCHIVE).read_bytes())
    assert len(described.pop("sha256")) == 64
    assert described == {
        "format": 2,
        "digest": "sha256",
        "name": "a",
        "package_version": version("fdcodec"),
        "probe": "exclusive creation by link",
    }


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda home: (home / "none", home / "a"), "source folder does not exist"),
        (lambda home: (home / "s", home / "s" / "x" / "a"), "is inside the source"),
        (lambda home: (home / "s", home / "s2"), "is not an fdcodec archive"),
    ],
)
def test_a_place_that_cannot_serve_stops_at_once(
    tmp_path: Path, fake_bundle: Path, make: Callable[[Path], tuple[Path, Path]], message: str
) -> None:
    folder(tmp_path / "s", {"a.png": b"1"})
    folder(tmp_path / "s2", {"holiday.png": b"1"})
    with pytest.raises(ArchiveError, match=message):
        pack(*make(tmp_path), fake_bundle)


def test_an_archive_of_another_format_is_not_touched(grown: tuple[Path, Path], fake_bundle: Path) -> None:
    source, archive = grown
    (archive / layout.ARCHIVE).write_text('{"format": 3}')
    with pytest.raises(ArchiveError, match="format 3 is newer than 2, the newest that this release reads"):
        pack(source, archive, fake_bundle)
    (archive / layout.ARCHIVE).write_text("{")
    with pytest.raises(ArchiveError, match="damaged"):
        pack(source, archive, fake_bundle)


def test_a_wrong_bundle_stops_before_a_run_is_opened(tmp_path: Path) -> None:
    source = folder(tmp_path / "s", {"a.png": png(1)})
    with pytest.raises(SettingsError, match="no such bundle folder"):
        pack(source, tmp_path / "a", tmp_path / "nothing")
    with pytest.raises(ArchiveError, match="no bundle here"):
        pack(source, tmp_path / "a", source)
    assert log.read(Store(str(tmp_path / "a"))).runs == 0


def test_an_exchanged_bundle_in_escrow_is_noticed(grown: tuple[Path, Path], fake_bundle: Path) -> None:
    source, archive = grown
    reopened(archive, 0)
    next((archive / "escrow").glob("*/salt")).write_bytes(b"other")
    with pytest.raises(ArchiveError, match="the bundle has a different id"):
        pack(source, archive, fake_bundle)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"quality": 0.0}, "quality must be above 0"),
        ({"quality": 1.0, "target_bpp": 1.0}, "mutually exclusive"),
        ({"max_failed_fraction": 1.5}, "from 0 to 1"),
        ({"max_images_per_shard": 2001}, "at most 2000"),
        ({"metrics": ("vmaf",)}, "metrics knows psnr"),
        ({"metrics_sample": 0.0}, "metrics_sample must be above 0"),
        ({"threads": 0}, "threads must be above 0"),
        ({"effort": 3}, "effort must be one of 0 to 2, not 3"),
        ({"effort": -1}, "effort must be one of 0 to 2, not -1"),
        ({"effort": 1, "batch": 8}, "effort 1 refines pictures one by one; set batch to 1, not 8"),
    ],
)
def test_a_setting_without_sense_is_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        RunSettings(**setting)


def test_shards_of_a_run_that_no_record_opens_stop_before_they_are_taken_for_done(
    grown: tuple[Path, Path], fake_bundle: Path
) -> None:
    source, archive = grown
    folder(source, {"e.png": png(50)})
    stray = archive / layout.part(2, 0)
    stray.parent.mkdir(parents=True)
    stray.write_bytes((archive / layout.part(1, 0)).read_bytes())
    with pytest.raises(ArchiveError, match="has shards, but no record opened this run; audit the archive"):
        pack(source, archive, fake_bundle)
    stray.unlink()
    assert pack(source, archive, fake_bundle).runs == [2]
