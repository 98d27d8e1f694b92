"""What goes wrong around a run is one line, soon: servers that are gone, schedulers, terminals, signals, retries."""

import io
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import dask.config
import pytest
from prefect import flow, task
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from typer.testing import CliRunner

from codec.errors import SettingsError
from codec.support import processors
from flows import LOGGERS, audit_archive, cluster, command, mapping, study
from tests.support.codecless_archives import make
from tests.support.deployments import client, until
from tests.support.galleries import evaluation
from tests.support.prefect_server import ROOT, Server, free_port


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "NO_COLOR": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_prefect_server_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}/api"
    run = python("-m", "flows.audit_archive", str(tmp_path), PREFECT_API_URL=url, PREFECT_HOME=str(tmp_path / "home"))
    assert run.returncode == command.FATAL
    advice = "start it, or unset PREFECT_API_URL"
    assert run.stderr.splitlines() == [f"error: Prefect's server does not answer ({url}): {advice}"]


@pytest.mark.timing
def test_a_scheduler_that_is_not_there_is_told_within_seconds(prefect_server: str) -> None:
    began = time.monotonic()
    with pytest.raises(SettingsError, match="cannot connect to a Dask scheduler"):
        cluster._workers_at(f"tcp://127.0.0.1:{free_port()}")
    assert cluster.CONNECT_SECONDS <= 5
    assert time.monotonic() - began < 5 * cluster.CONNECT_SECONDS, "on a machine however busy"


def test_a_scheduler_that_is_killed_is_one_line(prefect_server: str, tmp_path: Path) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    port = address.rpartition(":")[2]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    options = ["--host", "127.0.0.1", "--port", port, "--dashboard-address", "127.0.0.1:0"]
    start: list[str] = [sys.executable, "-m", "distributed.cli.dask_scheduler", *options]
    scheduler: Any = subprocess.Popen(start, env=environment, **quiet)
    start = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--no-nanny", "--no-dashboard"]
    worker: Any = subprocess.Popen([*start, "--death-timeout", "60"], env=environment, **quiet)
    begun = tmp_path / "begun"

    @task
    def hang() -> None:
        begun.touch()
        time.sleep(600)

    @flow
    def hanging() -> None:
        hang.submit().result()

    def kill() -> None:
        until(begun.exists, "the task's start")
        scheduler.kill()

    try:
        until(lambda: _answers(address), "the worker")
        threading.Thread(target=kill, daemon=True).start()
        impatient = dask.config.set({"distributed.comm.timeouts.connect": "1s"})
        with (
            impatient,
            pytest.raises(cluster.ClusterError, match=r"^tcp://\S+: the Dask scheduler is gone \(\w+\); run again$"),
            mapping.engine("dask", 0, address=address) as (_, runner),
        ):
            hanging.with_options(task_runner=runner)()
    finally:
        for process in (scheduler, worker):
            process.kill()
            process.wait()


def _answers(address: str) -> bool:
    try:
        return cluster._workers_at(address) > 0
    except SettingsError:
        return False


class Terminal(io.StringIO):
    """A terminal that goes away."""

    gone = False

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self.gone:
            raise OSError(5, "Input/output error")
        return super().write(text)

    def flush(self) -> None:
        self.write("")


def test_a_process_that_loses_its_terminal_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with command.bar("working") as progress:
        progress.begin(3)
        until(terminal.getvalue, "the bar")
        terminal.gone = True
        progress.advance(3)


def test_a_closed_console_is_no_logging_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", True)
    monkeypatch.setattr(command, "_watch_signals", lambda: None)
    monkeypatch.setattr(sys, "argv", ["audit-archive", "--help"])
    with pytest.raises(SystemExit, match="0"):
        command.run(audit_archive.audit_archive, audit_archive.show)
    console = io.StringIO()
    handler = logging.StreamHandler(console)
    console.close()
    handler.handle(logging.makeLogRecord({"msg": "a line"}))
    assert "Logging error" not in capsys.readouterr().err


def test_lines_of_the_plain_functions_are_in_the_run_s_log(prefect_server: str) -> None:
    @flow
    def logging_flow() -> None:
        logging.getLogger(f"{LOGGERS[0]}.processes.child").warning("another takes its place")

    state = logging_flow(return_state=True)
    run = state.state_details.flow_run_id
    assert run is not None
    chosen = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run]))
    until(
        lambda: "another takes its place" in {line.message for line in client().read_logs(log_filter=chosen)},
        "the line in the run's log",
    )


def test_log_lines_appear_in_a_terminal_with_verbose_alone(server: Server, tmp_path: Path) -> None:
    make(tmp_path / "a", [{"a": b"bytes"}])
    environment = {name: value for name, value in server.environment.items() if name.startswith("PREFECT_")}
    told = f"auditing {tmp_path}/a"
    loud = python("-m", "flows.audit_archive", str(tmp_path / "a"), "--verbose", **environment)
    assert (loud.returncode, told in loud.stdout + loud.stderr) == (command.DONE, True)
    quiet = python("-m", "flows.audit_archive", str(tmp_path / "a"), **environment)
    assert (quiet.returncode, quiet.stderr) == (command.DONE, "")
    assert told not in quiet.stdout


def test_options_that_a_study_would_ignore_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study.uvicorn, "run", lambda *_, **__: None)
    place, kept = str(evaluation(tmp_path / "e", images=2)), str(tmp_path / "study")
    serve = ["serve", "--study", kept, "--participant", "ada"]
    assert CliRunner().invoke(study.app, [*serve, place]).exit_code == 0
    ignored = CliRunner().invoke(study.app, [*serve, place, "--comparisons", "3", "--method", "ours"])
    assert isinstance(ignored.exception, SettingsError)
    assert str(ignored.exception).endswith("leave out PLACE, --method, --comparisons")
    assert CliRunner().invoke(study.app, serve).exit_code == 0, "the study itself goes on"


def test_workers_are_as_many_as_processors_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processors, "available", lambda: 6)
    assert mapping.workers(0, 2) == 3
    assert mapping.workers(0, 8) == 1
    assert mapping.workers(5, 2) == 5
    assert mapping.workers(0, 1, "cuda") == mapping.WORKERS_OF_A_GPU < mapping.workers(0, 1)
    assert mapping.workers(9, 1, "cuda") == 9


def test_signals_are_watched_whoever_handles_them() -> None:
    """Prefect puts handlers of its own in place while a flow runs."""
    code = """
import os, signal, time
from flows import command
command.SECONDS_TO_STOP = 0.1
command._watch_signals()
signal.signal(signal.SIGTERM, lambda *_: None)
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(60)
"""
    run = python("-c", code)
    assert run.returncode == 128 + signal.SIGTERM
    assert run.stderr == "interrupted; run the same command to resume\n"
