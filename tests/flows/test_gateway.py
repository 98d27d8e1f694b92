"""python -m flows.gateway: serves until Ctrl-C, says its address, and shows its token nowhere."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from codec.bundle import Bundle
from flows.gateway import main
from tests.support.archive_builder import folder
from tests.support.gateways import packed, photo

TOKEN = "planted-token-of-a-gateway"


@pytest.fixture(scope="module")
def archive(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("gateway")
    packed(folder(home / "photos", {"photo.jpg": photo()}), home / "archive", bundle.path)
    return home / "archive"


@contextmanager
def started(*arguments: str, **environment: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """The command as a process, and its address."""
    command = [sys.executable, "-m", "flows.gateway", *arguments, "--port", "0"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | environment
    )
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def get(address: str, path: str, token: str = "") -> httpx.Response:
    transport = httpx.HTTPTransport(retries=8)  # it says its address a little before it answers
    with httpx.Client(transport=transport, timeout=60) as client:
        return client.get(address + path, headers={"authorization": f"Bearer {token}"} if token else {})


@pytest.mark.parametrize("way", ["file", "environment"])
def test_the_token_shows_neither_in_the_list_of_processes_nor_in_the_log(
    way: str, archive: Path, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    options = ["--token", str(tmp_path / "token")] if way == "file" else []
    environment = {} if way == "file" else {"FDC_GATEWAY_TOKEN": TOKEN}
    with started(str(archive), *options, **environment) as (process, address):
        assert address.startswith("http://127.0.0.1:"), "loopback unless told"
        assert get(address, "photo.jpg.webp?preview=1").status_code == 401
        assert get(address, "photo.jpg.webp?width=20", TOKEN).status_code == 200  # starts a child
        assert get(address, "nothing.png", TOKEN).status_code == 404
        own = psutil.Process(process.pid)
        children = own.children(recursive=True)
        listed = [" ".join(one.cmdline()) for one in (own, *children)]
        assert "flows.gateway" in listed[0] and any("show_worker" in line for line in listed)
        assert not any(TOKEN in line for line in listed)
        assert children and not any(TOKEN in "".join(child.environ().values()) for child in children)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
        assert TOKEN not in output + errors and "Traceback" not in errors
        assert not any(child.is_running() for child in children)


def test_what_cannot_be_served_is_one_line(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "short").write_text("short")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    damaged = Path(shutil.copytree(archive, tmp_path / "damaged"))
    for part in [*damaged.glob("runs/*/report/*"), *damaged.glob("tables/*/rows-*")]:
        part.chmod(0o644)
        part.write_bytes(b"damaged")
    cases = {
        (str(damaged),): "damaged",
        (str(tmp_path / "nothing"),): "no archive here",
        (str(archive), "--token", str(tmp_path / "short")): "at least 16",
        (str(archive), "--token", str(tmp_path / "missing")): "cannot be read",
        (str(archive), "--cache", str(tmp_path / "full")): "empty folder",
        (str(archive), "--host", "192.0.2.1"): "cannot listen",
    }
    for arguments, why in cases.items():
        monkeypatch.setattr(sys, "argv", ["gateway", *arguments, "--port", "0"])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 1
        lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: whoever")]
        assert len(lines) == 1 and lines[0].startswith("error: ") and why in lines[0]
