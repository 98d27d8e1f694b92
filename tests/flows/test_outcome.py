"""A failure is seen where operators look: in the state of the run, its log, and a table of what failed."""

import json
import logging
import sys
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import State
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import StateType

from flows import audit_archive, command, compress_archive, outcome, restore_archive, shard_images
from tasks.processes.codec_process import Models
from tests.support.archive_builder import bundle, folder, png
from tests.support.codecless_archives import make
from tests.support.deployments import client
from tests.support.fake_codec import CORRUPT, FAKE, KILLED, RAISE

pytestmark = pytest.mark.usefixtures("prefect_server")

MANY = 25


def on_server(state: State[Any]) -> tuple[StateType, str, str]:
    """Type, name and message of the state of a run, as the server keeps it."""
    kept = client().read_flow_run(run(state)).state
    assert kept is not None
    return kept.type, kept.name or "", kept.message or ""


def run(state: State[Any]) -> UUID:
    assert state.state_details.flow_run_id is not None
    return state.state_details.flow_run_id


def artifacts(state: State[Any]) -> dict[str, Any]:
    """What a run left on the server, by key."""
    chosen = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run(state)]))
    return {each.key or "": each.data for each in client().read_artifacts(artifact_filter=chosen)}


def lines(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    """What the flow itself logged at a level."""
    wanted = ("prefect.flow_runs", level)
    return [record.message for record in caplog.records if (record.name, record.levelno) == wanted]


def torn(archive: Path, count: int) -> Path:
    """An archive of one tar that is cut to nothing."""
    make(archive, [{f"{number:02}": b"bytes" for number in range(count)}], per_shard=count)
    (tar,) = archive.rglob("*.tar")
    tar.write_bytes(b"")
    return tar


def test_an_audit_that_finds_damage_ends_failed_and_says_what(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tar = torn(tmp_path / "a", 1).relative_to(tmp_path / "a").as_posix()
    state = audit_archive.audit_archive(str(tmp_path / "a"), return_state=True)
    kind, name, message = on_server(state)
    assert (kind, name) == (StateType.FAILED, "Failed")
    assert message.startswith(f"{tmp_path}/a: ") and f"problems, the first is {tar}: damaged: " in message
    assert any(line.startswith(f"{tar}: damaged: ") for line in lines(caplog, logging.WARNING))
    table = json.loads(artifacts(state)["audit-archive-failed"])
    assert (table[0]["object"], table[0]["reason"]) == (tar, "damaged")


def test_on_the_command_line_an_audit_that_finds_damage_still_prints_it_with_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torn(tmp_path / "a", 1)
    monkeypatch.setattr(sys, "argv", ["audit-archive", str(tmp_path / "a")])
    monkeypatch.setattr(command, "_watch_signals", lambda: None)  # which stay as pytest has set them
    with pytest.raises(SystemExit, match="2"):
        command.run(audit_archive.audit_archive, audit_archive.show, logs=True)
    assert "damaged: runs/000001/shards/" in capsys.readouterr().out


def test_a_restore_with_failed_rows_ends_completed_under_a_name_of_its_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tar = torn(tmp_path / "a", MANY)
    state = restore_archive.restore_archive(str(tmp_path / "a"), str(tmp_path / "out"), return_state=True)
    kind, name, message = on_server(state)
    assert (kind, name) == (StateType.COMPLETED, outcome.NAME)
    assert message.startswith(f"{MANY} failed, the first is 00: not_restored: ")
    warned = lines(caplog, logging.WARNING)
    assert [line.partition(":")[0] for line in warned[:20]] == [f"{number:02}" for number in range(20)]
    assert len(warned) == 21 and warned[20].startswith("5 more")
    table = json.loads(artifacts(state)["restore-archive-failed"])
    assert len(table) == MANY and table[0]["tar"] == f"file://{tar}" and table[0]["error"]
    told = lines(caplog, logging.INFO)
    assert f"restoring {tmp_path}/a into {tmp_path}/out" in told
    assert f"tar 1: 0 restored, {MANY} failed" in told and f"done: 0 restored, {MANY} failed" in told
    assert artifacts(state)["restore-archive-progress"] == 100.0
    assert restore_archive.show(state.result()) == command.FAILED_ROWS


def test_a_compression_with_failed_rows_ends_completed_under_a_name_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compress_archive, "Models", partial(Models, codec=FAKE))
    pictures = {"good.png": png(1), "odd.png": png(2, fault=RAISE), "torn.jpg": b"\xff\xd8\xff no"}
    source = folder(tmp_path / "s", pictures)
    options: dict[str, Any] = {"metrics": ["none"], "threads": 1, "workers": 1, "max_images_per_shard": 2}
    options["bundle"] = str(bundle(tmp_path / "bundle"))
    state = compress_archive.compress_archive(str(source), str(tmp_path / "a"), **options, return_state=True)
    kind, name, message = on_server(state)
    assert (kind, name) == (StateType.COMPLETED, outcome.NAME)
    assert message.startswith("2 failed, the first is odd.png: encoder: ")
    table = json.loads(artifacts(state)["compress-archive-failed"])
    assert [(row["key"], row["reason"], row["source"], row["run"], row["shard"]) for row in table] == [
        ("odd.png", "encoder", f"file://{source}/odd.png", 1, 0),
        ("torn.jpg", "damaged", f"file://{source}/torn.jpg", 1, 1),
    ]
    assert [line.partition(": ")[0] for line in lines(caplog, logging.WARNING)] == ["odd.png", "torn.jpg"]
    told = lines(caplog, logging.INFO)
    assert f"compressing {source} into {tmp_path}/a with 1 workers" in told
    assert "run 1: shard 2 of 2: 1 pictures, 0 compressed, 1 fallback, 0 unchanged, 0 failed" in told
    assert artifacts(state)["compress-archive-progress"] == 100.0

    again = compress_archive.compress_archive(str(source), str(tmp_path / "a"), **options, return_state=True)
    assert on_server(again)[1] == "Completed", "nothing is new, and nothing failed"


@pytest.mark.parametrize(("fault", "reason"), [(KILLED, "killed"), (CORRUPT, "unverified")])
def test_a_picture_kept_whole_because_encoding_it_went_wrong_is_told_alike_everywhere(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    fault: int,
    reason: str,
) -> None:
    """State, exit status, artifact, log and command agree, though no row is `failed`."""
    monkeypatch.setattr(compress_archive, "Models", partial(Models, codec=FAKE))
    source = folder(tmp_path / "s", {"odd.png": png(2, fault=fault)})
    options: dict[str, Any] = {"metrics": ["none"], "threads": 1, "workers": 1, "bundle": str(bundle(tmp_path / "b"))}
    state = compress_archive.compress_archive(str(source), str(tmp_path / "a"), **options, return_state=True)
    kind, name, message = on_server(state)
    assert (kind, name) == (StateType.COMPLETED, outcome.NAME)
    assert message.startswith(f"1 failed, the first is odd.png: {reason}: ")
    kept = artifacts(state)
    assert json.loads(kept["compress-archive-failed"])[0]["reason"] == reason
    (totals,) = json.loads(kept["compress-archive"])
    assert (totals["failed"], totals["fallback"], totals["to_look_at"]) == (0, 1, 1)
    assert [line.partition(": ")[0] for line in lines(caplog, logging.WARNING)] == ["odd.png"]
    assert compress_archive.show(state.result()) == command.FAILED_ROWS
    assert f"odd.png: {reason}: " in capsys.readouterr().out


def test_a_sharding_with_failed_rows_ends_completed_under_a_name_of_its_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = folder(tmp_path / "s", {"a.png": png(1), "e.jpg": b"no"})
    state = shard_images.shard_images(str(source), str(tmp_path / "d"), workers=1, return_state=True)
    kind, name, message = on_server(state)
    assert (kind, name) == (StateType.COMPLETED, outcome.NAME)
    assert message.startswith("1 failed, the first is e.jpg: content: ")
    assert lines(caplog, logging.WARNING)[0].startswith("e.jpg: content: ")
    assert json.loads(artifacts(state)["shard-images-failed"])[0]["source"] == f"file://{source}/e.jpg"
    assert "shard 1 of 1: 2 files" in lines(caplog, logging.INFO)
