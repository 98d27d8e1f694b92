"""The previews of a run: a setting of its plan, the same bytes after kill and resume, counted in the rows."""

import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from codec import Codec, encode_png, read_image
from codec.bundle import Bundle
from codec.errors import SettingsError
from codec.preview import read_preview, with_preview, without_preview
from tasks.archive import manifest, schema
from tasks.archive.manifest import Manifest, RunSettings
from tasks.compress.runs import compress
from tasks.maintenance.forget import forget
from tasks.processes.codec_process import Models
from tasks.processes.encode_worker import Worker
from tasks.processes.requests import Encode
from tasks.storage.store import Store
from tests.conftest import synthetic
from tests.support import kill_points
from tests.support.archive_builder import folder, manifest_name, pack, png, reopened, rows, snapshot
from tests.support.runner_processes import CONTEXT, end

PREVIEWED = RunSettings(quality=16.0, preview=64, metrics=(), max_images_per_shard=1, threads=1)


def compress_until(point: str, source: Path, archive: Path, bundle: Path) -> None:
    """Compresses with the real codec, to be killed at a point of tests.support.kill_points."""
    kill_points.arm(*kill_points.POINTS[point])
    compress(str(source), str(archive), PREVIEWED, models=Models(str(bundle)))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pictures = {"a.png": encode_png(synthetic(240, 400)), "b.png": encode_png(synthetic(48, 64))}
    return folder(tmp_path_factory.mktemp("source"), pictures)


def stored(archive: Path, row: dict[str, object]) -> bytes:
    return Store(str(archive)).read_range(str(row["tar"]), int(str(row["offset"])), int(str(row["length"])))


@pytest.mark.usefixtures("children_are_played_here")  # those of the killed run are real
def test_previews_have_the_same_bytes_after_kill_and_resume(source: Path, bundle: Bundle, tmp_path: Path) -> None:
    models = Models(str(bundle.path))
    undisturbed = tmp_path / "undisturbed" / "a"
    compress(str(source), str(undisturbed), PREVIEWED, models=models)
    archive = tmp_path / "killed" / "a"
    point = "committing, first part published, nobody told"
    killed = CONTEXT.Process(target=compress_until, args=(point, source, archive, bundle.path))
    killed.start()
    assert end(killed) == -signal.SIGKILL
    assert compress(str(source), str(archive), PREVIEWED, models=models).runs == [1]
    assert snapshot(archive) == snapshot(undisturbed)

    large, small = rows(archive)
    data = stored(archive, large)
    picture = read_image(source / "a.png")
    assert data == Codec.load(bundle).encode(with_preview(picture, 64), quality=16.0).data
    found = read_preview(data)
    assert found is not None and (found.width, found.height) == (64, 38)
    assert large["bytes"] == len(data) and large["bpp"] == 8 * len(data) / (400 * 240), "the whole file counts"
    assert large["preview_bytes"] == len(data) - len(without_preview(data)) > len(found.data)
    assert read_preview(stored(archive, small)) is None and small["preview_bytes"] == 0
    assert large["verified"] and small["verified"]

    # A picture forgotten takes its preview with it: it is in the file, so in no object of the archive afterwards.
    assert any(found.data[:200] in path.read_bytes() for path in archive.rglob("*.tar"))
    forget(Store(str(archive)), ["a.png"])
    assert not any(found.data[:200] in path.read_bytes() for path in archive.rglob("*") if path.is_file())


def test_a_preview_is_not_why_a_picture_is_kept_whole(source: Path, bundle: Bundle) -> None:
    codec = Codec.load(bundle)
    request = Encode(
        quality=16.0, target_bpp=None, min_psnr_db=None, max_lpips=None,
        metadata="all", verify=True, discard=[], metrics=[], preview=64,
    )  # fmt: skip
    worker = Worker(codec, None)
    found, about = worker.read(request, (source / "a.png").read_bytes())
    assert found.picture is not None
    encoded = codec.encode(found.picture, quality=16.0)
    answer, data = worker.answer_on(found, len(encoded.data), about, encoded)
    assert answer["preview_bytes"] == 0 and data == without_preview(encoded.data)
    answer, data = worker.answer_on(found, len(data), about, encoded)
    assert (answer["fallback"], data) == ("would_grow", b"")


@pytest.mark.usefixtures("children_are_played_here")
def test_resume_does_not_change_the_preview(fake_bundle: Path, tmp_path: Path) -> None:
    pictures, archive = folder(tmp_path / "s", {"a.png": png(1)}), tmp_path / "a"
    pack(pictures, archive, fake_bundle, PREVIEWED)
    reopened(archive, 0)
    with pytest.raises(SettingsError, match=r"other settings: preview \(given 0, run has 64\)"):
        pack(pictures, archive, fake_bundle, replace(PREVIEWED, preview=0), resume=1)
    pack(pictures, archive, fake_bundle, replace(PREVIEWED, preview=0))


def test_a_run_that_an_earlier_release_planned_has_no_previews(fake_bundle: Path, tmp_path: Path) -> None:
    pictures, archive = folder(tmp_path / "s", {"a.png": png(1)}), tmp_path / "a"
    pack(pictures, archive, fake_bundle)
    document = json.loads((archive / manifest_name(archive)).read_bytes())
    assert document["settings"]["preview"] == 256
    del document["sha256"], document["settings"]["preview"]
    assert Manifest.from_bytes(manifest.to_json(document), "").settings.preview == 0
    with pytest.raises(SettingsError, match="preview must be 0"):
        RunSettings(preview=7)


def test_the_report_says_what_a_preview_takes() -> None:
    field = schema.SCHEMA.field("preview_bytes")
    assert field.nullable and field.metadata[b"unit"] == b"byte"
