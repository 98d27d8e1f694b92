"""evaluate-codec: one command makes the whole folder of evidence, goes on where it stopped, and tells of bad files."""

import re
import tempfile
from pathlib import Path

import fsspec
import pytest
from prefect.artifacts import Artifact

from codec import SettingsError, encode_png
from codec.bundle import Bundle
from codec.evaluation.experiments import one_step, quantization_error, timesteps
from codec.evaluation.runner import read_rows
from flows import command
from flows.evaluate_codec import evaluate_codec, show
from tasks import evaluation
from tasks.progress import SILENT
from tasks.storage.store import Store
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


def test_an_evaluation_at_a_url_goes_on_from_what_another_machine_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec.filesystem("memory").store.clear()
    source, output = "memory://bucket/pictures", "memory://bucket/evidence"
    for seed in (5, 7):
        Store(source).publish(f"kodim0{seed}.png", encode_png(synthetic(161, 170, seed)))
    chosen = {"codec": ["jpeg"], "bpp": [1.0], "workers": 1, "experiments": False}
    for measured in (2, 0):
        (tmp_path / str(measured)).mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / str(measured)))  # each time another machine
        row = evaluate_codec(source, output, **chosen)
        assert (row["measured"], row["failed"], row["page"]) == (measured, 0, f"{output}/index.html")
    stored = {item.name for item in Store(output).list()}
    assert {"index.html", "report.parquet", "rows/jpeg/kodim05.png.parquet"} < stored
    for row in read_rows([tmp_path / "0" / name for name in local_rows(tmp_path / "0")]):
        assert Store(output).exists(f"{row['picture']}")
    monkeypatch.setattr(evaluation, "MOST_COPIED", 1)
    with pytest.raises(SettingsError, match="more than 1 objects; copy a sample of them to another folder"):
        evaluate_codec(source, output, **chosen)


def local_rows(folder: Path) -> list[Path]:
    found = sorted(folder.glob("fdcodec-evaluation-*/rows/**/*.parquet"))
    assert found
    return found


def test_a_row_is_stored_after_the_picture_that_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.filesystem("memory").store.clear()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(evaluation, "SEND_SECONDS", 0.0)
    sent: list[str] = []
    replace = Store.replace

    def noted(store: Store, name: str, content: bytes) -> None:
        sent.append(name)
        replace(store, name, content)

    monkeypatch.setattr(Store, "replace", noted)
    (tmp_path / "pictures").mkdir()
    with evaluation.as_folders(str(tmp_path / "pictures"), "memory://bucket/evidence") as (_, kept, changed):
        for place in ("rows/jpeg/a.png.parquet", "pictures/jpeg/setting-1/a.png", "z"):
            (kept / place).parent.mkdir(parents=True, exist_ok=True)
            (kept / place).write_bytes(b"x")
        changed.telling(SILENT).advance(1)
        assert sent == ["pictures/jpeg/setting-1/a.png", "z", "rows/jpeg/a.png.parquet"]
        (kept / "report.md").write_text("report")
    assert sent[3:] == ["report.md"], "the end sends what is left, and nothing twice"


def test_mistakes_stop_the_flow_with_one_line(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="absent is not a folder"):
        evaluate_codec(str(tmp_path / "absent"), str(tmp_path / "out"))
    (tmp_path / "pictures").mkdir()
    with pytest.raises(SettingsError, match="no codec 'gif'"):
        evaluate_codec(str(tmp_path / "pictures"), str(tmp_path / "out"), codec=["gif"])
