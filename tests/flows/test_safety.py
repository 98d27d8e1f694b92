"""Safe by default: nothing is reported to anyone, nothing is pickled, and a secret stays where it was put."""

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from codec.errors import SettingsError
from flows import command
from tasks.storage.store import Store
from tests.flows.conftest import holding
from tests.support import fake_codec
from tests.support.archive_builder import bundle, png
from tests.support.fake_s3 import serving
from tests.support.prefect_server import ROOT, Server

SECRETS = {
    "AWS_ACCESS_KEY_ID": "PLANTED0KEY0ID",
    "AWS_SECRET_ACCESS_KEY": "planted-secret-key",
    "AWS_SESSION_TOKEN": "planted-session-token",
}
COMPRESS = f"""
from functools import partial
from flows import command, compress_archive
compress_archive.Models = partial(compress_archive.Models, codec={fake_codec.FAKE!r})
command.run(compress_archive.compress_archive, compress_archive.show, logs=True)
"""


def in_a_terminal(program: str, home: Path) -> str:
    """What a program prints that has a terminal on all its streams, and none of the settings that tests run under."""
    ours = ("PREFECT", "DO_NOT_TRACK", "CI", "GITHUB", "PYTEST")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environment |= {"PREFECT_HOME": str(home), "PYTHONPATH": str(ROOT), "TERM": "xterm"}
    alone = "import socket\ndef refuse(*_): print('network'); raise OSError\nsocket.socket.connect = refuse\n"
    terminal, end = pty.openpty()
    try:
        run = subprocess.run(
            [sys.executable, "-c", alone + program], env=environment, stdin=end, stdout=end, stderr=end, check=False
        )
        assert run.returncode == 0
        os.set_blocking(terminal, False)
        try:
            return os.read(terminal, 1 << 16).decode()
        except BlockingIOError:
            return ""
    finally:
        os.close(terminal)
        os.close(end)


def test_nothing_is_reported_from_an_interactive_terminal_either(tmp_path: Path) -> None:
    asks = "; from prefect._internal.analytics import is_telemetry_enabled; assert is_telemetry_enabled() is {}"
    prefect_alone = in_a_terminal("import prefect" + asks.format(True), tmp_path / "prefect")
    assert "telemetry" in prefect_alone.lower(), "Prefect alone reports its use from a terminal, and says so"
    ours = in_a_terminal("import flows.compress_archive" + asks.format(False), tmp_path / "ours")
    assert ours == ""


def test_pickles_are_only_read_where_the_reader_admits_nothing_but_arrays() -> None:
    sources = {
        path.relative_to(ROOT).as_posix(): path.read_text()
        for name in ("codec", "tasks", "flows")
        for path in (ROOT / name).rglob("*.py")
    }
    imports = re.compile(r"^\s*(import|from) (pickle|cloudpickle|dill|joblib|shelve|marshal)\b", re.MULTILINE)
    assert {name for name, text in sources.items() if imports.search(text)} == {"codec/metrics/perceptual.py"}
    assert "class _ArrayUnpickler(pickle.Unpickler)" in sources["codec/metrics/perceptual.py"]
    loads = [line for text in sources.values() for line in text.splitlines() if "torch.load(" in line]
    assert loads and all("weights_only=True" in line for line in loads)
    assert not [name for name, text in sources.items() if "torch.save(" in text]
    assert not [name for name, text in sources.items() if "persist_result=True" in text]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with serving() as address:
        for name, value in (SECRETS | {"AWS_ENDPOINT_URL": address, "AWS_DEFAULT_REGION": "us-east-1"}).items():
            monkeypatch.setenv(name, value)
        fsspec.filesystem("s3", skip_instance_cache=True).mkdir("safe")
        yield "s3://safe"


def compressing(server: Server, home: Path, *arguments: str) -> "subprocess.Popen[bytes]":
    """compress-archive on the server, told to log everything and to keep results as pickles."""
    environment = server.environment | {name: os.environ[name] for name in os.environ if name.startswith("AWS_")}
    environment |= {
        "PREFECT_HOME": str(home),
        "PREFECT_LOGGING_LEVEL": "DEBUG",
        "PREFECT_RESULTS_DEFAULT_SERIALIZER": "pickle",
    }
    command = [sys.executable, "-c", COMPRESS, *arguments]
    return subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_a_secret_is_in_no_log_database_manifest_report_or_artifact(
    server: Server, bucket: str, tmp_path: Path
) -> None:
    photos = Store(f"{bucket}/photos")
    for seed in range(2):
        photos.publish(f"{seed}.png", png(seed))
    archive = f"{bucket}/archive"
    options = ["--bundle", str(bundle(tmp_path / "bundle")), "--metrics", "none", "--threads", "1"]
    done = compressing(server, tmp_path / "home", f"{bucket}/photos", archive, *options)
    failed = compressing(server, tmp_path / "other", "s3://nowhere/photos", "s3://nowhere/archive", *options)
    printed = done.communicate()[0]
    assert done.returncode == command.DONE, printed.decode()
    printed += failed.communicate()[0]
    assert failed.returncode == command.FATAL

    assert b"s3://nowhere" in printed
    holders = holding("s3://safe/photos", server, printed, archive)
    found = {re.sub(r"manifest-\w+", "manifest", place) for place in holders}
    assert found >= {"server database", "runs/000001/manifest.json", "runs/000001/report/part-000000.parquet"}
    for name, secret in SECRETS.items():
        assert holding(secret, server, printed, archive) == set(), name
    [kept] = tmp_path.rglob("storage/*")
    said = json.loads(kept.read_text())["__exc_type__"]
    assert said == "tasks.storage.errors.StorageError", "the error that Prefect keeps is JSON"


def test_a_url_with_a_password_never_reaches_prefect(server: Server, tmp_path: Path) -> None:
    run = compressing(server, tmp_path / "home", "https://me:planted-password@host/photos", str(tmp_path / "a"))
    printed = run.communicate()[0]
    assert run.returncode == command.FATAL
    assert b"error: source: Prefect would store the password in this URL" in printed
    assert b"planted-password" not in printed
    assert b"planted-password" not in b"".join(part.read_bytes() for part in server.database.parent.glob("prefect.db*"))


def test_a_deployment_does_not_use_a_url_with_a_password_and_does_not_repeat_it() -> None:
    with pytest.raises(SettingsError, match="use the environment") as refused:
        command.resolved("https://me:planted-password@host/photos")
    assert "planted-password" not in str(refused.value)
    assert command.resolved("s3://bucket/a:b@c") == "s3://bucket/a:b@c"
