"""Deployments on a real server with a real worker: run by name and on schedule, one at a time, cancelled, resumed."""

import asyncio
import datetime
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import typer
import yaml
from prefect.artifacts import Artifact
from prefect.blocks.system import Secret
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.deployments import run_deployment
from prefect.settings import PREFECT_API_URL, temporary_settings
from s3fs import S3FileSystem

from codec.bundle import Bundle
from codec.errors import SettingsError
from codec.training.checkpoint import Checkpoint
from flows import command, outcome, prepare_server, serve
from flows.serve import NAMES
from tasks.archive import layout, log, report
from tasks.dataset import pack
from tasks.storage.store import Store
from tests.flows.conftest import holding
from tests.support.archive_builder import folder, png
from tests.support.deployments import (
    INFRA,
    cancel,
    client,
    deploy,
    ends,
    fired,
    prefect,
    processes,
    served,
    started,
    state,
    until,
)
from tests.support.fake_s3 import serving
from tests.support.prefect_server import ROOT, Server, free_port
from tests.support.waiting import end

pytestmark = pytest.mark.usefixtures("prefect_server")

BLOCK = "photos-s3"
SECRETS = {"AWS_ACCESS_KEY_ID": "PLANTED1KEY1ID", "AWS_SECRET_ACCESS_KEY": "planted-secret-key-of-a-block"}
PHOTOS = 18
"""Of a compression that is cancelled: enough that some are left to do."""
KINDS = {"process": "prefect.yaml", "docker": "prefect-docker.yaml", "kubernetes": "prefect-kubernetes.yaml"}


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that has nothing to do with the repository."""
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def deployed(server: Server, elsewhere: Path) -> None:
    """Deploy with infra/deploy.sh on a server that was prepared once before, without object storage."""
    with temporary_settings({PREFECT_API_URL: server.url}):
        Secret(value={}).save(BLOCK)
        asyncio.run(prepare_server.before("process", str(INFRA / "crashed.yaml")))
    run = deploy(server, elsewhere, FDC_S3_BLOCK=BLOCK)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.fixture(scope="module")
def worker(server: Server, deployed: None, elsewhere: Path) -> Iterator[Path]:
    """A worker of the pool; yields the file that it prints to."""
    log = elsewhere.parent / "worker.log"
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "fdcodec-process"]
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=elsewhere, env=server.environment, stdout=output, stderr=output)
    yield log
    end(process)
    for left in processes(elsewhere.parent):  # of a test that failed before it cancelled its run
        psutil.Process(left).kill()


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("FDC_SOURCE", "", "FDC_SOURCE is empty: give a full path or a URL"),
        ("FDC_ARCHIVE", "", "FDC_ARCHIVE is empty: give a full path or a URL"),
        ("FDC_ARCHIVE", "archive", "FDC_ARCHIVE=archive is relative, and a deployment can run on any machine"),
        ("FDC_SOURCE", "://photos", "FDC_SOURCE=://photos is relative"),
        ("PREFECT_API_URL", "", "PREFECT_API_URL is empty: deployments live on a server"),
        ("FDC_S3_BLOCK", "nobodys", "FDC_S3_BLOCK=nobodys: the server has no Secret block of this name"),
    ],
)
def test_empty_and_relative_values_are_refused(
    server: Server, tmp_path: Path, variable: str, value: str, message: str
) -> None:
    run = deploy(server, tmp_path, **{variable: value})
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.startswith(f"error: {message}")


def test_every_flow_of_the_package_is_deployed() -> None:
    runnable = {path.stem for path in (ROOT / "flows").glob("*.py") if "\n@flow(name=" in path.read_text()}
    assert {name.replace("-", "_") for name in NAMES} == runnable - {"mapping"}


@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_without_an_image_containers_are_refused(server: Server, tmp_path: Path, kind: str) -> None:
    run = deploy(server, tmp_path, kind, FDC_IMAGE="")
    assert run.stderr.startswith("error: FDC_IMAGE is empty")


def test_an_unknown_kind_of_pool_is_refused(server: Server, tmp_path: Path) -> None:
    assert "error: no work pool of the kind ecs" in deploy(server, tmp_path, "ecs").stderr


def test_the_variants_deploy_the_same_but_where_it_runs() -> None:
    files = {kind: yaml.safe_load((INFRA / file).read_text()) for kind, file in KINDS.items()}
    pools = {kind: file["definitions"]["pools"][kind] for kind, file in files.items()}
    for kind, file in files.items():
        assert {deployment["name"] for deployment in file["deployments"]} == {
            name + "{{ $FDC_SUFFIX }}" for name in NAMES
        }
        assert all(deployment.pop("work_pool") == pools[kind] for deployment in file["deployments"])
        assert file["deployments"] == files["process"]["deployments"]
        assert pools[kind]["name"] == f"fdcodec-{kind}"
        assert pools[kind]["job_variables"]["env"] == pools["process"]["job_variables"]["env"]
        assert pools[kind]["job_variables"].get("image") == (None if kind == "process" else "{{ $FDC_IMAGE }}")


def test_every_deployment_has_its_flows_name_and_no_directory(deployed: None) -> None:
    found = [
        each for each in client().read_deployments() if each.work_pool_name == "fdcodec-process" and each.name in NAMES
    ]
    flows = {each.name: client().read_flow(each.flow_id).name for each in found}
    assert len(found) == len(NAMES)
    assert flows == {name: name for name in NAMES}
    for deployment in found:
        module = deployment.name.replace("-", "_")
        assert deployment.entrypoint == f"flows.{module}.{module}"
        assert (deployment.path, deployment.pull_steps) == (None, [])
        environment = deployment.job_variables["env"]
        assert (environment["DO_NOT_TRACK"], environment["PREFECT_SERVER_ANALYTICS_ENABLED"]) == ("1", "false")
        assert environment["FDC_S3_BLOCK"] == BLOCK, "its name, and not what it holds"
    nightly = next(deployment for deployment in found if deployment.name == "compress-archive")
    assert nightly.parameters == {"source": "/data/photos", "archive": "s3://bucket/archive"}
    assert [(schedule.slug, schedule.active) for schedule in nightly.schedules] == [("nightly", True)]
    monthly = next(deployment for deployment in found if deployment.name == "audit-archive")
    assert monthly.parameters == {"archive": "s3://bucket/archive"}
    assert [(schedule.slug, schedule.active) for schedule in monthly.schedules] == [("monthly", True)]


def test_vanished_runs_are_noticed_without_false_alarms_by_one_automation(deployed: None) -> None:
    automations = client().read_automations()
    frequency = int(client().read_deployments()[0].job_variables["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
    assert [automation.name for automation in automations] == ["fdcodec-crashed"], "preparing twice makes one"
    trigger: Any = automations[0].trigger
    assert trigger.within >= datetime.timedelta(seconds=10 * frequency)
    assert trigger.for_each == {"prefect.resource.id"}
    assert {
        f"prefect.flow-run.{end}" for end in ("Completed", outcome.NAME, "Failed", "Cancelled", "Crashed")
    } <= trigger.expect - {"prefect.flow-run.heartbeat"}


@pytest.mark.timing
def test_a_training_of_two_processes_is_cancelled_and_goes_on_and_others_wait_for_it(
    server: Server, worker: Path, elsewhere: Path, bundle: Bundle, tmp_path: Path
) -> None:
    photos = {f"{seed}.png": png(seed, 48, 48) for seed in range(4)}
    pack(str(folder(tmp_path / "photos", photos)), str(tmp_path / "tars"))
    entropy = {"steps": 1_000_000, "batch_size": 2, "crop_size": 16}
    settings = {
        "start": str(bundle.path),
        "stages": {"entropy": entropy},
        "checkpoint_every": 1,
        "evaluation_images": 1,
    }
    (tmp_path / "settings.json").write_text(json.dumps(settings | {"evaluation_qualities": [8.0]}))
    two = (INFRA / "accelerate" / "cpu-2.yaml").read_text().replace("29500", str(free_port()))
    (tmp_path / "two.yaml").write_text(two)
    output = tmp_path / "out"
    parameters: dict[str, Any] = {
        "shards": [str(tmp_path / "tars")],
        "output": str(output),
        "settings": str(tmp_path / "settings.json"),
        "accelerate": str(tmp_path / "two.yaml"),
    }

    name = "train-codec/train-codec"
    first = run_deployment(name, parameters=parameters, timeout=0)
    assert isinstance(first, FlowRun)
    progress = output / "progress.jsonl"
    until(progress.exists, "the first steps of the training")
    waiting = run_deployment(name, parameters=parameters, timeout=0)
    assert isinstance(waiting, FlowRun)
    until(lambda: state(waiting.id) == "AwaitingConcurrencySlot", "the second training's waiting")
    assert state(first.id) == "Running"
    assert len(processes(output)) >= 3, "accelerate and its two processes"

    cancel(waiting.id)
    cancel(first.id)
    until(lambda: not processes(output), "the end of all processes", seconds=30)
    assert ends(first.id) == "Cancelled"
    reached = checkpoint_step(output)
    assert reached >= 1

    parameters["override"] = [f"stages.entropy.steps={reached + 2}"]
    again = run_deployment(name, parameters=parameters, timeout=0)
    assert isinstance(again, FlowRun)
    assert ends(again.id) == "Completed"
    steps = [json.loads(line)["step"] for line in progress.read_text().splitlines()]
    assert steps[-1] == reached + 2
    assert steps == sorted(steps), "no step was trained again from the start"
    assert checkpoint_step(output) == reached + 2
    assert Artifact.get("train-codec") is not None


def checkpoint_step(output: Path) -> int:
    """The step from which the entropy stage would resume."""
    found = Checkpoint(output / "checkpoints", "entropy").load()
    assert found is not None
    return found[0]


@dataclass(frozen=True)
class Compression:
    """The outcome of a cancelled compression in a bucket, and of the run that a schedule started afterwards."""

    cancelled: str
    sealed: bool
    scheduled: str
    store: Store
    holding: dict[str, set[str]]
    """Where each secret of the bucket was found, and under `places` the name of the photos."""


@pytest.fixture(scope="module")
def compression(
    server: Server, worker: Path, elsewhere: Path, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Compression]:
    with serving() as address, pytest.MonkeyPatch.context() as monkeypatch:
        held = {**SECRETS, "AWS_ENDPOINT_URL": address, "AWS_DEFAULT_REGION": "us-east-1"}
        assert not held.keys() & server.environment.keys(), "the worker knows no store"
        Secret(value=held).save(BLOCK, overwrite=True)
        for variable, value in held.items():
            monkeypatch.setenv(variable, value)
        source, archive = "s3://blocked/photos", "s3://blocked/archive"
        S3FileSystem().mkdir("blocked")
        for seed in range(PHOTOS):
            Store(source).publish(f"{seed:02}.png", png(seed, 32, 32))
        parameters = {
            "source": source,
            "archive": archive,
            "bundle": str(bundle.path),
            "max_images_per_shard": 1,
            "metrics": ["none"],
            "threads": 1,
            "workers": 1,
        }
        name, store = "compress-archive/compress-archive", Store(archive)
        options = ("--params", json.dumps(parameters), "--job-variable", 'env={"PREFECT_LOGGING_LEVEL": "DEBUG"}')
        run = started(prefect(server, elsewhere, "deployment", "run", name, *options))
        until(lambda: store.exists(layout.part(1, 0)), "the first shard")
        cancel(run)
        until(lambda: not processes(archive), "the end of all processes", seconds=60)
        cancelled, sealed = ends(run), store.exists(layout.seal(1))

        deployment = client().read_deployment_by_name(name)
        schedule = IntervalSchedule(interval=datetime.timedelta(seconds=10))
        [made] = client().create_deployment_schedules(
            deployment.id, [(schedule, True)], parameters=parameters, slug="often"
        )
        [scheduled, *_] = until(lambda: fired(deployment.id), "a run that the schedule started")
        client().delete_deployment_schedule(deployment.id, made.id)  # once is enough, and each costs the others time
        ended = ends(scheduled)
        printed = worker.read_bytes()
        words = {"places": source, **SECRETS}
        found = {word: holding(secret, server, printed, archive) for word, secret in words.items()}
        yield Compression(cancelled, sealed, ended, store, found)


def test_a_compression_is_cancelled_and_a_schedule_goes_on_with_it(compression: Compression) -> None:
    assert compression.cancelled == "Cancelled"
    assert not compression.sealed, "the run was cut"
    assert compression.scheduled == "Completed"
    assert compression.store.exists(layout.seal(1))
    rows = report.query(compression.store, "SELECT key, status FROM rows ORDER BY key")
    assert [row["key"] for row in rows] == [f"{seed:02}.png" for seed in range(PHOTOS)]
    assert log.read(compression.store).runs == 1
    until(lambda: Artifact.get("compress-archive") is not None, "the table of the run")


def test_credentials_of_object_storage_come_from_a_block_and_stay_in_it(compression: Compression) -> None:
    places = {"server database", "runs/000001/manifest.json", "runs/000001/report/part-000000.parquet"}
    assert {re.sub(r"manifest-\w+", "manifest", place) for place in compression.holding["places"]} >= places
    for name in SECRETS:
        assert compression.holding[name] == set(), name


@pytest.mark.parametrize("held", [None, "planted-text", {"PATH": "planted-path"}, {"AWS_ENDPOINT_URL": 1}])
def test_a_block_that_is_missing_or_holds_something_else_is_refused(held: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FDC_S3_BLOCK", "wrong")
    if held is not None:
        Secret(value=held).save("wrong", overwrite=True)
    with pytest.raises(SettingsError, match="FDC_S3_BLOCK=wrong: ") as refused:
        command.resolved("s3://bucket/archive")
    assert "planted" not in str(refused.value)
    assert command.resolved("/data/archive") == "/data/archive", "a folder needs no block"


def test_one_process_serves_every_flow(server: Server, elsewhere: Path, tmp_path: Path) -> None:
    places = ["--source", "/data/photos", "--archive", "s3://bucket/archive"]
    log = tmp_path / "serve.log"
    with log.open("w") as output:
        serving = subprocess.Popen(
            [sys.executable, "-m", "flows.serve", *places],
            cwd=elsewhere,
            env=server.environment | {"PREFECT_RUNNER_POLL_FREQUENCY": "1"},
            stdout=output,
            stderr=output,
        )
    try:
        until(lambda: served() == {f"{name}/served" for name in NAMES}, "the served deployments")
        nightly = client().read_deployment_by_name("compress-archive/served")
        assert [schedule.slug for schedule in nightly.schedules] == ["served-nightly"]
        assert nightly.parameters == {"source": "/data/photos", "archive": "s3://bucket/archive"}

        folder(tmp_path / "photos", {"a.png": png(1)})
        packed, relative = (
            run_deployment(
                "shard-images/served", parameters={"source": f"{tmp_path}/photos", "dataset": dataset}, timeout=0
            )
            for dataset in (f"{tmp_path}/dataset", "dataset")
        )
        assert isinstance(packed, FlowRun) and isinstance(relative, FlowRun)
        assert ends(packed.id) == "Completed"
        assert (tmp_path / "dataset" / "manifest.parquet").is_file()
        assert ends(relative.id) == "Failed"
        assert (
            "'dataset' is relative, and a deployment can run on any machine: give a full path or a URL"
            in log.read_text()
        )
        assert not (elsewhere / "dataset").exists()
    finally:
        end(serving)


def test_serving_a_second_archive_leaves_the_deployments_and_schedules_of_the_first(
    prefect_server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def serve_once(*found: Any) -> None:
        """As Prefect's serve begins, without waiting for runs."""
        for deployment in found:
            deployment.apply()

    def kept(name: str) -> tuple[Any, list[str | None]]:
        found = client().read_deployment_by_name(f"compress-archive/{name}")
        return found.parameters["archive"], [schedule.slug for schedule in found.schedules]

    monkeypatch.setattr(serve, "serve", serve_once)
    serve.main("/data/photos", "/data/first", "two")
    for archive in ("/data/second", ""):
        with pytest.raises(typer.Exit):
            serve.main("/data/photos" if archive else "", archive, "two")
        said = capsys.readouterr().err
        assert said == (
            "error: compress-archive/served-two is for /data/first: give --name to serve another archive beside it\n"
        )
    serve.main("/data/photos", "/data/second", "other")
    assert kept("served-two") == ("/data/first", ["served-nightly"])
    assert kept("served-other") == ("/data/second", ["served-nightly"])
    serve.main("/data/photos", "/data/first", "two")


@pytest.mark.parametrize(
    ("places", "url", "message"),
    [
        (("", ""), None, "PREFECT_API_URL is empty: a temporary server does not run schedules"),
        (("", "s3://bucket/archive"), "http://server/api", "the schedules need both a source and an archive"),
        (("photos", "/a"), "http://server/api", "'photos' is relative"),
    ],
)
def test_serving_refuses_what_would_not_run(
    capsys: pytest.CaptureFixture[str], places: tuple[str, str], url: str | None, message: str
) -> None:
    with temporary_settings({PREFECT_API_URL: url}), pytest.raises(typer.Exit) as ended:
        serve.main(*places)
    assert ended.value.exit_code == 1
    assert capsys.readouterr().err.startswith(f"error: {message}")
