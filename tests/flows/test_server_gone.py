"""Prefect's server dies, or a run is told to end or killed: nothing is lost, and a second start finishes it."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast
from uuid import UUID, uuid4

import psutil
import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.client.schemas.objects import State, StateType
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.workers.process import ProcessWorker

from flows import command
from flows.progress import INTERRUPTED
from tasks.archive import layout
from tests.support import archive_builder
from tests.support.archive_builder import SMALL, folder, pack, png, snapshot
from tests.support.deployments import INFRA, until
from tests.support.prefect_server import ROOT, Server, free_port, serving

PICTURES = 6
TEMPLATE = ProcessWorker.get_default_base_job_template()
SETTINGS = replace(SMALL, max_images_per_shard=2)
OPTIONS = (
    "--quality",
    "4",
    "--max-images-per-shard",
    "2",
    "--image-timeout",
    "600",
    "--metrics",
    "none",
    "--threads",
    "1",
)


@dataclass(frozen=True)
class Places:
    """The places of a compression that stops at its gate."""

    home: Path
    source: Path
    archive: Path
    bundle: Path

    def start(self, server: Server, retries: int = 1) -> "subprocess.Popen[str]":
        """The command, for a server, which it asks again so often when it is gone."""
        where = [str(self.source), str(self.archive), "--bundle", str(self.bundle), "--workers", "1"]
        return subprocess.Popen(
            [sys.executable, "-m", "tests.support.gated_flow", *where, *OPTIONS],
            cwd=ROOT,
            env=server.environment | {"GATE": str(self.home), "PREFECT_CLIENT_MAX_RETRIES": str(retries)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def reached(self) -> bool:
        return (self.home / "reached").exists()

    def check(self) -> None:
        """The archive is that of an undisturbed run."""
        pack(self.source, self.home / "undisturbed" / "a", self.bundle, SETTINGS)
        assert snapshot(self.archive) == snapshot(self.home / "undisturbed" / "a")

    def open(self) -> None:
        (self.home / "open").touch()


@pytest.fixture
def places(tmp_path: Path) -> Places:
    source = folder(tmp_path / "s", {f"{number}.png": png(number) for number in range(PICTURES)})
    return Places(tmp_path, source, tmp_path / "archive" / "a", archive_builder.bundle(tmp_path / "bundle"))


@pytest.fixture
def home(tmp_path: Path, made_database: Path) -> Path:
    """A server's folder, with a database."""
    home = tmp_path / "prefect"
    home.mkdir()
    shutil.copy(made_database, home / "prefect.db")
    return home


@pytest.mark.proof
def test_a_server_that_dies_while_a_command_runs_loses_nothing(places: Places, home: Path) -> None:
    port = free_port()
    with serving(home, port) as server:
        run = places.start(server)
        until(places.reached, "the second shard")
        server.process.kill()
        server.process.wait()
        places.open()
        _, said = run.communicate()
    assert run.returncode == command.FATAL
    advice = "start it, or unset PREFECT_API_URL"
    assert said.splitlines() == [f"error: Prefect's server does not answer ({server.url}): {advice}"]
    assert (places.archive / layout.part(1, 0)).exists(), "what was committed stays"
    with serving(home, port) as server:
        printed, said = places.start(server).communicate()
    assert said == ""
    assert "to look at" in printed
    places.check()


@pytest.mark.proof
def test_a_server_that_comes_back_is_waited_for(places: Places, home: Path) -> None:
    port = free_port()
    with serving(home, port) as server:
        run = places.start(server, retries=10)
        until(places.reached, "the second shard")
        server.process.kill()
        server.process.wait()
    places.open()
    until(lambda: (places.archive / layout.part(1, 2)).exists(), "the last shard, with no server")
    with serving(home, port):
        printed, said = run.communicate()
    assert (run.returncode, said) == (command.DONE, "")
    assert "to look at" in printed
    places.check()


@contextmanager
def deployed(server: Server, places: Places) -> Iterator[tuple[UUID, int]]:
    """The gated flow, deployed as infra/deploy.sh would, and a worker: the id of the deployment and of the process."""
    process = yaml.safe_load((INFRA / "prefect.yaml").read_text())["definitions"]["pools"]["process"]
    environment = process["job_variables"]["env"] | {"GATE": str(places.home), "FDC_S3_BLOCK": ""}
    parameters = {"source": str(places.source), "archive": str(places.archive), "bundle": str(places.bundle)}
    parameters |= {"workers": 1, "quality": 4.0, "max_images_per_shard": 2, "image_timeout": 600.0}  # type: ignore[dict-item]
    with temporary_settings({PREFECT_API_URL: server.url}), get_client(sync_client=True) as asked:
        pool = f"gated-{uuid4().hex[:8]}"
        asked.create_work_pool(WorkPoolCreate(name=pool, type="process", base_job_template=TEMPLATE))
        made = asked.create_deployment(
            flow_id=asked.create_flow_from_name("compress-archive"),
            name=pool,
            work_pool_name=pool,
            entrypoint="tests.support.gated_flow.compress_archive",
            pull_steps=[],
            parameters=parameters | {"metrics": ["none"], "threads": 1},
            job_variables={"env": environment},
        )
        start = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool]
        with (places.home / "worker.log").open("w") as log:
            worker = subprocess.Popen(start, cwd=places.home, env=server.environment, stdout=log, stderr=log)
        try:
            yield made, worker.pid
        finally:
            for child in psutil.Process(worker.pid).children(recursive=True) if worker.poll() is None else ():
                with suppress(psutil.NoSuchProcess):
                    child.kill()
            worker.kill()
            worker.wait()


def at_the_gate(server: Server, places: Places, deployment: UUID) -> UUID:
    """A run of a deployment that has come to its gate."""
    with temporary_settings({PREFECT_API_URL: server.url}), get_client(sync_client=True) as asked:
        run = asked.create_flow_run_from_deployment(deployment)
    until(places.reached, "the second shard")
    return run.id


def ended(server: Server, run: UUID) -> State:
    """The final state of a run."""
    with temporary_settings({PREFECT_API_URL: server.url}), get_client(sync_client=True) as asked:

        def final() -> State | None:
            state = asked.read_flow_run(run).state
            return state if state is not None and state.is_final() else None

        return cast(State, until(final, "the end of the run"))


def engine(worker: int) -> psutil.Process:
    """The process in which a worker has the flow."""
    found = [each for each in psutil.Process(worker).children(recursive=True) if "prefect.engine" in each.cmdline()]
    assert len(found) == 1, [each.cmdline() for each in psutil.Process(worker).children(recursive=True)]
    return found[0]


def logged(server: Server, run: UUID) -> set[str]:
    with temporary_settings({PREFECT_API_URL: server.url}), get_client(sync_client=True) as asked:
        chosen = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run]))
        return {line.message for line in asked.read_logs(log_filter=chosen)}


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, *(pytest.param(each, marks=pytest.mark.proof) for each in (signal.SIGINT, signal.SIGKILL))],
)
def test_a_deployed_run_that_is_ended_is_marked_crashed_and_the_next_one_goes_on(
    server: Server, places: Places, number: signal.Signals
) -> None:
    with deployed(server, places) as (deployment, worker):
        run = at_the_gate(server, places, deployment)
        engine(worker).send_signal(number)
        assert ended(server, run).type == StateType.CRASHED
        if number != signal.SIGKILL:
            until(lambda: INTERRUPTED in logged(server, run), "the line that says so")
        assert (places.archive / layout.part(1, 0)).exists() and not (places.archive / layout.seal(1)).exists()
        places.open()
        again = at_the_gate(server, places, deployment)
        assert ended(server, again).type == StateType.COMPLETED
    places.check()


@pytest.mark.proof
def test_a_server_that_dies_under_a_deployed_run_loses_nothing(places: Places, home: Path) -> None:
    port = free_port()
    with serving(home, port) as server, deployed(server, places) as (deployment, worker):
        run = at_the_gate(server, places, deployment)
        server.process.kill()
        server.process.wait()
        places.open()
        until(lambda: (places.archive / layout.part(1, 2)).exists(), "the last shard, with no server")
        with serving(home, port):
            assert ended(server, run).is_final()
            again = at_the_gate(server, places, deployment)
            assert ended(server, again).type == StateType.COMPLETED, "by the same worker"
            assert psutil.pid_exists(worker)
    places.check()
