"""The archive's flows are views of the plain functions: same archive, same totals, one task a shard."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from prefect import Task
from prefect.artifacts import Artifact

from codec.errors import ArchiveError, SettingsError
from flows import command, compress_archive, mapping, restore_archive
from tasks.compress.shard import CompressionJob
from tasks.processes.codec_process import Models
from tasks.progress import SILENT, Progress
from tasks.storage.store import StorageError
from tests.support import archive_builder
from tests.support.archive_builder import SMALL, folder, pack, png, reopened, snapshot
from tests.support.fake_codec import FAKE

pytestmark = pytest.mark.usefixtures("prefect_server")

SETTINGS: dict[str, Any] = {
    "quality": 4.0,
    "max_images_per_shard": 3,
    "image_timeout": 600.0,
    "metrics": ["none"],
    "threads": 1,
}


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """The flows' models, with the fake codec."""
    for module in (compress_archive, restore_archive):
        monkeypatch.setattr(module, "Models", partial(Models, codec=FAKE))


@pytest.fixture(scope="module")
def fake_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archive_builder.bundle(tmp_path_factory.mktemp("bundle"))


def test_compress_and_restore_as_flows(
    tmp_path: Path, fake_bundle: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    source = folder(
        tmp_path / "s", {f"{name}.png": png(seed) for seed, name in enumerate("abcd")} | {"e.jpg": b"\xff\xd8\xff no"}
    )
    archive = tmp_path / "flow" / "archive"
    row = compress_archive.compress_archive(str(source), str(archive), bundle=str(fake_bundle), workers=2, **SETTINGS)
    assert (row["runs"], row["compressed"], row["failed"]) == ("[1]", 4, 0)
    assert (row["fallback"], row["damaged"]) == (1, 1)
    assert compress_archive.show(row) == command.FAILED_ROWS
    assert "compress-archive" in capsys.readouterr().out
    tasks = {getattr(record, "task_run_name", None) for record in caplog.records if record.name == "prefect.task_runs"}
    assert {name for name in tasks if not str(name).startswith("record-asset")} == {"run 1 shard 0", "run 1 shard 1"}

    pack(source, tmp_path / "plain" / "archive", fake_bundle, SMALL)
    assert snapshot(archive) == snapshot(tmp_path / "plain" / "archive")

    again = compress_archive.compress_archive(str(source), str(archive), bundle=str(fake_bundle), **SETTINGS)
    assert compress_archive.show(again) == command.DONE
    assert "nothing is new" in capsys.readouterr().out

    restored = restore_archive.restore_archive(str(archive), str(tmp_path / "out"))
    assert restore_archive.show(restored) == command.DONE
    for name in "abcd":
        with Image.open(tmp_path / "out" / f"{name}.png") as image:
            assert image.size == (40, 24)

    artifact = Artifact.get("compress-archive")
    assert '"runs": "[]"' in str(getattr(artifact, "data", None))


def test_an_error_leaves_the_flow_as_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="source folder does not exist"):
        compress_archive.compress_archive(str(tmp_path / "none"), str(tmp_path / "a"))
    with pytest.raises(SettingsError, match="mutually exclusive"):
        compress_archive.compress_archive(str(tmp_path), str(tmp_path / "a"), quality=1.0, target_bpp=1.0)


def test_storage_errors_are_tried_again_and_others_are_not(
    tmp_path: Path, fake_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def flaky(job: CompressionJob, shard: int, progress: Any) -> dict[str, int]:
        calls.append(shard)
        if len(calls) == 1:
            raise StorageError("the wire was cut")
        raise ArchiveError("the plan is wrong")

    monkeypatch.setattr(mapping, "encode_shard", _like(mapping.encode_shard, flaky))
    with pytest.raises(ArchiveError, match="the plan is wrong"):
        mapping.on_threads(mapping.shard_map, 1)(CompressionJob("a", 1), 1, 1, archive_builder.Counter())
    assert calls == [0, 0]


def test_shards_are_submitted_four_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting: list[int] = []
    most: list[int] = []

    class Future:
        def __init__(self, number: int) -> None:
            waiting.append(number)
            most.append(len(waiting))
            self.number = number

        def result(self) -> int:
            waiting.remove(self.number)
            return self.number

    class Submitting:
        def submit(self, number: int, _: Progress) -> Future:
            return Future(number)

    task: Any = Submitting()
    calls = ((number,) for number in range(50))
    assert mapping._results(task, calls, 2, SILENT, lambda number: number, lambda *_: "") == list(range(50))
    assert max(most) == 8


def test_a_killed_run_is_finished_by_the_flow(tmp_path: Path, fake_bundle: Path) -> None:
    source = folder(tmp_path / "s", {"a.png": png(1)})
    pack(source, tmp_path / "a", fake_bundle, SMALL)
    reopened(tmp_path / "a")
    row = compress_archive.compress_archive(str(source), str(tmp_path / "a"), bundle=str(fake_bundle))
    assert (row["runs"], row["compressed"]) == ("[1]", 1)


def _like(task: Task[..., Any], function: Any) -> Task[..., Any]:
    return Task(
        function,
        retries=task.retries,
        retry_delay_seconds=0,
        retry_condition_fn=task.retry_condition_fn,
        cache_policy=task.cache_policy,
        persist_result=False,
    )
