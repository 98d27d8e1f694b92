"""Deployments: they carry their flows' names, deploy from any directory, and refuse places that depend on one."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL

from tests.tasks.pictures import folder, png

pytestmark = pytest.mark.usefixtures("prefect_server")

ROOT = Path(__file__).parents[2]
NAMES = {"shard-images", "train-codec", "compress-archive", "restore-archive", "evaluate-codec"}


def prefect(where: Path, *arguments: str) -> str:
    """Run Prefect's command in a directory that is not the repository's; returns what it printed."""
    environment = {
        **os.environ,
        "PREFECT_API_URL": PREFECT_API_URL.value() or "",
        "FDC_SOURCE": "/data/photos",
        "FDC_ARCHIVE": "s3://bucket/archive",
        "COLUMNS": "200",
    }
    command = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
    run = subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, timeout=180, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout + run.stderr


@pytest.fixture(scope="module")
def deployed(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An unrelated directory, from which everything was deployed as infra/prefect.yaml says."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    prefect(elsewhere, "work-pool", "create", "fdcodec", "--type", "process")
    prefect(elsewhere, "deploy", "--all", "--prefect-file", str(ROOT / "infra" / "prefect.yaml"))
    yield elsewhere
    prefect(elsewhere, "work-pool", "delete", "fdcodec")


def test_every_deployment_has_its_flows_name_and_no_directory(deployed: Path) -> None:
    with get_client(sync_client=True) as client:
        deployments = {deployment.name: deployment for deployment in client.read_deployments()}
        flows = {name: client.read_flow(deployment.flow_id).name for name, deployment in deployments.items()}
    assert flows == {name: name for name in NAMES}
    for name, deployment in deployments.items():
        module = name.replace("-", "_")
        assert deployment.entrypoint == f"flows.{module}.{module}"
        assert (deployment.path, deployment.pull_steps) == (None, [])
    nightly = deployments["compress-archive"]
    assert nightly.parameters == {"source": "/data/photos", "archive": "s3://bucket/archive"}
    assert [(schedule.slug, schedule.active) for schedule in nightly.schedules] == [("nightly", True)]
    assert nightly.global_concurrency_limit is not None
    assert nightly.global_concurrency_limit.limit == 1


def test_a_worker_runs_a_deployment_and_a_relative_place_fails_it(deployed: Path, tmp_path: Path) -> None:
    folder(tmp_path / "photos", {"a.png": png(1)})
    run = ("deployment", "run", "shard-images/shard-images")
    prefect(deployed, *run, "-p", f"source={tmp_path}/photos", "-p", f"dataset={tmp_path}/dataset")
    prefect(deployed, *run, "-p", f"source={tmp_path}/photos", "-p", "dataset=dataset")
    printed = prefect(deployed, "worker", "start", "--pool", "fdcodec", "--run-once")
    assert (tmp_path / "dataset" / "manifest.parquet").is_file()
    assert "'dataset' is relative, and a deployment runs anywhere: give a full path or a URL" in printed
    assert not (deployed / "dataset").exists()
