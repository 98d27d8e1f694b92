"""A run that another runner opened is taken up with a log line."""

import logging
from pathlib import Path

import pytest

from tasks.compress.runs import plan_run
from tasks.processes.codec_process import Models
from tasks.sources.source import open_source
from tests.support.archive_builder import SMALL, folder, png
from tests.support.codecless_archives import make


def test_a_run_that_another_runner_opened_is_a_log_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = make(tmp_path / "a", [{"a": b"bytes"}], seal=False)
    source = open_source(str(folder(tmp_path / "s", {"a.png": png(1)})))
    with caplog.at_level(logging.INFO, "tasks"):
        assert plan_run(source, store, SMALL, Models("")) == 1
    assert f"{store}: run 1 was opened by another runner; using its plan" in caplog.messages
