"""Dask in place of threads: the same archive from any number of workers, also when one is killed on the way."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import dask.config
import distributed
import pytest
import yaml

from codec.errors import SettingsError
from flows import cluster, compress_archive, mapping
from tasks.archive import layout
from tasks.compress.shard import CompressionJob
from tasks.processes.codec_process import Models
from tests.support import archive_builder, runner_processes
from tests.support.archive_builder import SMALL, folder, pack, png, snapshot
from tests.support.fake_codec import FAKE
from tests.support.prefect_server import ROOT

pytestmark = pytest.mark.usefixtures("prefect_server")

SETTINGS: dict[str, Any] = {
    "quality": 4.0,
    "max_images_per_shard": 3,
    "image_timeout": 600.0,
    "metrics": ["none"],
    "threads": 1,
}
PICTURES = 12


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """The flow's models, with the fake codec."""
    monkeypatch.setattr(compress_archive, "Models", partial(Models, codec=FAKE))


@pytest.fixture(scope="module")
def workers() -> Iterator[distributed.LocalCluster]:
    """A cluster of this machine that tests reach by its address, and make larger or smaller.

    Its processes are forked from one that has everything imported, which each would take seconds for.
    """
    multiprocessing.set_forkserver_preload([*runner_processes.PRELOADED, "distributed", "flows.mapping"])
    forkserver.ensure_running()
    forked = dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"})
    quiet = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "silence_logs": 50}
    with forked, distributed.LocalCluster(n_workers=1, threads_per_worker=1, **quiet) as cluster:
        yield cluster


def resize(workers: distributed.LocalCluster, count: int) -> None:
    workers.scale(count)
    with distributed.Client(workers, set_as_default=False) as client:
        client.wait_for_workers(count, timeout=120)
        while len(client.scheduler_info(n_workers=-1)["workers"]) != count:
            time.sleep(0.1)


def test_the_archive_is_the_same_for_1_2_and_4_workers_also_when_one_is_killed(
    tmp_path: Path, workers: distributed.LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = archive_builder.bundle(tmp_path / "bundle")
    source = folder(tmp_path / "s", {f"{number:02}.png": png(number) for number in range(PICTURES)})
    pack(source, tmp_path / "plain" / "a", bundle, SMALL)
    expected = snapshot(tmp_path / "plain" / "a")
    for count in (1, 2, 4):
        resize(workers, count)
        archive, killed = tmp_path / str(count) / "a", threading.Event()
        if count == 2:
            threading.Thread(target=kill_a_worker, args=(workers, archive, killed), daemon=True).start()
        row = compress_archive.compress_archive(
            str(source),
            str(archive),
            bundle=str(bundle),
            engine="dask",
            dask_address=workers.scheduler_address,
            **SETTINGS,
        )
        assert (row["images"], row["compressed"]) == (PICTURES, PICTURES)
        assert snapshot(archive) == expected
        assert killed.is_set() == (count == 2)


def kill_a_worker(workers: distributed.LocalCluster, archive: Path, killed: threading.Event) -> None:
    """Kill a worker by SIGKILL while it encodes a shard, once another shard is committed."""
    with distributed.Client(workers, set_as_default=False) as client:
        pids = {nanny.worker_address: nanny.pid for nanny in workers.workers.values()}
        while not any((archive / layout.part(1, shard)).exists() for shard in range(PICTURES // 3)):
            time.sleep(0.01)
        while not (busy := [address for address, tasks in client.processing().items() if tasks]):
            time.sleep(0.01)
        os.kill(pids[busy[-1]], signal.SIGKILL)
    killed.set()


def test_progress_counts_pictures_that_other_processes_finish(
    tmp_path: Path, workers: distributed.LocalCluster
) -> None:
    bundle = archive_builder.bundle(tmp_path / "bundle")
    source = folder(tmp_path / "s", {f"{number}.png": png(number) for number in range(4)})
    pack(source, tmp_path / "a", bundle, SMALL)
    counter = archive_builder.Counter()
    with mapping.engine("dask", 0, address=workers.scheduler_address) as (count, runner):
        shard_map = mapping.shard_map.with_options(task_runner=runner)
        totals = shard_map(CompressionJob(str(tmp_path / "a"), 1, codec=FAKE), 2, count, counter)
    assert [total["images"] for total in totals] == [3, 1]
    assert counter.done == 4


def test_a_shard_on_a_gpu_goes_where_dask_has_one(workers: distributed.LocalCluster) -> None:
    cuda = mapping.engine("dask", 0, address=workers.scheduler_address, device="cuda")
    with cuda, distributed.Client(workers, set_as_default=False) as client:
        waiting = client.submit(os.getpid, pure=False)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=2)
        waiting.cancel()
    with distributed.Client(workers, set_as_default=False) as client:
        assert client.submit(os.getpid, pure=False).result(timeout=60)


def test_workers_behind_tls_are_reached_with_the_certificates_of_dasks_settings() -> None:
    tls = distributed.Security.temporary()
    found = {"ca-file": tls.tls_ca_file, "client.cert": tls.tls_client_cert, "client.key": tls.tls_client_key}
    settings = {f"distributed.comm.tls.{name}": value for name, value in found.items()}
    local = {
        "n_workers": 1,
        "processes": False,
        "protocol": "tls://",
        "security": tls,
        "dashboard_address": "127.0.0.1:0",
    }
    with distributed.LocalCluster(**local) as behind_tls:
        assert behind_tls.scheduler_address.startswith("tls://")
        reach = mapping.engine("dask", 0, address=behind_tls.scheduler_address)
        with dask.config.set(settings), reach as (count, _):
            assert count == 1


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:8786", "localhost:8786", "[::1]:8786", "tls://scheduler:8786"])
def test_an_address_that_only_this_machine_or_tls_reaches_is_taken(address: str) -> None:
    cluster.check(address)


@pytest.mark.parametrize(
    "address", ["tcp://10.0.0.7:8786", "scheduler:8786", "ws://127.0.0.1:8786", "0.0.0.0:8786", "x"]
)
def test_any_other_address_is_refused(address: str) -> None:
    with (
        pytest.raises(SettingsError, match="use a tls:// address"),
        mapping.engine("dask", 1, address=address),
    ):
        pass


def test_a_scheduler_that_cannot_be_used_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.5)
    for address, message in (
        ("tcp://127.0.0.1:9", "cannot connect to a Dask scheduler"),
        ("tls://127.0.0.1:9", "TLS"),
    ):
        with pytest.raises(SettingsError, match=message), mapping.engine("dask", 1, address=address):
            pass
    with pytest.raises(SettingsError, match="needs the engine dask"), mapping.engine("threads", 1, address="tls://a"):
        pass


def test_processes_of_dask_look_at_themselves_seldom_here_and_by_the_settings_for_other_machines() -> None:
    usual = {name: dask.config.get(name) for name in cluster.CALM}
    with cluster.dask_runner(2, "cpu"):
        assert {name: dask.config.get(name) for name in cluster.CALM} == cluster.CALM
    assert {name: dask.config.get(name) for name in cluster.CALM} == usual != cluster.CALM
    given = yaml.safe_load((ROOT / "infra" / "dask.yaml").read_text())
    assert {name: dask.config.get(name, config=given) for name in cluster.CALM} == cluster.CALM


def test_without_dask_the_engine_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("prefect_dask", "prefect_dask.task_runners"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SettingsError, match=r"pip install 'fdcodec\[dask\]'"), mapping.engine("dask", 1):
        pass
