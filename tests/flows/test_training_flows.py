"""shard-images and train-codec as flows: the same results as the plain functions, artifacts, and one-line errors."""

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from prefect.artifacts import Artifact

from codec import Codec, SettingsError
from codec.bundle import Bundle
from flows import command, shard_images, train_codec
from tasks.dataset import pack
from tasks.training.process import TrainingError
from tests.conftest import synthetic
from tests.support.archive_builder import folder, png
from tests.tasks.test_dataset import SMALL, state

pytestmark = pytest.mark.usefixtures("prefect_server")


def test_shard_images_packs_what_the_plain_function_packs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = folder(tmp_path / "s", {f"{name}.png": png(seed) for seed, name in enumerate("abcd")} | {"e.jpg": b"no"})
    row = shard_images.shard_images(str(source), str(tmp_path / "flow"), max_images_per_shard=3, workers=2)
    assert (row["photos"], row["failed"], row["tars"]) == (4, 1, 2)
    assert shard_images.show(row) == command.FAILED_ROWS
    assert "e.jpg: " in capsys.readouterr().out
    pack(str(source), str(tmp_path / "plain"), SMALL)
    tars = [{name for name in state(tmp_path / place) if name.endswith(".tar")} for place in ("flow", "plain")]
    assert tars[0] == tars[1]
    assert Artifact.get("shard-images") is not None


def test_train_codec_ends_in_a_bundle_and_an_artifact_of_what_it_measured(
    tmp_path: Path, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    from codec.containers.writing import encode_png

    photos = {f"{seed}.png": encode_png(synthetic(48, 60, seed)) for seed in range(3)}
    shard_images.shard_images(str(folder(tmp_path / "s", photos)), str(tmp_path / "tars"))
    settings: dict[str, Any] = {
        "start": str(bundle.path),
        "stages": {"entropy": {"steps": 2, "batch_size": 2, "crop_size": 32}},
        "held_out_seconds": 0.0,
        "evaluation_images": 1,
        "evaluation_qualities": [8.0],
    }
    (tmp_path / "tiny.json").write_text(json.dumps(settings))
    result = train_codec.train_codec(
        [str(tmp_path / "tars")], str(tmp_path / "out"), settings=str(tmp_path / "tiny.json")
    )
    assert Codec.load(result["bundle"]).bundle.config.name == "codec"
    assert '"held_out"' in (tmp_path / "out" / "progress.jsonl").read_text()
    artifact = Artifact.get("train-codec")
    assert artifact is not None
    assert '"bpp"' in str(artifact.data)
    assert train_codec.show(result) == command.DONE
    assert "lambda 8" in capsys.readouterr().out


def test_mistakes_in_training_stop_the_flow_with_one_line(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="settings file not found: nothing"):
        train_codec.train_codec([str(tmp_path)], str(tmp_path / "out"), settings="nothing")
    with pytest.raises(SettingsError, match="no tars here"):
        train_codec.train_codec([str(tmp_path)], str(tmp_path / "out"), settings="demo")
    tarfile.open(tmp_path / "empty.tar", "w").close()
    with pytest.raises(TrainingError, match="no photos in"):
        train_codec.train_codec([str(tmp_path)], str(tmp_path / "out"), settings="demo")
