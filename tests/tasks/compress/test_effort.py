"""The effort of a run: the same bytes after kill and resume, a setting of the plan, rows marked as optimized."""

import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from codec import Codec, encode_png, read_image
from codec.bundle import Bundle
from codec.errors import SettingsError
from codec.metrics.quality import psnr
from tasks.archive import manifest, schema
from tasks.archive.manifest import Manifest, RunSettings
from tasks.compress.runs import compress
from tasks.processes.codec_process import Models
from tasks.processes.encode_worker import Worker
from tasks.processes.requests import Encode
from tasks.storage.store import Store
from tests.conftest import synthetic
from tests.support import kill_points
from tests.support.archive_builder import folder, manifest_name, pack, png, reopened, rows, snapshot
from tests.support.runner_processes import CONTEXT, end

REFINED = RunSettings(quality=64.0, effort=1, metrics=("psnr", "lpips"), max_images_per_shard=1, threads=1)


def compress_until(point: str, source: Path, archive: Path, bundle: Path) -> None:
    """Compresses with the real codec, to be killed at a point of tests.support.kill_points."""
    kill_points.arm(*kill_points.POINTS[point])
    compress(str(source), str(archive), REFINED, models=Models(str(bundle)))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes = {"a.png": (48, 64), "b.png": (40, 56)}
    pictures = {name: encode_png(synthetic(*size)) for name, size in sizes.items()}
    return folder(tmp_path_factory.mktemp("source"), pictures)


@pytest.mark.usefixtures("children_are_played_here")  # those of the killed run are real
def test_refined_pictures_have_the_same_bytes_after_kill_and_resume(
    source: Path, bundle: Bundle, tmp_path: Path
) -> None:
    models = Models(str(bundle.path))
    undisturbed = tmp_path / "undisturbed" / "a"
    compress(str(source), str(undisturbed), REFINED, models=models)
    archive = tmp_path / "killed" / "a"
    point = "committing, first part published, nobody told"
    killed = CONTEXT.Process(target=compress_until, args=(point, source, archive, bundle.path))
    killed.start()
    assert end(killed) == -signal.SIGKILL
    assert [row["key"] for row in rows(archive)] == ["a.png"]
    assert compress(str(source), str(archive), REFINED, models=models).runs == [1]
    assert snapshot(archive) == snapshot(undisturbed)

    codec, store = Codec.load(bundle), Store(str(archive))
    for row in rows(archive):
        assert row["verified"] and row["effort"] == 1 and row["lpips"] > 0
        stored = store.read_range(row["tar"], row["offset"], row["length"])
        picture = read_image(source / row["key"])
        assert stored == codec.encode(picture, quality=64.0, effort=1).data != codec.encode(picture, quality=64.0).data


def test_a_refined_picture_keeps_the_floor_of_a_run(source: Path, bundle: Bundle) -> None:
    codec, picture = Codec.load(bundle), read_image(source / "a.png")
    plain = codec.encode(picture, quality=128.0)
    floor = psnr(picture.pixels, codec.decode(plain.data))
    asked = Encode(
        quality=64.0, target_bpp=None, min_psnr_db=floor, max_lpips=None,
        metadata="all", verify=True, discard=[], metrics=[], effort=1,
    )  # fmt: skip
    made, _ = Worker(codec, None).encoded(asked, picture)
    assert psnr(picture.pixels, codec.decode(made.data)) >= floor
    assert made.quality > 64.0


@pytest.mark.usefixtures("children_are_played_here")
def test_resume_does_not_change_the_effort(fake_bundle: Path, tmp_path: Path) -> None:
    pictures, archive = folder(tmp_path / "s", {"a.png": png(1)}), tmp_path / "a"
    pack(pictures, archive, fake_bundle, replace(REFINED, metrics=()))
    reopened(archive, 0)
    with pytest.raises(SettingsError, match=r"other settings: effort \(given 2, run has 1\)"):
        pack(pictures, archive, fake_bundle, replace(REFINED, metrics=(), effort=2), resume=1)
    pack(pictures, archive, fake_bundle, replace(REFINED, metrics=(), effort=2))
    assert [row["effort"] for row in rows(archive)] == [1], "an open run keeps its own settings"


def test_a_run_that_an_earlier_release_planned_has_no_effort(fake_bundle: Path, tmp_path: Path) -> None:
    pictures, archive = folder(tmp_path / "s", {"a.png": png(1)}), tmp_path / "a"
    pack(pictures, archive, fake_bundle)
    document = json.loads((archive / manifest_name(archive)).read_bytes())
    del document["sha256"], document["settings"]["effort"]
    assert Manifest.from_bytes(manifest.to_json(document), "").settings.effort == 0


def test_a_picture_has_more_time_with_more_effort() -> None:
    limits = [RunSettings(image_timeout=7.0, effort=effort).encode_timeout for effort in (0, 1, 2)]
    assert limits == [7.0, 70.0, 700.0]


def test_the_report_says_that_lpips_was_optimized() -> None:
    described = schema.SCHEMA.field("effort").metadata[b"description"].decode()
    assert "optimized for LPIPS" in described
