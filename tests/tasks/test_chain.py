"""The whole chain on an object store: photos sharded, a codec trained on them, the photos compressed and restored."""

import io
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from PIL import Image

from codec.bundle import Bundle
from codec.containers.writing import encode_png
from tasks import dataset
from tasks.archive.manifest import RunSettings
from tasks.compress.runs import compress
from tasks.processes.codec_process import Models
from tasks.restore.restore import restore
from tasks.storage.store import Store
from tasks.training.process import Training, train
from tests.conftest import synthetic
from tests.support.archive_builder import in_process, rows
from tests.support.fake_s3 import serving


def test_sharded_trained_compressed_and_restored(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving() as address:
        for name, value in {
            "AWS_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "planted-secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": address})
        fsspec.filesystem("s3").mkdir("chain")
        photos = Store("s3://chain/photos")
        for seed in range(3):
            photos.replace(f"day {seed}/{seed}.png", encode_png(synthetic(48, 60, seed)))

        assert dataset.pack("s3://chain/photos", "s3://chain/dataset")["photos"] == 3
        settings: dict[str, Any] = {
            "start": str(bundle.path),
            "stages": {"entropy": {"steps": 2, "batch_size": 2, "crop_size": 32}},
            "evaluation_images": 1,
            "evaluation_qualities": [8.0],
        }
        (tmp_path / "tiny.json").write_text(json.dumps(settings))
        training = Training(["s3://chain/dataset"], str(tmp_path / "tiny.json"), str(tmp_path / "out"))
        trained = train(training, lambda _: None, lambda _: None)

        compressing = RunSettings(quality=8.0, metrics=(), threads=1)
        for source, children in (("s3://chain/photos", nullcontext()), ("s3://chain/dataset", in_process())):
            archive = f"s3://chain/archive-of-{source.rpartition('/')[2]}"
            with children:
                compress(source, archive, compressing, models=Models(str(trained)))
            assert {(row["key"], row["status"], row["verified"]) for row in rows(archive)} == {
                (f"day {seed}/{seed}.png", "compressed", True) for seed in range(3)
            }
        with in_process():
            restored = restore("s3://chain/archive-of-photos", "s3://chain/restored", models=Models("", threads=1))
        assert restored.errors == []
        for seed in range(3):
            with Image.open(io.BytesIO(Store("s3://chain/restored").read(f"day {seed}/{seed}.png"))) as image:
                assert np.asarray(image).shape == (48, 60, 3)
