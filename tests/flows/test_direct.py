"""--direct runs a flow's plain function: the same archive and exit status, and no server of Prefect is asked."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from codec.errors import SettingsError
from flows import direct, mapping
from tasks.archive import layout
from tasks.compress.shard import CompressionJob
from tasks.progress import SILENT
from tasks.storage.store import StorageError
from tests.support import fake_codec
from tests.support.archive_builder import bundle, folder, pack, png, rows
from tests.support.prefect_server import ROOT

NOWHERE = {"PREFECT_API_URL": "http://127.0.0.1:9/api"}
"""A server that is not there."""


def flow(name: str, *options: object) -> subprocess.CompletedProcess[str]:
    code = f"""
from functools import partial
from flows import command, {name} as module
module.Models = partial(module.Models, codec={fake_codec.FAKE!r})
command.run(module.{name}, module.show)
"""
    command = [sys.executable, "-c", code, *map(str, options)]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **NOWHERE}, capture_output=True, text=True)


def test_without_a_server_the_same_archive_comes_about_and_back(tmp_path: Path) -> None:
    source = folder(tmp_path / "s", {f"{number}.png": png(number) for number in range(5)} | {"bad.png": b"no picture"})
    options = ["--bundle", bundle(tmp_path / "bundle"), "--metrics", "none", "--max-images-per-shard", 2]
    options += ["--quality", 4, "--workers", 2, "--direct"]
    done = flow("compress_archive", source, tmp_path / "a", *options)
    assert done.returncode == 0, done.stderr
    pack(source, tmp_path / "b", tmp_path / "bundle")
    assert [row["sha256"] for row in rows(tmp_path / "a")] == [row["sha256"] for row in rows(tmp_path / "b")]
    done = flow("restore_archive", tmp_path / "a", tmp_path / "out", "--direct")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").iterdir())) == 6
    tar = next((tmp_path / "a" / layout.shards(1)).glob("*.tar"))
    tar.write_bytes(tar.read_bytes()[:-1])
    done = flow("audit_archive", tmp_path / "a", "--direct")
    assert done.returncode == 2, done.stderr


def test_a_flow_that_is_not_run_directly_asks_its_server(tmp_path: Path) -> None:
    done = flow("audit_archive", tmp_path / "a")
    assert done.returncode == 1 and "server does not answer" in done.stderr


def test_storage_errors_are_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def flaky(job: CompressionJob, shard: int, progress: object) -> dict[str, int]:
        calls.append(shard)
        if len(calls) < 3:
            raise StorageError("the wire was cut")
        return dict.fromkeys(("images", "compressed", "fallback", "unchanged", "failed"), 0)

    monkeypatch.setattr(mapping.encode_shard, "fn", flaky)
    monkeypatch.setattr(mapping.time, "sleep", lambda _: None)
    with direct.directly():
        assert len(mapping.shard_map.fn(CompressionJob("a", 1), 2, 1, SILENT)) == 2
    assert sorted(calls) == [0, 0, 0, 1]


def test_other_processes_are_refused() -> None:
    with direct.directly(), pytest.raises(SettingsError, match="leave out the engine dask"):
        mapping.on(object(), mapping.shard_map)  # type: ignore[arg-type]
