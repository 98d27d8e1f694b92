"""Deploying to a real server, and following the runs there."""

import atexit
import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
from prefect.states import Cancelling

from flows import outcome
from tests.support import waiting
from tests.support.prefect_server import ROOT, Server
from tests.support.waiting import PATIENCE

INFRA = ROOT / "infra"
PLACES = {"FDC_SOURCE": "/data/photos", "FDC_ARCHIVE": "s3://bucket/archive"}


def deploy(server: Server, where: Path, kind: str = "process", **places: str) -> subprocess.CompletedProcess[str]:
    """Run infra/deploy.sh from a directory."""
    environment = {
        **server.environment,
        **PLACES,
        **places,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    script = ["bash", str(INFRA / "deploy.sh"), kind]
    return subprocess.run(script, cwd=where, env=environment, capture_output=True, text=True, check=False)


def prefect(server: Server, where: Path, *arguments: str) -> str:
    """Run Prefect's command in a directory; returns what it printed."""
    command = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
    run = subprocess.run(command, cwd=where, env=server.environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def started(printed: str) -> UUID:
    """The id of the run that `prefect deployment run` printed."""
    found = re.search(r"UUID: ([0-9a-f-]{36})", printed)
    assert found, printed
    return UUID(found[1])


def until(true: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """Wait until something is true; returns it."""
    return waiting.until(true, what, seconds, every=0.5)  # a busy machine has better to do than to be asked


@cache
def client() -> SyncPrefectClient:
    """The one client of this process: to make one takes longer than to ask."""
    made = get_client(sync_client=True)
    # No `with` can span the tests of a process, so the connections are closed at its end.
    atexit.register(made.__exit__, None, None, None)
    return made.__enter__()


def state(run: UUID) -> str:
    return client().read_flow_run(run).state_name or ""


def ends(run: UUID) -> str:
    """The final state of a run."""
    final = ("Completed", outcome.NAME, "Failed", "Crashed", "Cancelled")

    def final_state() -> str:
        name = state(run)
        return name if name in final else ""

    return str(until(final_state, f"the end of {run}"))


def cancel(run: UUID) -> None:
    client().set_flow_run_state(run, Cancelling())


def processes(place: Path) -> list[int]:
    """The processes whose command line names a place."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        # A process that ended meanwhile, or is another user's, has no command line.
        words = process.info["cmdline"] or ()
        named = any(str(place) in word for word in words)
        # pytest itself may have been started with the place in its options.
        if named and process.pid != os.getpid():
            found.append(process.pid)
    return found


def fired(deployment: UUID) -> list[UUID]:
    """The runs of a deployment that a schedule made and that have begun."""
    chosen = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[deployment]))
    runs = client().read_flow_runs(flow_run_filter=chosen)
    return [run.id for run in runs if run.auto_scheduled and run.state_name in ("Pending", "Running")]


def served() -> set[str]:
    """The deployments that a process serves, without a work pool: FLOW/DEPLOYMENT."""
    found = [each for each in client().read_deployments() if each.work_pool_name is None]
    return {f"{client().read_flow(each.flow_id).name}/{each.name}" for each in found}
