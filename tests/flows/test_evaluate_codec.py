"""evaluate-codec: one command makes the whole folder of evidence, goes on where it stopped, and tells of bad files."""

import re
from pathlib import Path

import pytest
from prefect.artifacts import Artifact

from codec import SettingsError, encode_png
from codec.bundle import Bundle
from codec.evaluation.experiments import one_step, quantization_error, timesteps
from flows import command
from flows.evaluate_codec import evaluate_codec, show
from tests.conftest import synthetic
from tests.support.archive_builder import folder

pytestmark = pytest.mark.usefixtures("prefect_server")


def test_one_command_makes_the_evidence(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(one_step, "STEPS", (1, 2))
    for experiment in (one_step, quantization_error, timesteps):
        monkeypatch.setattr(experiment, "QUALITIES", (4.0, 16.0))
    monkeypatch.setattr(timesteps, "TIMESTEPS", (0.0, 40.0))
    photos = {f"kodim0{seed}.png": encode_png(synthetic(161, 170, seed)) for seed in (5, 7)}
    source, output = folder(tmp_path / "pictures", photos), tmp_path / "evidence"
    chosen = {"codec": ["fdcodec", "jpeg"], "bpp": [1.0, 2.0], "quality": [4.0, 16.0], "bundle": str(bundle.path)}
    row = evaluate_codec(str(source), str(output), **chosen, workers=1)
    assert (row["measured"], row["failed"]) == (4, 0) and show(row) == command.DONE
    assert "index.html" in capsys.readouterr().out
    page = (output / "index.html").read_text()
    shown = set(re.findall(r'<img src="([^"]+)"', page))
    assert all((output / place).is_file() for place in shown)
    names = {Path(place).name for place in shown}
    assert names >= {"curves.png", "published.png", "one_step.png", "timesteps.png", "quantization_error.png"}
    assert {"kodim05-full.png", "kodim05-crop.png"} < names
    assert {"report.parquet", "report.md", "curves.svg"} < {path.name for path in output.iterdir()}
    assert Artifact.get("evaluate-codec") is not None
    (source / "text.jpg").write_text("no picture")
    again = evaluate_codec(str(source), str(output), **chosen, workers=1, experiments=False)
    assert (again["measured"], again["failed"]) == (2, 4) and show(again) == command.FAILED_ROWS


def test_mistakes_stop_the_flow_with_one_line(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="absent is no folder"):
        evaluate_codec(str(tmp_path / "absent"), str(tmp_path / "out"))
    (tmp_path / "pictures").mkdir()
    with pytest.raises(SettingsError, match="no codec 'gif'"):
        evaluate_codec(str(tmp_path / "pictures"), str(tmp_path / "out"), codec=["gif"])
