"""Training data: every crop and every random draw is a function of seed and step, for any number of processes."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
import webdataset
from PIL import Image
from torch import Tensor

from codec import SettingsError
from codec.training.data import ShardedImages, prefetch
from codec.training.draws import Draws
from codec.training.pack import pack
from tests.support.tiny_crops import sampler


def test_a_batch_is_a_function_of_seed_and_step(tars: Path) -> None:
    first, second = sampler(tars), sampler(tars)
    for step in (5, 0, -2):
        assert torch.equal(first.batch(step), second.batch(step))
    assert not torch.equal(first.batch(0), first.batch(1))
    assert not torch.equal(first.batch(0), sampler(tars, seed=4).batch(0))
    assert first.batch(0).shape == (4, 3, 32, 32)
    assert first.batch(0).abs().max() <= 1


def test_ranks_together_hold_the_batch_of_one_process(tars: Path) -> None:
    source = sampler(tars)
    for step in range(3):
        ranks = [source.batch(step, rank=rank, world=2) for rank in (0, 1)]
        assert torch.equal(torch.cat(ranks), source.batch(step))
    with pytest.raises(SettingsError, match="is not divisible"):
        source.batch(0, world=3)


def test_every_photo_is_seen_equally_often(tars: Path) -> None:
    source = sampler(tars, batch_size=7, seed=5)
    seen: list[int] = []
    source._photo = lambda index: seen.append(index) or Image.new("RGB", (40, 40))  # type: ignore[func-returns-value, assignment, return-value]
    for step in range(3):
        source.batch(step)
    assert [sorted(seen[start : start + 7]) for start in (0, 7, 14)] == [list(range(7))] * 3
    assert seen[:7] != seen[7:14]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves its files open
def test_offsets_lead_to_the_members_bytes(tars: Path) -> None:
    images = ShardedImages([tars / "000000.tar", tars / "000001.tar"])
    assert len(images) == 7
    assert images.read(3) == b"broken"
    read = webdataset.WebDataset(str(tars / "000001.tar"), shardshuffle=False)
    assert [sample["jpg"] for sample in read] == [images.read(index) for index in range(4, 7)]


def test_a_photo_that_cannot_be_decoded_gives_way_to_the_next(tars: Path) -> None:
    source = sampler(tars, batch_size=14, seed=9)
    assert torch.isfinite(source.batch(0)).all()


def test_shards_without_photos_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no photos"):
        ShardedImages([tmp_path])
    with pytest.raises(SettingsError, match="neither a tar nor a folder"):
        ShardedImages([tmp_path / "nothing.tar"])
    (tmp_path / "cut.tar").write_bytes(b"x" * 700)
    with pytest.raises(SettingsError, match="not a complete tar"):
        ShardedImages([tmp_path])


@pytest.mark.parametrize("processes", [0, 2])
def test_prefetching_gives_the_batches_in_order_and_can_be_left_early(tars: Path, processes: int) -> None:
    source, before = sampler(tars), set(threading.enumerate())
    others = set(multiprocessing.active_children())  # of other tests in this process
    batches = prefetch(source, range(7, 12), processes=processes)
    assert torch.equal(next(batches), source.batch(7))
    assert torch.equal(next(batches), source.batch(8))
    batches.close()
    assert set(threading.enumerate()) <= before  # others' threads may end meanwhile
    assert set(multiprocessing.active_children()) <= others
    assert [len(batch) for batch in prefetch(source, range(3), processes=processes)] == [4, 4, 4]


class Broken:
    """Has no batches."""

    def batch(self, step: int, *, rank: int = 0, world: int = 1) -> Tensor:
        raise SettingsError(f"no photo for step {step}")


@pytest.mark.parametrize("processes", [0, 2])
def test_a_batch_that_cannot_be_made_ahead_of_time_stops_the_run_as_it_would_have(processes: int) -> None:
    with pytest.raises(SettingsError, match=r"^no photo for step 0$"):
        list(prefetch(Broken(), range(5), processes=processes))


def test_processes_that_make_batches_end_with_a_killed_parent(tmp_path: Path) -> None:
    script = """
import multiprocessing, os, signal, torch
from codec.training.data import prefetch

class Numbers:
    def batch(self, step, *, rank, world):
        return torch.tensor([step])

if __name__ == "__main__":
    batches = prefetch(Numbers(), range(99), processes=1)
    assert next(batches) == 0 and multiprocessing.active_children()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    (tmp_path / "killed.py").write_text(script)
    command, path = [sys.executable, str(tmp_path / "killed.py")], os.environ | {"PYTHONPATH": "."}
    ended = subprocess.run(command, capture_output=True, text=True, env=path, timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr  # the output is open until the last process has ended


def test_draws_of_two_ranks_are_those_of_one_process() -> None:
    whole = Draws(1, 2)
    first, second = Draws(1, 2, rank=0, world=2), Draws(1, 2, rank=1, world=2)
    assert torch.equal(whole.normal(4, 3), torch.cat([first.normal(2, 3), second.normal(2, 3)]))
    assert torch.equal(whole.log_uniform(4, 0.5, 8), torch.cat([d.log_uniform(2, 0.5, 8) for d in (first, second)]))


def test_packed_crops_fit_their_size_and_are_the_same_each_time(tars: Path, tmp_path: Path) -> None:
    images = ShardedImages([tars])
    for name in ("a.tar", "b.tar"):
        count = pack(images, tmp_path / name, size=60_000, side=48, seed=3)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    assert (tmp_path / "a.tar").stat().st_size <= 60_000
    packed = ShardedImages([tmp_path / "a.tar"])
    assert len(packed) == count > 5
    assert sampler(tmp_path / "a.tar").batch(0).shape[-1] == 32
