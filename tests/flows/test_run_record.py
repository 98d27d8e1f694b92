"""What a run tells: names, assets, parameters with ranges; and who is told when something fails."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect import flow
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import SyncPrefectClient
from prefect.states import Completed, Failed

import flows.compress_archive
from flows import outcome, run_record
from flows.compress_archive import compress_archive
from flows.run_record import asset_key
from flows.serve import NAMES
from flows.serve import flow as flow_of
from tasks.processes.codec_process import Models
from tests.support import archive_builder
from tests.support.archive_builder import folder, png
from tests.support.deployments import INFRA
from tests.support.fake_codec import FAKE
from tests.support.prefect_server import Server
from tests.support.waiting import until

FORM = compress_archive.parameters.model_dump()["properties"]


def test_the_form_of_a_flow_has_ranges_choices_and_a_description_of_each_parameter() -> None:
    assert (FORM["effort"]["minimum"], FORM["effort"]["maximum"]) == (0, 2)
    assert FORM["quality"]["anyOf"][0]["exclusiveMinimum"] == 0 and FORM["threads"]["minimum"] == 1
    assert FORM["metrics_sample"]["maximum"] == 1
    assert FORM["preview"]["maximum"] == 512 and FORM["image_timeout"]["exclusiveMinimum"] == 0
    for parameter, choice in (("metrics", "dists"), ("discard", "preview")):
        assert choice in FORM[parameter]["anyOf"][0]["items"]["enum"]
    assert FORM["metadata"]["enum"] == ["all", "no-location", "none"] and FORM["engine"]["enum"] == ["threads", "dask"]
    for name in NAMES:
        for parameter, about in flow_of(name).parameters.model_dump()["properties"].items():
            assert about.get("description"), f"{name}: {parameter}"


@pytest.mark.parametrize(
    "options", [["--effort", "3"], ["--quality", "-1"], ["--threads", "0"], ["--metrics-sample", "2"]]
)
@pytest.mark.parametrize("way", [[], ["--direct"]])
def test_a_parameter_out_of_its_range_is_refused_in_one_line_before_anything_is_written(
    options: list[str], way: list[str], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "flows.compress_archive", str(tmp_path), str(tmp_path / "a"), *options, *way]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=INFRA.parent)
    assert ran.returncode == 1
    [line] = ran.stderr.splitlines()
    assert line.startswith("error: ") and options[0].strip("-").replace("-", "_") in line and "should be" in line
    assert not (tmp_path / "a").exists()


def test_keys_of_assets_are_urls_that_prefect_takes() -> None:
    from prefect.assets import Asset

    for location in ("s3://bucket/photos 2024", "/home/me/it's [all] here?", "/" + "x" * 900):
        key = asset_key(location)
        assert Asset(key=key).key == key
    assert asset_key("s3://bucket/a.b/c") == "s3://bucket/a.b/c"
    assert asset_key("bundle") == asset_key(f"{Path.cwd()}/bundle"), "a run's bundle may be relative"
    assert len({asset_key(f"/p/my{between}archive") for between in " _?é"}) == 4


@pytest.fixture
def told() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A web hook on this machine: its address, and what it was sent."""
    received: list[dict[str, Any]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Hook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", received
        server.shutdown()


@flow(name="compress-archive", flow_run_name="compress {archive}")
def half_failed(archive: str) -> Any:
    return Completed(name=outcome.NAME, message="2 failed, the first is a.jpg")


@flow(name="audit-archive", flow_run_name="audit {archive}")
def damaged(archive: str) -> Any:
    return Failed(message="1 problem: a tar is damaged")


@flow(name="compress-archive", flow_run_name="compress {archive}")
def sound(archive: str) -> None:
    return None


def test_the_owner_s_block_is_told_of_failed_rows_and_of_damage_and_of_nothing_else(
    told: tuple[str, list[dict[str, Any]]], server: Server, prefect_server: str, tmp_path: Path
) -> None:
    address, received = told
    block = CustomWebhookNotificationBlock(
        name="owner", url=address, json_data={"subject": "{{subject}}", "body": "{{body}}"}
    )
    block.save("owner", overwrite=True)
    listing = subprocess.run(
        [sys.executable, "-m", "prefect", "block", "ls", "-o", "json"],
        env=server.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    # as the file's own comment says with jq
    [saved] = [each["id"] for each in json.loads(listing.stdout) if each["name"] == "owner"]
    (tmp_path / "notify.yaml").write_text((INFRA / "notify.yaml").read_text().replace("BLOCK", saved))
    command = [sys.executable, "-m", "prefect", "automation", "create", "--from-file", str(tmp_path / "notify.yaml")]
    ran = subprocess.run(command, env=server.environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    try:
        sound("s3://bucket/sound")
        half_failed("s3://bucket/half")
        damaged("s3://bucket/damaged", return_state=True)
        until(lambda: len(received) >= 2, "two notifications")
    finally:
        delete = [sys.executable, "-m", "prefect", "--no-prompt", "automation", "delete", "fdcodec-notify"]
        subprocess.run(delete, env=server.environment, check=True, capture_output=True)
    said = sorted(f"{message['subject']} {message['body']}" for message in received)
    assert len(said) == 2
    assert "audit s3://bucket/damaged: Failed" in said[0] and "a tar is damaged" in said[0]
    assert f"compress s3://bucket/half: {outcome.NAME}" in said[1] and "the first is a.jpg" in said[1]


def test_a_limit_on_a_tag_bounds_the_shards_that_run_at_a_time(
    server: Server, prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flows.compress_archive, "Models", partial(Models, codec=FAKE))
    folder(tmp_path / "photos", {f"{seed}.png": png(seed, 48, 60) for seed in range(3)})
    archive, bundle = str(tmp_path / "archive"), str(archive_builder.bundle(tmp_path / "bundle"))
    limit = {"tag": "fdcodec-encode", "concurrency_limit": 1}
    httpx.post(f"{server.url}/concurrency_limits/", json=limit).raise_for_status()
    try:
        options: dict[str, Any] = {"bundle": bundle, "metrics": ["none"], "max_images_per_shard": 1, "workers": 3}
        compress_archive(str(tmp_path / "photos"), archive, **options)
    finally:
        httpx.delete(f"{server.url}/concurrency_limits/tag/fdcodec-encode").raise_for_status()
    [run] = asked(server, "flow_runs", {"flow_runs": {"name": {"any_": [f"compress {archive}, run 1"]}}})
    [shards] = asked(server, "flow_runs", {"flow_runs": {"parent_flow_run_id": {"any_": [run["id"]]}}})
    tasks = asked(server, "task_runs", {"task_runs": {"flow_run_id": {"any_": [shards["id"]]}}})
    assert {(task["name"], *task["tags"]) for task in tasks} == {
        (f"run 1 shard {shard}", "fdcodec-encode") for shard in range(3)
    }
    running = sorted((task["start_time"], task["end_time"]) for task in tasks)
    for (_, ended), (began, _) in pairwise(running):
        assert ended <= began, "two shards ran at a time"


def asked(server: Server, what: str, query: dict[str, Any]) -> list[dict[str, Any]]:
    """What the server answers to a filter."""
    answer = httpx.post(f"{server.url}/{what}/filter", json=query).raise_for_status()
    return list(answer.json())


def test_a_server_that_refuses_a_name_or_an_asset_does_not_stop_the_run(
    server: Server, prefect_server: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*_: object, **__: object) -> None:
        request = httpx.Request("PATCH", server.url)
        raise httpx.HTTPStatusError("no", request=request, response=httpx.Response(409, request=request))

    @flow(name="made")
    def made() -> int:
        run_record.rename("another name")
        run_record.asset("s3://bucket/a", "an archive", {"images": 1})
        return 7

    monkeypatch.setattr(SyncPrefectClient, "update_flow_run", refused)
    monkeypatch.setattr(run_record, "add_asset_metadata", refused)
    assert made() == 7
    assert "s3://bucket/a is not recorded as an asset: HTTPStatusError" in caplog.text
