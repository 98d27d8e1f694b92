"""What infra/deploy.sh deploys runs with what it is given, and leaves alone what others put on the server."""

import asyncio
import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.schedules import CronSchedule
from prefect.flow_engine import load_flow, run_flow

from codec.bundle import Bundle
from codec.errors import SettingsError
from flows import audit_archive, compress_archive, prepare_server, quality_report, restore_archive
from flows.run_record import asset_key
from flows.serve import NAMES
from tasks.archive import layout
from tasks.processes.codec_process import Models
from tests.support import archive_builder
from tests.support.archive_builder import folder, png
from tests.support.browser import chromium, look
from tests.support.deployments import INFRA, client, deploy
from tests.support.fake_codec import FAKE, OUT_OF_REACH
from tests.support.prefect_server import Server
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("prefect_server")

NAME = "each"


@pytest.fixture(scope="module")
def home(server: Server, prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of source and archive, deployed as one of several archives and without a block."""
    home = tmp_path_factory.mktemp("home")
    folder(home / "photos", {f"{seed}.png": png(seed, 48, 60) for seed in range(3)})
    places = {"FDC_SOURCE": f"{home}/photos", "FDC_ARCHIVE": f"{home}/archive", "FDC_NAME": NAME, "FDC_S3_BLOCK": ""}
    places["FDC_MIRROR"] = f"{home}/mirror"
    run = deploy(server, tmp_path_factory.mktemp("elsewhere"), **places)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "warning" not in (run.stdout + run.stderr).lower(), "nothing is amiss without FDC_S3_BLOCK"
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in (places | {"FDC_SUFFIX": f"-{NAME}"}).items():
            patch.setenv(variable, value)
        yield home


def schedules(name: str) -> dict[str, bool]:
    """The slugs of a deployment's schedules, and whether each is active."""
    found = client().read_deployment_by_name(f"{name}/{name}-{NAME}").schedules
    return {schedule.slug or "": schedule.active for schedule in found}


def once(name: str, **parameters: Any) -> None:
    """Run a deployment in this process, as a worker's process would, to a completed state."""
    deployment = client().read_deployment_by_name(f"{name}/{name}-{NAME}")
    run = client().create_flow_run_from_deployment(deployment.id, parameters=parameters)
    flow: Any = load_flow(run)
    state: Any = run_flow(flow, flow_run=run, parameters=run.parameters, return_type="state")
    assert state.type == StateType.COMPLETED, f"{name}: {state.message}"


def test_each_deployment_runs_with_the_parameters_that_it_is_given_from_an_empty_folder(
    home: Path, server: Server, tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (audit_archive, compress_archive, quality_report, restore_archive):
        monkeypatch.setattr(module, "Models", partial(Models, codec=FAKE))
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))  # where the codec of the tests is
    settings = {
        "start": str(bundle.path),
        "stages": {"entropy": {"steps": 2, "batch_size": 2, "crop_size": 32}},
        "evaluation_images": 1,
        "evaluation_qualities": [8.0],
    }
    (tmp_path / "tiny.json").write_text(json.dumps(settings))
    fake = archive_builder.bundle(tmp_path / "bundle")
    one = {"metrics": ["none"], "threads": 1, "workers": 1}
    given: dict[str, dict[str, Any]] = {
        "shard-images": {},
        "train-codec": {"settings": str(tmp_path / "tiny.json")},
        "compress-archive": {"bundle": str(fake), "min_psnr_db": OUT_OF_REACH + 1} | one,
        "restore-archive": {"workers": 1},
        "audit-archive": {},
        "drill-archive": {},
        "evaluate-codec": {"codec": ["jpeg"], "bpp": [2.0], "experiments": False, "workers": 1},
        "quality-report": {"worst": 1},
    }
    assert set(given) == set(NAMES)
    for name, small in given.items():
        if name == "drill-archive":
            shutil.copytree(home / "archive", home / "mirror")
        once(name, **small)
    once("audit-archive")
    for made in ("dataset/manifest.parquet", "training/bundle", "restored/0.png", "evaluation/index.html"):
        assert (home / "archive-work" / made).exists()
    assert (home / "archive" / layout.QUALITY_REPORT).is_file(), "and the audit that follows takes it as the archive's"
    assert not list((tmp_path / "empty").iterdir())
    archive = f"{home}/archive"
    names = [f"compress {archive}, run 1", f"audit {archive}", f"restore {archive} into {archive}-work/restored"]
    runs = httpx.post(f"{server.url}/flow_runs/filter", json={"flow_runs": {"name": {"any_": names}}}).json()
    assert {run["name"] for run in runs} == set(names)
    made_of = {
        f"{archive}-work/dataset": [f"{home}/photos"],
        f"{archive}-work/training/bundle": [f"{archive}-work/dataset"],
        archive: [f"{home}/photos", str(fake)],
        f"{archive}/audits": [archive],
        f"{home}/mirror": [archive],
        f"{archive}-work/evaluation/index.html": [f"{home}/photos"],
    }
    assets = asset_events(server, {asset_key(location) for location in made_of})
    made = assets[asset_key(archive)]
    assert made["payload"]["images"] == 3 and made["payload"]["runs"] == "[1]"
    for location, upstream in made_of.items():
        related = assets[asset_key(location)]["related"]
        found = {each["prefect.resource.id"] for each in related if each["prefect.resource.role"] == "asset"}
        assert found == {asset_key(each) for each in upstream}, location


@pytest.mark.browser
def test_the_server_s_form_of_a_run_shows_each_parameter_with_its_help(
    home: Path, server: Server, tmp_path: Path
) -> None:
    site = server.url.removesuffix("/api")
    deployment = client().read_deployment_by_name(f"compress-archive/compress-archive-{NAME}")
    with chromium(tmp_path / "profile") as browser:
        look(browser, 1400, 1000)

        def text() -> str:
            return str(browser.execute_script("return document.body ? document.body.innerText : ''"))

        def shows(address: str, words: set[str]) -> bool:
            if browser.current_url != address:
                browser.get(address)
            return words <= set(text().split())

        form = {"metrics_sample", "effort", "strict_metadata", "Longer", "GPU", "(no", "MakerNotes)", "all"}
        until(lambda: shows(f"{site}/deployments/deployment/{deployment.id}/run", form), "the form of a run")


def asset_events(server: Server, keys: set[str]) -> dict[str, Any]:
    """The server's events of assets by key, once those of all keys are there."""
    found: dict[str, Any] = {}

    def look() -> bool:
        query = {"filter": {"event": {"prefix": ["prefect.asset.materialization."]}}, "limit": 50}
        answer = httpx.post(f"{server.url}/events/filter", json=query).json()
        found.update({event["resource"]["prefect.resource.id"]: event for event in answer["events"]})
        return keys <= set(found)

    until(look, f"events of {keys}")
    return found


def test_schedules_of_the_server_stay_and_missing_ones_are_made(home: Path, server: Server, tmp_path: Path) -> None:
    assert schedules("compress-archive") == {"nightly": True}
    assert schedules("audit-archive") == schedules("drill-archive") == {"monthly": True}
    deployment = client().read_deployment_by_name(f"compress-archive/compress-archive-{NAME}")
    noon = DeploymentScheduleCreate(schedule=CronSchedule(cron="0 12 * * *"), slug="noon", active=True)
    client().create_deployment_schedules(deployment.id, [noon])
    client().update_deployment_schedule(deployment.id, deployment.schedules[0].id, active=False)
    places = {"FDC_SOURCE": f"{home}/photos", "FDC_ARCHIVE": f"{home}/archive", "FDC_NAME": NAME}
    run = deploy(server, tmp_path, **places)
    assert run.returncode == 0, run.stdout + run.stderr
    assert schedules("compress-archive") == {"nightly": False, "noon": True}


@pytest.mark.parametrize(
    ("kind", "archive", "other"),
    [("docker", "archive", "on the work pool fdcodec-process"), ("process", "second", r"for .*/archive")],
)
def test_another_kind_or_archive_does_not_take_over_what_is_deployed(
    home: Path, monkeypatch: pytest.MonkeyPatch, kind: str, archive: str, other: str
) -> None:
    monkeypatch.setenv("FDC_ARCHIVE", f"{home}/{archive}")
    before = prepare_server.before(kind, str(INFRA / "crashed.yaml"))
    with pytest.raises(SettingsError, match=f"-{NAME} is deployed {other}: set FDC_NAME to deploy beside it"):
        asyncio.run(before)
    monkeypatch.setenv("FDC_SUFFIX", "-beside")
    template = INFRA / "pools" / "kubernetes.yaml"
    asyncio.run(prepare_server.before("kubernetes", str(INFRA / "crashed.yaml"), str(template)))
    made = client().read_work_pool("fdcodec-kubernetes").base_job_template
    assert made["job_configuration"] == yaml.safe_load(template.read_text())["job_configuration"]
