"""Owners' commands as flows and commands: what they print, and exit status 0, 1 or 2."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from prefect.artifacts import Artifact
from typer.testing import CliRunner

from flows import archive as owners
from flows import audit_archive, command, compress_archive, outcome, restore_archive
from tasks.processes.codec_process import Models
from tests.support import archive_builder
from tests.support.codecless_archives import make
from tests.support.fake_codec import FAKE
from tests.support.maintenance_runs import RUNS
from tests.support.prefect_server import Server

SOUND = RUNS[1:]


def called(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(owners.app, [*arguments])
    return result.exit_code, result.output


def test_status_as_a_table_and_as_json(tmp_path: Path) -> None:
    make(tmp_path / "failed", RUNS)
    make(tmp_path / "sound", SOUND)
    code, shown = called("status", str(tmp_path / "failed"))
    assert code == command.FAILED_ROWS
    assert "run 1 shard 1: 1 of 2 failed (content)" in shown
    code, shown = called("status", str(tmp_path / "sound"), "--json")
    assert code == command.DONE
    assert [run["images_done"] for run in json.loads(shown)["runs"]] == [4, 2]
    code, shown = called("status", str(tmp_path / "none"))
    assert (code, shown) == (
        command.FATAL,
        f"error: {tmp_path}/none: no archive here; compress-archive creates one\n",
    )


def test_compact_close_run_and_forget(tmp_path: Path) -> None:
    make(tmp_path / "a", SOUND, seal=False)
    archive = str(tmp_path / "a")
    assert called("forget", archive, "b")[0] == command.FATAL
    assert called("close-run", archive, "2")[0] != command.DONE  # a reason is asked for
    assert called("close-run", archive, "2", "--reason", "a disk died") == (
        0,
        "run 2 is closed without 0 of its shards\n",
    )
    assert called("compact", archive) == (0, "6 rows of 2 runs in 1 files\n")
    assert called("forget", archive, "b") == (0, "tombstones: 1\n")
    assert called("status", archive)[0] == command.DONE


def test_audit_and_restore_as_flows(tmp_path: Path, prefect_server: str, capsys: pytest.CaptureFixture[str]) -> None:
    store = make(tmp_path / "a", SOUND)
    assert audit_archive.show(audit_archive.audit_archive(str(tmp_path / "a"))) == command.DONE
    store.publish("holiday.txt", b"mine")
    with pytest.raises(
        outcome.DamageError, match=r"1 problems, the first is holiday\.txt: foreign: not part"
    ) as damage:
        audit_archive.audit_archive(str(tmp_path / "a"))
    assert audit_archive.show(damage.value.row) == command.FAILED_ROWS
    assert "foreign: holiday.txt: not part of the archive" in capsys.readouterr().out
    assert '"problems": 1' in str(getattr(Artifact.get("audit-archive"), "data", None))
    restored = restore_archive.restore_archive(str(tmp_path / "a"), str(tmp_path / "out"), as_of=1)
    assert restore_archive.show(restored) == command.DONE
    assert len(list((tmp_path / "out").rglob("[abf]"))) == 3


def test_a_restore_ends_without_a_word_on_its_error_stream(server: Server, tmp_path: Path) -> None:
    make(tmp_path / "a", SOUND)
    command = [sys.executable, "-m", "flows.restore_archive", str(tmp_path / "a"), str(tmp_path / "out")]
    run = subprocess.run(
        command, env=server.environment, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    assert (run.returncode, run.stderr) == (0, b"")


def test_a_dry_run_as_a_flow(tmp_path: Path, prefect_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compress_archive, "Models", partial(Models, codec=FAKE))
    source = archive_builder.folder(tmp_path / "s", {"a.png": archive_builder.png(1)})
    bundle = archive_builder.bundle(tmp_path / "bundle")
    options = {"quality": 4.0, "bundle": str(bundle), "metrics": ["none"], "threads": 1, "plan": True}
    row = compress_archive.compress_archive(str(source), str(tmp_path / "a"), **options)
    assert (row["pictures"], row["sampled"]) == (1, 1)
    assert compress_archive.show(row) == command.DONE
    assert not (tmp_path / "a").exists()
