"""An archive feeds training: through PyTorch's DataLoader, WebDataset and Hugging Face datasets."""

import errno
import gc
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

from codec import Codec
from codec.bundle import Bundle
from codec.errors import ArchiveError, SettingsError
from tasks.archive import report
from tasks.archive.manifest import RunSettings
from tasks.compress.runs import compress
from tasks.learning import ArchivePictures, ArchiveStream, FdcDecoder, Order, hugging_face
from tasks.processes.codec_process import Models
from tasks.storage.store import Store
from tests.conftest import synthetic
from tests.support.archive_builder import folder
from tests.support.fake_s3 import serving

PICTURES = 7
# Polars, which other tests import, warns at every fork; what is forked here uses nothing of it
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:RuntimeWarning", "ignore:.*fork:DeprecationWarning")
LEAVES_FILES_OPEN = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""webdataset does, until they are collected."""
WIDTH, HEIGHT = 40, 24


def photo(seed: int, orientation: int = 1) -> bytes:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(synthetic(HEIGHT, WIDTH, seed=seed)).save(buffer, "JPEG", exif=exif, quality=95)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle) -> Path:
    """An archive by a real codec: photos in two folders, one of them turned, and a text."""
    home = tmp_path_factory.mktemp("learning")
    files = {f"{'ab'[seed % 2]}/{seed}.jpg": photo(seed) for seed in range(PICTURES - 1)}
    files["b/turned.jpg"] = photo(9, orientation=6)
    files["note.txt"] = b"a note"
    source = folder(home / "s", files)
    settings = RunSettings(quality=4.0, metrics=("psnr",), threads=1, max_images_per_shard=4)
    compress(str(source), str(home / "a"), settings, models=Models(str(bundle.path), threads=1))
    return home / "a"


def rows(archive: Path) -> list[dict[str, Any]]:
    return report.query(Store(str(archive)), "SELECT * FROM rows WHERE codec = 'fdc' ORDER BY tar, \"offset\", key")


def test_a_sample_is_the_decoded_picture_with_columns_as_labels(archive: Path) -> None:
    pictures = ArchivePictures(archive, columns=("key", "psnr_db"))
    assert len(pictures) == PICTURES == len(rows(archive))
    for row, (pixels, labels) in zip(rows(archive), pictures, strict=True):
        assert labels == {"key": row["key"], "psnr_db": row["psnr_db"]}
        data = Store(str(archive)).read_range(row["tar"], row["offset"], row["length"])
        bundle = next((archive / "escrow").glob(f"{row['bundle_id']}*"))
        expected = Codec.load(bundle).decode(data)
        if row["key"] == "b/turned.jpg":
            assert pixels.shape == (3, WIDTH, HEIGHT), "as displayed"
            expected = np.rot90(expected, -1)
        assert np.array_equal(pixels.permute(1, 2, 0).numpy(), expected)


def test_sql_over_the_report_selects(archive: Path) -> None:
    chosen = ArchivePictures(archive, columns=("key",), where="key LIKE 'a/%' AND psnr_db > 0")
    assert {labels["key"] for _, labels in chosen} == {"a/0.jpg", "a/2.jpg", "a/4.jpg"}
    with pytest.raises(SettingsError, match="no column 'quality_'"):
        ArchivePictures(archive, columns=("quality_",))
    with pytest.raises(SettingsError, match="cannot be evaluated"):
        ArchivePictures(archive, where="lpips <")


def test_latents_of_later_epochs_are_read_from_the_cache(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = [latent for latent, _ in ArchivePictures(archive, kind="latents", cache=tmp_path)]
    assert {latent.shape for latent in first} == {(4, 3, 5)}
    (cut, *_) = sorted(tmp_path.rglob("*.safetensors"))
    cut.write_bytes(cut.read_bytes()[:50])  # as after a loss of power
    again = [latent for latent, _ in ArchivePictures(archive, kind="latents", cache=tmp_path)]
    assert all(map(torch.equal, first, again))
    monkeypatch.setattr(Codec, "load", None)
    once_more = [latent for latent, _ in ArchivePictures(archive, kind="latents", cache=tmp_path)]
    assert all(map(torch.equal, first, once_more))


EVEN = "key <> 'b/turned.jpg'"
"""The pictures of one size, which a batch needs."""


def loaded(archive: Path | str, workers: int, start: str = "fork") -> dict[str, Any]:
    """What a training's own process reads."""
    command = [sys.executable, "-m", "tests.support.learning_loader", str(archive), EVEN, str(workers), start]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3])
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


@pytest.fixture(scope="module")
def alone(archive: Path) -> dict[str, Any]:
    """What it reads without workers."""
    return loaded(archive, 0)


def test_workers_give_the_same_batches_and_orders_as_one_process_however_they_are_started(
    archive: Path, alone: dict[str, Any]
) -> None:
    assert len(alone["batches"]) == 3
    for workers, start in ((2, "fork"), (2, "forkserver")):
        assert loaded(archive, workers, start) == alone, f"{workers} workers, {start}"


def test_a_stream_s_order_is_that_of_seed_and_epoch_and_goes_on_after_a_resume(
    archive: Path, alone: dict[str, Any]
) -> None:
    pictures = ArchivePictures(archive, columns=("key",), where=EVEN)
    expected = [pictures.rows.column("key")[int(i)].as_py() for i in Order(seed=5).indices(6, 0, 0, 1)]
    whole, rest, another = alone["orders"]
    assert whole == expected and rest == expected[2:]
    assert sorted(another) == sorted(expected) and another != expected
    with pytest.raises(SettingsError, match="cannot go on after 3"):
        ArchiveStream(pictures, 2).resume(0, 3)


def test_ranks_share_an_epoch_without_overlap_and_evenly(archive: Path) -> None:
    pictures = ArchivePictures(archive)
    for epoch in range(4):
        parts = [Order(seed=1).indices(len(pictures), epoch, rank, 3).tolist() for rank in range(3)]
        assert {len(part) for part in parts} == {2}
        assert len({index for part in parts for index in part}) == 6
    left_out = set()
    for epoch in range(9):
        taken = {index for rank in range(3) for index in Order(1).indices(7, epoch, rank, 3).tolist()}
        left_out |= set(range(7)) - taken
    assert len(left_out) > 1


def test_a_full_disk_costs_the_cache_and_no_sample(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", full)
    latent, _ = ArchivePictures(archive, kind="latents", cache=tmp_path)[0]
    assert latent.shape[0] == 4 and "is not cached: No space left" in caplog.text
    assert not [path for path in tmp_path.rglob("*") if path.is_file()], "nothing half-written stays"


def test_a_fork_does_not_remove_what_its_parent_has_copied(archive: Path, tmp_path: Path) -> None:
    reader = ArchivePictures(archive).reader
    copies = tmp_path / "copies"
    copies.mkdir()
    reader._copies.callback(shutil.rmtree, copies)
    if (child := os.fork()) == 0:
        reader._check_process()
        del reader
        gc.collect()
        os._exit(0)
    os.waitpid(child, 0)
    assert copies.is_dir()
    del reader
    gc.collect()
    assert not copies.exists()


def test_a_loader_lists_the_archive_s_bundles_once(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = FdcDecoder(archive)
    listed: list[str] = []
    children = Store.children

    def counted(self: Store, prefix: str) -> list[str]:
        listed.append(prefix)
        return children(self, prefix)

    monkeypatch.setattr(Store, "children", counted)
    for row in rows(archive)[:3]:
        data = Store(str(archive)).read_range(row["tar"], row["offset"], row["length"])
        assert torch.equal(decoder("fdc", data), decoder.reader.read(row))
    assert listed.count("escrow") == 1


@LEAVES_FILES_OPEN
def test_the_archive_s_own_tars_feed_webdataset(archive: Path) -> None:
    tars = sorted(str(path) for path in archive.rglob("*.tar"))
    read = webdataset.WebDataset(tars, shardshuffle=False).decode(FdcDecoder(archive))
    decoded = [sample["fdc"] for sample in read if "fdc" in sample]
    gc.collect()  # the files that it leaves open
    expected = [pixels for pixels, _ in ArchivePictures(archive)]
    assert len(decoded) == PICTURES
    for pixels, other in zip(decoded, expected, strict=True):
        assert torch.equal(pixels, other)
    samples = webdataset.WebDataset(tars, shardshuffle=False).decode(FdcDecoder(archive))
    assert [sample["txt"] for sample in samples if "txt" in sample] == ["a note"]
    gc.collect()


def test_hugging_face_datasets_load_an_archive(archive: Path) -> None:
    table = hugging_face(archive, columns=("key", "psnr_db"), where="key LIKE 'b/%'")
    assert len(table) == 4
    assert set(table["key"]) == {"b/1.jpg", "b/3.jpg", "b/5.jpg", "b/turned.jpg"}
    for row in table:
        assert set(row) == {"key", "psnr_db", "image"}
        assert row["image"].size == ((HEIGHT, WIDTH) if row["key"] == "b/turned.jpg" else (WIDTH, HEIGHT))
    assert len(table.shuffle(seed=1).select(range(2))) == 2


def test_an_archive_in_a_bucket_feeds_workers(
    archive: Path, alone: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving() as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "testing")
        files = fsspec.filesystem("s3")
        files.mkdir("learning")
        files.put(f"{archive}/", "s3://learning/a/", recursive=True)
        # a process of its own: the server of an earlier test's forks would not know the bucket's credentials
        assert loaded("s3://learning/a", 1, "forkserver") == alone


def test_a_damaged_picture_is_named_and_costs_itself_alone(archive: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(archive, tmp_path / "copy"))
    row = rows(copy)[0]
    data = bytearray((copy / row["tar"]).read_bytes())
    data[row["offset"] + 40] ^= 1
    (copy / row["tar"]).chmod(0o644)
    (copy / row["tar"]).write_bytes(data)
    pictures = ArchivePictures(copy)
    with pytest.raises(ArchiveError, match=f"{row['tar']} at byte {row['offset']}: damaged"):
        _ = pictures[0]
    assert pictures[1][0].shape[0] == 3


def test_whole_pictures_are_read_when_wanted_and_latents_of_them_refused(archive: Path) -> None:
    assert len(ArchivePictures(archive, whole=True)) == PICTURES + 1  # the note is kept whole too
    pictures = ArchivePictures(archive, whole=True, where="codec <> 'fdc'", columns=("key",))
    with pytest.raises(ArchiveError, match="cannot be read as a tensor"):
        _ = pictures[0]
    with pytest.raises(SettingsError, match="have no latent"):
        ArchivePictures(archive, whole=True, kind="latents")


def test_nothing_of_it_is_imported_by_what_does_not_need_it() -> None:
    imports = "import sys, codec, tasks.compress.runs, tasks.restore.restore"
    code = f"{imports}; print({{'tasks.learning', 'datasets'}} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ))
    assert ran.stdout.strip() == "set()"
