"""The commands of a study: the page is started, answers become files, and the Elo figure."""

import sys
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image
from typer.testing import CliRunner

from flows import study
from tests.support.galleries import evaluation


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[FastAPI, dict[str, Any]]]:
    """What was to be served, and how."""
    calls: list[tuple[FastAPI, dict[str, Any]]] = []
    monkeypatch.setattr(study.uvicorn, "run", lambda application, **options: calls.append((application, options)))
    return calls


def run(*arguments: str) -> str:
    result = CliRunner().invoke(study.app, arguments)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_study_from_its_start_to_the_elo_figure(tmp_path: Path, served: list[tuple[FastAPI, dict[str, Any]]]) -> None:
    place, folder = str(evaluation(tmp_path / "e", images=2)), str(tmp_path / "study")
    names = ("--participant", "ada", "--participant", "ben")
    assert "http://127.0.0.1:8321/" in run("serve", place, "--study", folder, *names)
    for name in ("ada", "ben"):
        client = TestClient(served[-1][0])
        state = client.post("/api/session", json={"participant": name}).json()
        while state["comparison"]:
            vote = {"participant": name, "comparison": state["comparison"], "choice": "left", "seconds": 1.0}
            state = client.post("/api/answers", json=vote).json()
        assert "participants: ada, ben" in run("serve", "--study", folder)  # goes on without the evaluation
    assert "answers.parquet" in run("export", folder)
    figure = tmp_path / "elo.png"
    table = run("elo", f"{folder}/answers.parquet", "--output", str(figure), "--orders", "200", "--k", "16")
    assert "12 games, 2 participants, 2 images; 200 random orders" in table
    assert "| every game | 16 |" in table
    with Image.open(figure) as image:
        assert image.width > 3 * image.height / 2


def test_the_viewer_is_served_where_it_is_told(tmp_path: Path, served: list[tuple[FastAPI, dict[str, Any]]]) -> None:
    run("serve", str(evaluation(tmp_path / "e", images=1)), "--host", "0.0.0.0", "--port", "99")
    application, options = served[0]
    assert (options["host"], options["port"]) == ("0.0.0.0", 99)
    assert TestClient(application).get("/api/gallery").json()["images"] == 1


def test_an_error_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["study", "elo", str(tmp_path)])
    with pytest.raises(SystemExit) as exit:
        study.main()
    assert exit.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert CliRunner().invoke(study.app, ["serve"]).exit_code == 2
