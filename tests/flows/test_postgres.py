"""Prefect on PostgreSQL, as compose and Kubernetes run it: deployments, runs that wait, a schedule, a cancel."""

import datetime
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling

from tests.support.codecless_archives import make
from tests.support.deployments import deploy, until
from tests.support.prefect_server import Server, free_port, serving
from tests.support.waiting import end

pytestmark = pytest.mark.proof

FOUND = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
"""Where Debian puts it."""
NAME = "audit-archive/audit-archive"


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """A PostgreSQL server of its own; its URL for Prefect. It refuses to run as root."""
    if not FOUND:
        pytest.skip("no PostgreSQL here: apt-get install postgresql")
    as_user: list[str] = []
    home = Path(tempfile.mkdtemp(prefix="fdcodec-postgres-"))
    if os.getuid() == 0:
        try:
            user = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
        os.chown(home, user.pw_uid, user.pw_gid)
        as_user = ["runuser", "-u", "postgres", "--"]
    programs, port = FOUND[-1].parent, str(free_port())
    initialize = [*as_user, str(programs / "initdb"), "-D", f"{home}/data", "-U", "prefect", "-A", "trust"]
    subprocess.run(initialize, check=True, capture_output=True, cwd=home)
    options = ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-p", port, "-k", str(home)]
    with (home / "log").open("w") as log:
        server = subprocess.Popen(
            [*as_user, str(programs / "postgres"), "-D", f"{home}/data", *options], stdout=log, stderr=log, cwd=home
        )
    try:
        ask = [str(programs / "pg_isready"), "-h", "127.0.0.1", "-p", port]
        until(lambda: subprocess.run(ask, capture_output=True, check=False).returncode == 0, "PostgreSQL")
        create = [str(programs / "createdb"), "-h", "127.0.0.1", "-p", port, "-U", "prefect", "prefect"]
        subprocess.run(create, check=True, capture_output=True, cwd=home)
        yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/prefect"
    finally:
        end(server)
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def on_postgres(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Prefect's server on it."""
    home = tmp_path_factory.mktemp("prefect-postgres")
    with serving(home, PREFECT_SERVER_DATABASE_CONNECTION_URL=database) as server:
        yield server


@pytest.fixture
def asked(on_postgres: Server) -> Iterator[SyncPrefectClient]:
    with temporary_settings({PREFECT_API_URL: on_postgres.url}), get_client(sync_client=True) as client:
        yield client


def test_runs_wait_for_each_other_a_schedule_fires_and_a_run_is_cancelled(
    on_postgres: Server, asked: SyncPrefectClient, tmp_path: Path
) -> None:
    make(tmp_path / "a", [{"a": b"bytes"}])
    places = {"FDC_SOURCE": str(tmp_path / "photos"), "FDC_ARCHIVE": str(tmp_path / "a")}
    run = deploy(on_postgres, tmp_path, **places)
    assert run.returncode == 0, run.stdout + run.stderr
    deployment = asked.read_deployment_by_name(NAME)

    def state(run: UUID) -> str:
        return asked.read_flow_run(run).state_name or ""

    start = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "fdcodec-process"]
    with (tmp_path / "worker.log").open("w") as log:
        worker = subprocess.Popen(start, env=on_postgres.environment, stdout=log, stderr=log, cwd=tmp_path)
    try:
        first, second, third = (asked.create_flow_run_from_deployment(deployment.id).id for _ in range(3))
        waiting = until(
            lambda: [run for run in (first, second, third) if state(run) == "AwaitingConcurrencySlot"],
            "runs that wait for the one in work",
        )
        asked.set_flow_run_state(waiting[-1], Cancelling())
        until(lambda: state(waiting[-1]) == "Cancelled", "the cancelled run's end")
        for run_id in {first, second, third} - {waiting[-1]}:
            until(lambda run_id=run_id: state(run_id) == "Completed", "the end of the others")
        every = IntervalSchedule(interval=datetime.timedelta(seconds=10))
        [made] = asked.create_deployment_schedules(deployment.id, [(every, True)], slug="often")
        chosen = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[deployment.id]))

        def scheduled() -> bool:
            runs = asked.read_flow_runs(flow_run_filter=chosen)
            return any(run.auto_scheduled and run.state_name == "Completed" for run in runs)

        until(scheduled, "a run that the schedule started")
        asked.delete_deployment_schedule(deployment.id, made.id)
    finally:
        end(worker)
