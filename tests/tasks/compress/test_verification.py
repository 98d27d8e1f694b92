"""What is committed was decoded again by a process that has the file and the bundle only: planted faults are caught."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import codec.codec
from codec import BitstreamError, Codec, read_image
from codec.bundle import Bundle
from codec.containers.writing import encode_png
from codec.metrics.quality import psnr
from tasks.archive.manifest import RunSettings
from tasks.archive.tar import Tar
from tasks.compress import shard
from tasks.compress.runs import compress
from tasks.processes.codec_process import Models
from tasks.restore.restore import restore
from tasks.storage.store import Store
from tests.conftest import synthetic
from tests.support.archive_builder import folder, in_process, pack, png, rows
from tests.support.fake_codec import FAKE
from tests.support.faulty_codec import LIES, TALL, WIDE

SETTINGS = RunSettings(quality=8.0, metrics=(), threads=1)


def test_faults_planted_in_a_table_and_in_a_stream_are_caught_and_would_have_passed_unverified(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = {f"{height}.png": encode_png(synthetic(height, width)) for height, width in (TALL, WIDE)}
    source = folder(tmp_path / "s", pictures)
    models = Models(str(bundle.path), codec="tests.support.faulty_codec:Faulty")
    compress(str(source), str(tmp_path / "verified"), SETTINGS, models=models)
    kept = rows(tmp_path / "verified")
    assert [(row["status"], row["reason"]) for row in kept] == [("fallback", "unverified")] * 2

    monkeypatch.setattr(sys, "argv", ["encode_worker"])  # nobody else takes part, so its process is played here
    with in_process():
        compress(str(source), str(tmp_path / "unverified"), replace(SETTINGS, verify=False), models=models)
    codec, store = Codec.load(bundle), Store(str(tmp_path / "unverified"))
    for row in rows(tmp_path / "unverified"):
        assert (row["status"], row["verified"]) == ("compressed", None)
        stored = store.read_range(row["tar"], row["offset"], row["length"])
        right = codec.encode(read_image(source / row["key"]), quality=8.0)
        try:
            assert (codec.symbols(stored) != right.symbols).any()
        except BitstreamError as error:
            assert str(error)


@pytest.mark.parametrize("size", LIES)
def test_a_header_that_says_another_picture_is_caught_though_its_stream_decodes(
    size: tuple[int, int], bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder(tmp_path / "s", {"a.png": encode_png(synthetic(*size))})
    models = Models(str(bundle.path), codec="tests.support.faulty_codec:Lying")
    monkeypatch.setattr(sys, "argv", ["encode_worker"])
    with in_process():
        compress(str(source), str(tmp_path / "verified"), SETTINGS, models=models)
        compress(str(source), str(tmp_path / "unverified"), replace(SETTINGS, verify=False), models=models)
    assert [(row["status"], row["reason"]) for row in rows(tmp_path / "verified")] == [("fallback", "unverified")]
    (row,) = rows(tmp_path / "unverified")
    stored = Store(str(tmp_path / "unverified")).read_range(row["tar"], row["offset"], row["length"])
    right = Codec.load(bundle).encode(read_image(source / "a.png"), quality=8.0)
    assert (Codec.load(bundle).symbols(stored) == right.symbols).all()


@pytest.mark.parametrize("verify", [True, False])
def test_each_stream_is_decoded_once_by_the_verifier_or_else_for_the_metrics(
    verify: bool, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder(tmp_path / "s", {"a.png": encode_png(synthetic(70, 90))})
    decompress, streams = codec.codec.decompress, list[bytes]()

    def seen(model: Any, tables: Any, data: bytes, *rest: Any, **options: Any) -> Any:
        streams.append(data)
        return decompress(model, tables, data, *rest, **options)

    monkeypatch.setattr(codec.codec, "decompress", seen)
    settings = replace(SETTINGS, metrics=("psnr",), verify=verify)
    with in_process():
        compress(str(source), str(tmp_path / "a"), settings, models=Models(str(bundle.path)))
    assert len(streams) == 1
    (row,) = rows(tmp_path / "a")
    stored = Store(str(tmp_path / "a")).read_range(row["tar"], row["offset"], row["length"])
    own = psnr(read_image(source / "a.png").pixels, Codec.load(bundle).decode(stored))
    assert row["psnr_db"] == own


def test_a_wrong_offset_is_caught_and_would_have_passed_unverified(
    tmp_path: Path, fake_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder(tmp_path / "s", {"a.png": png(1)})
    add = Tar.add
    monkeypatch.setattr(Tar, "add", lambda self, name, data: add(self, name, data) + 1)
    monkeypatch.setattr(shard, "_check_offsets", lambda *_: None)
    assert pack(source, tmp_path / "a", fake_bundle).totals["compressed"] == 1
    restored = restore(str(tmp_path / "a"), str(tmp_path / "out"), models=Models("", threads=1, codec=FAKE))
    assert restored.images == 0
    assert "damaged at byte 513" in restored.errors[0]
