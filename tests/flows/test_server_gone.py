"""Prefect's server dies, or a run is told to end or killed: nothing is lost, and a second start finishes it."""

import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from flows import command
from tasks.archive import layout
from tests.support import archive_builder
from tests.support.archive_builder import SMALL, folder, pack, png, snapshot
from tests.support.deployments import until
from tests.support.prefect_server import ROOT, Server, free_port, serving

PICTURES = 6
SETTINGS = replace(SMALL, max_images_per_shard=2)
OPTIONS = ("--quality", "4", "--max-images-per-shard", "2", "--image-timeout", "600", "--no-metrics", "--threads", "1")


@dataclass(frozen=True)
class Places:
    """The places of a compression that stops at its gate."""

    home: Path
    source: Path
    archive: Path
    bundle: Path

    def start(self, server: Server, retries: int = 1) -> "subprocess.Popen[str]":
        """The command, for a server, which it asks again so often when it is gone."""
        where = [str(self.source), str(self.archive), "--bundle", str(self.bundle), "--workers", "1"]
        return subprocess.Popen(
            [sys.executable, "-m", "tests.support.gated_flow", *where, *OPTIONS],
            cwd=ROOT,
            env=server.environment | {"GATE": str(self.home), "PREFECT_CLIENT_MAX_RETRIES": str(retries)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def reached(self) -> bool:
        return (self.home / "reached").exists()

    def check(self) -> None:
        """The archive is that of an undisturbed run."""
        pack(self.source, self.home / "undisturbed" / "a", self.bundle, SETTINGS)
        assert snapshot(self.archive) == snapshot(self.home / "undisturbed" / "a")

    def open(self) -> None:
        (self.home / "open").touch()


@pytest.fixture
def places(tmp_path: Path) -> Places:
    source = folder(tmp_path / "s", {f"{number}.png": png(number) for number in range(PICTURES)})
    return Places(tmp_path, source, tmp_path / "archive" / "a", archive_builder.bundle(tmp_path / "bundle"))


@pytest.fixture
def home(tmp_path: Path, made_database: Path) -> Path:
    """A server's folder, with a database."""
    home = tmp_path / "prefect"
    home.mkdir()
    shutil.copy(made_database, home / "prefect.db")
    return home


def test_a_server_that_dies_while_a_command_runs_loses_nothing(places: Places, home: Path) -> None:
    port = free_port()
    with serving(home, port) as server:
        run = places.start(server)
        until(places.reached, "the second shard")
        server.process.kill()
        server.process.wait()
        places.open()
        _, said = run.communicate()
    assert run.returncode == command.FATAL
    advice = "start it, or unset PREFECT_API_URL"
    assert said.splitlines() == [f"error: Prefect's server does not answer ({server.url}): {advice}"]
    assert (places.archive / layout.part(1, 0)).exists(), "what was committed stays"
    with serving(home, port) as server:
        printed, said = places.start(server).communicate()
    assert said == ""
    assert "to look at" in printed
    places.check()


def test_a_server_that_comes_back_is_waited_for(places: Places, home: Path) -> None:
    port = free_port()
    with serving(home, port) as server:
        run = places.start(server, retries=10)
        until(places.reached, "the second shard")
        server.process.kill()
        server.process.wait()
    places.open()
    until(lambda: (places.archive / layout.part(1, 2)).exists(), "the last shard, with no server")
    with serving(home, port):
        printed, said = run.communicate()
    assert (run.returncode, said) == (command.DONE, "")
    assert "to look at" in printed
    places.check()
