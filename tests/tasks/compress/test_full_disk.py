"""A disk that fills up, below the archive or where tars are spooled, stops a run clearly; the next one completes it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.archive_builder import folder, pack, png, snapshot

NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]


@pytest.fixture(scope="module")
def namespace() -> list[str]:
    """The command prefix that lets a program mount file systems without being root."""
    trial = [*NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    try:
        tried = subprocess.run(trial, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("a full disk needs the command unshare, which is not installed")
    if tried.returncode:
        pytest.skip(f"a full disk needs a mount namespace, which is not allowed here: {tried.stderr.strip()}")
    return NAMESPACE


@pytest.mark.parametrize(("what", "message"), [("archive", "cannot write"), ("spool", "cannot spool a tar")])
def test_a_full_disk_stops_a_run_clearly_and_the_next_completes_it(
    what: str, message: str, namespace: list[str], tmp_path: Path, fake_bundle: Path
) -> None:
    source = folder(tmp_path / "s", {f"{name}.png": png(seed, 400, 300) for seed, name in enumerate("abcd")})
    command = [sys.executable, "-m", "tests.support.full_disk", source, fake_bundle, tmp_path / "home", what]
    ran = subprocess.run([*namespace, *map(str, command)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert message in told["said"]
    assert "No space left on device" in told["said"]
    assert (told["before"], told["left"]) == ([], [])
    pack(source, tmp_path / "archive", fake_bundle)
    assert told["snapshot"] == snapshot(tmp_path / "archive")
