"""The Kubernetes worker with what infra/kubernetes gives it, against an API that allows what the shipped Role allows.

FDC_KUBERNETES_PYTHON names a Python that has prefect-kubernetes: `bash infra/proof.sh kubernetes` makes one.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment

from tests.infra.test_manifests import INFRA, VERSION, pods, resources, variables
from tests.support.deployments import deploy, until
from tests.support.kubernetes_api import Cluster, playing
from tests.support.prefect_server import Server

pytestmark = [pytest.mark.proof, pytest.mark.usefixtures("prefect_server")]

PYTHON = os.environ.get("FDC_KUBERNETES_PYTHON", "")
PASSWORD = "fdcodec:planted"
NAMED = {"FDC_NAME": "cluster", "FDC_IMAGE": f"registry/fdcodec:{VERSION}"}


@pytest.fixture(autouse=True, scope="module")
def deployed(server: Server, tmp_path_factory: pytest.TempPathFactory) -> None:
    if not PYTHON:
        pytest.skip("no prefect-kubernetes here: bash infra/proof.sh kubernetes")
    run = deploy(server, tmp_path_factory.mktemp("elsewhere"), "kubernetes", **NAMED)
    assert run.returncode == 0, run.stdout + run.stderr


def shipped_role() -> dict[str, Any]:
    (role,) = [each for each in resources() if each["kind"] == "Role"]
    return dict(role)


def without(resource: str, verb: str) -> dict[str, Any]:
    """The shipped Role with a right taken away."""
    rules = []
    for rule in shipped_role()["rules"]:
        if resource in rule["resources"]:
            rules.append({**rule, "resources": [resource], "verbs": [each for each in rule["verbs"] if each != verb]})
            rule = {**rule, "resources": [each for each in rule["resources"] if each != resource]}
        rules.append(rule)
    return {**shipped_role(), "rules": rules}


@contextmanager
def worker(server: Server, role: dict[str, Any], where: Path, **other: str) -> Iterator[Cluster]:
    """A worker started as in the manifest, except for the addresses of server and cluster, and for secrets."""
    given = variables(dict(pods())["fdcodec-worker"])
    own = {name: value for name, value in given.items() if isinstance(value, str) and name != "PREFECT_API_URL"} | other
    with playing(role, where / "kubeconfig") as cluster, (where / "worker.log").open("w") as log:
        environment = server.environment | own | {"KUBECONFIG": str(where / "kubeconfig"), "PYTHONPATH": ""}
        environment["PREFECT_API_AUTH_STRING"] = PASSWORD  # for which the server of the tests does not ask
        start = [PYTHON, "-m", "prefect", "worker", "start", "--pool", "fdcodec-kubernetes"]
        process = subprocess.Popen(start, env=environment, stdout=log, stderr=log, cwd=where)
        try:
            yield cluster
            assert process.poll() is None, (where / "worker.log").read_text()
        finally:
            process.kill()
            process.wait()


def asked_for() -> FlowRun:
    run = run_deployment("shard-images/shard-images-cluster", timeout=0)
    assert isinstance(run, FlowRun)
    return run


def test_with_the_shipped_manifests_the_observer_lives_and_a_job_is_created(server: Server, tmp_path: Path) -> None:
    with worker(server, shipped_role(), tmp_path) as cluster:
        watched = {("fdcodec", "jobs", "watch"), ("fdcodec", "pods", "watch")}
        until(lambda: watched <= set(cluster.watched), "the observer's watching")
        run = asked_for()
        until(lambda: cluster.jobs, "the job of the run")
        assert cluster.refused == []
    (job,) = cluster.jobs
    assert job["metadata"]["namespace"] == "fdcodec"
    assert job["metadata"]["labels"]["prefect.io/flow-run-id"] == str(run.id)
    spec = job["spec"]["template"]["spec"]
    assert spec["serviceAccountName"] == "fdcodec-run" and spec["securityContext"]["runAsNonRoot"] is True
    (container,) = spec["containers"]
    assert container["image"] == NAMED["FDC_IMAGE"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "0"
    assert PASSWORD not in json.dumps(job)
    password = {each["name"]: each for each in container["env"]}["PREFECT_API_AUTH_STRING"]
    assert password["valueFrom"]["secretKeyRef"] == {"name": "prefect", "key": "api-auth"}


@pytest.mark.parametrize(("resource", "verb"), [("jobs", "watch"), ("pods", "watch"), ("pods", "list")])
def test_without_a_right_of_the_role_the_observer_is_refused(
    server: Server, tmp_path: Path, resource: str, verb: str
) -> None:
    with worker(server, without(resource, verb), tmp_path) as cluster:
        until(lambda: ("fdcodec", resource, verb) in cluster.refused, "a refusal")


def test_without_the_right_to_create_jobs_none_is_created(server: Server, tmp_path: Path) -> None:
    with worker(server, without("jobs", "create"), tmp_path) as cluster:
        asked_for()
        until(lambda: ("fdcodec", "jobs", "create") in cluster.refused, "a refusal")
        assert cluster.jobs == []


def test_without_the_namespaces_of_the_manifest_the_observer_asks_for_the_cluster_and_is_refused(
    server: Server, tmp_path: Path
) -> None:
    empty = {"PREFECT_INTEGRATIONS_KUBERNETES_OBSERVER_NAMESPACES": ""}
    with worker(server, shipped_role(), tmp_path, **empty) as cluster:
        until(lambda: {("", "jobs", "list"), ("", "pods", "list")} & set(cluster.refused), "a refusal")


def test_the_pool_of_the_cluster_is_made_of_the_shipped_template() -> None:
    template = yaml.safe_load((INFRA / "pools" / "kubernetes.yaml").read_text())
    assert template["variables"]["properties"]["namespace"]["default"] == shipped_role()["metadata"]["namespace"]
