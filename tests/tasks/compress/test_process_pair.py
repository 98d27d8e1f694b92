"""The processes that hold a shard's models: kept for the next shard, ended when nothing comes, never lent twice."""

from pathlib import Path

import pytest

from codec.errors import ArchiveError
from tasks.archive import layout
from tasks.compress import process_pair
from tasks.compress.runs import settled
from tasks.compress.shard import CompressionJob, encode_shard
from tasks.processes.codec_process import Models
from tasks.storage.store import Store
from tests.support.archive_builder import SMALL, folder, pack, png, reopened
from tests.support.fake_codec import FAKE

MODELS = Models("", threads=1, codec=FAKE)


@pytest.fixture
def planned(tmp_path: Path, fake_bundle: Path) -> Store:
    """An archive with an open run of two shards, of which none is done."""
    source = folder(tmp_path / "s", {f"{number}.png": png(number) for number in range(4)})
    pack(source, tmp_path / "a", fake_bundle, SMALL)
    reopened(tmp_path / "a", 0, 1)
    return Store(str(tmp_path / "a"))


def test_models_load_once_for_all_shards_of_a_process(planned: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert settled(planned).open_run == 1
    started: list[process_pair.ProcessPair] = []
    begin = process_pair.ProcessPair.__init__

    def counted(self: process_pair.ProcessPair, *arguments: object) -> None:
        started.append(self)
        begin(self, *arguments)  # type: ignore[arg-type]

    process_pair.dismiss_all()
    monkeypatch.setattr(process_pair.ProcessPair, "__init__", counted)
    job = CompressionJob(planned.url, 1, codec=FAKE)
    assert [encode_shard(job, shard)["compressed"] for shard in (0, 1)] == [3, 1]
    assert len(started) == 1


def test_a_pair_is_lent_to_one_shard_at_a_time_and_not_after_an_error(planned: Store, fake_bundle: Path) -> None:
    bundle_id = planned.children("escrow")[0]
    with (
        process_pair.for_shard(planned, bundle_id, MODELS, ()) as first,
        pytest.raises(RuntimeError),
        process_pair.for_shard(planned, bundle_id, MODELS, ()) as second,
    ):
        assert second is not first
        raise RuntimeError
    with process_pair.for_shard(planned, bundle_id, MODELS, ()) as again:
        assert again is first


@pytest.mark.timing
def test_an_idle_pair_ends_soon(planned: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_pair, "IDLE_SECONDS", 0.1)
    bundle_id = planned.children("escrow")[0]
    with process_pair.for_shard(planned, bundle_id, MODELS, ()) as pair:
        processes = [child._process for child in (pair.encoder, pair.decoder)]
    for process in processes:
        assert process is not None
        process.wait(timeout=600)
    with process_pair.for_shard(planned, bundle_id, MODELS, ()) as other:
        assert other is not pair


def test_a_bundle_that_is_not_what_it_is_kept_as_is_refused(planned: Store, tmp_path: Path) -> None:
    bundle_id = planned.children("escrow")[0]
    (tmp_path / "a" / layout.escrow(bundle_id) / "salt").write_text("other")
    process_pair.dismiss_all()
    with (
        pytest.raises(ArchiveError, match="the bundle has a different id"),
        process_pair.for_shard(planned, bundle_id, MODELS, ()),
    ):
        pass
