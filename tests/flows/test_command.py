"""Flows as commands: their own parameter names, one-line errors, honest exit codes, no telemetry."""

import gc
import os
import signal
import sqlite3
import subprocess
import sys
import traceback
import weakref
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from prefect import Flow
from prefect.runtime import deployment
from prefect.settings import get_current_settings
from typer import rich_utils

from codec.errors import SettingsError
from flows import command, compress_archive, restore_archive
from tasks.archive import layout
from tests.support import fake_codec
from tests.support.archive_builder import bundle as fake_bundle
from tests.support.archive_builder import folder, png
from tests.support.deployments import processes, until
from tests.support.prefect_server import Server

ROOT = Path(__file__).parents[2]


def python(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd or ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "NO_COLOR": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("flow", [compress_archive.compress_archive, restore_archive.restore_archive])
def test_help_names_every_parameter_of_the_flow_and_says_what_it_is(
    flow: Flow[..., Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["flow", "--help"])
    monkeypatch.setattr(command, "_watch_signals", lambda: None)  # which stay as pytest has set them
    monkeypatch.setattr(rich_utils, "MAX_WIDTH", 200)
    with pytest.raises(SystemExit, match="0"):
        command.run(flow, lambda _: command.DONE, logs=True)
    shown = capsys.readouterr().out
    for name, about in flow.parameters.properties.items():
        assert (name if name in ("source", "archive", "target") else f"--{name.replace('_', '-')}") in shown
        assert about["description"][:20] in shown


def test_a_users_mistake_is_one_line_and_exit_code_1(server: Server, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with (
        closing(sqlite3.connect(server.database)) as made,
        closing(sqlite3.connect(home / server.database.name)) as copy,
    ):
        made.backup(copy)  # what the temporary server would else take seconds to make
    run = python("-m", "flows.compress_archive", "nowhere", "archive", cwd=tmp_path, PREFECT_HOME=str(home))
    assert run.returncode == command.FATAL
    assert run.stderr.strip().splitlines() == [f"error: {tmp_path}/nowhere: source folder does not exist"]
    assert run.stdout == ""


class Held:
    """An object that a frame of an error's traceback holds."""


def failing(seen: list[weakref.ref[Held]]) -> SettingsError:
    """An error that was raised while another was handled."""

    def inner() -> None:
        held = Held()
        seen.append(weakref.ref(held))
        raise OSError("inner")

    try:
        try:
            inner()
        except OSError:
            raise SettingsError("outer") from None
    except SettingsError as error:
        return error


def test_an_error_that_prefect_keeps_holds_nothing_of_its_causes_either() -> None:
    seen: list[weakref.ref[Held]] = []
    error = failing(seen)
    traceback.clear_frames(error.__traceback__)
    gc.collect()
    assert seen[0]() is not None, "its own frames are not all"
    command._let_go(error)
    gc.collect()
    assert seen[0]() is None
    assert str(error) == "outer"


def test_a_temporary_server_may_take_its_time_to_start() -> None:
    assert get_current_settings().server.ephemeral.startup_timeout_seconds >= 300


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_stops_soon_and_commits_nothing(
    tmp_path: Path, prefect_server: str, number: signal.Signals
) -> None:
    source = folder(tmp_path / "s", {"hangs.png": png(1, fault=fake_codec.HANG)})
    code = f"""
from functools import partial
from flows import command, compress_archive
compress_archive.Models = partial(compress_archive.Models, codec={fake_codec.FAKE!r})
command.run(compress_archive.compress_archive, compress_archive.show)
"""
    places = [str(source), str(tmp_path / "a"), "--bundle", str(fake_bundle(tmp_path / "bundle")), "--metrics", "none"]
    flow = subprocess.Popen(
        [sys.executable, "-c", code, *places],
        cwd=ROOT,
        env={**os.environ, "PREFECT_API_URL": prefect_server},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    opened = tmp_path / "a" / layout.record(2)
    until(lambda: opened.exists() and processes(tmp_path / "a"), "the picture's process")  # which never answers
    os.killpg(flow.pid, number) if number == signal.SIGINT else os.kill(flow.pid, number)
    _, said = flow.communicate(timeout=600)
    assert flow.returncode == 128 + number
    assert "interrupted; run the same command to resume" in said
    assert "Traceback" not in said
    assert opened.exists()
    assert not list((tmp_path / "a").rglob("part-*"))


def test_an_unknown_option_is_refused_without_starting_anything() -> None:
    run = python("-m", "flows.compress_archive", "a", "b", "--qualty", "3")
    assert run.returncode == 2
    assert "--qualty" in run.stderr


def test_telemetry_is_off_before_prefect_is_imported() -> None:
    code = """
import os, sys, flows
assert "prefect" not in sys.modules
assert os.environ["DO_NOT_TRACK"] == "1"
import flows.compress_archive
from prefect.settings import get_current_settings
assert not get_current_settings().server.analytics_enabled
"""
    environment = {name: value for name, value in os.environ.items() if "TRACK" not in name and "PREFECT" not in name}
    run = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, check=False)
    assert run.returncode == 0, run.stderr


def test_an_archive_is_made_and_restored_with_prefect_and_torch_left_out(tmp_path: Path) -> None:
    code = """
import sys
sys.modules["prefect"] = None
from pathlib import Path
from tasks.processes.codec_process import Models
from tasks.restore.restore import restore
from tests.support.fake_codec import FAKE
from tests.support.archive_builder import bundle, folder, pack, png, rows
home = Path(sys.argv[1])
pack(folder(home / "s", {"a.png": png(1)}), home / "a", bundle(home / "b"))
assert rows(home / "a")[0]["verified"]
assert restore(str(home / "a"), str(home / "out"), models=Models("", threads=1, codec=FAKE)).images == 1
assert "torch" not in sys.modules and "diffusers" not in sys.modules
"""
    run = python("-c", code, str(tmp_path))
    assert run.returncode == 0, run.stderr


def test_relative_places_count_from_here_and_are_refused_in_a_deployment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert command.resolved("photos") == str(Path.cwd() / "photos")
    assert command.resolved("/data/photos") == "/data/photos"
    assert command.resolved("s3://bucket/photos") == "s3://bucket/photos"
    monkeypatch.setattr(deployment, "id", "a-deployment", raising=False)
    with pytest.raises(SettingsError, match="give a full path or a URL"):
        command.resolved("photos")
    assert command.resolved("s3://bucket/photos") == "s3://bucket/photos"


def test_no_progress_bar_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with command.bar("working") as progress:
        progress.begin(3)
        progress.advance(1)
    assert capsys.readouterr() == ("", "")


def test_a_table_shows_numbers_and_gaps(capsys: pytest.CaptureFixture[str]) -> None:
    command.show_table("totals", {"source_bytes": 12, "bpp": 0.123456, "lpips": None})
    out = capsys.readouterr().out
    assert "source bytes" in out
    assert "0.1235" in out
    assert "-" in out
