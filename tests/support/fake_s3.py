"""A real S3 server over HTTP, as a process of its own."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from s3fs import S3FileSystem

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "planted-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@contextmanager
def serving(log: Path | None = None) -> Iterator[str]:
    """The address of a server that forgets everything when the context ends; it writes each request to the log."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tests.support.fake_s3", str(port)]
    with (log or Path(os.devnull)).open("wb") as errors:
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
    try:
        _wait(f"http://127.0.0.1:{port}")
        S3FileSystem.clear_instance_cache()  # or the client of an earlier server would be taken
        yield f"http://127.0.0.1:{port}"
    finally:
        S3FileSystem.clear_instance_cache()
        server.kill()
        server.wait()


@contextmanager
def in_environment(log: Path | None = None) -> Iterator[str]:
    """The address of such a server; address and credentials are in the environment, as for any user."""
    with serving(log) as address, pytest.MonkeyPatch.context() as patch:
        for name, value in {"AWS_ENDPOINT_URL": address, **CREDENTIALS}.items():
            patch.setenv(name, value)
        yield address


def _wait(address: str) -> None:
    deadline = time.time() + 300
    while True:
        try:
            urllib.request.urlopen(f"{address}/moto-api/", timeout=5).close()
            return
        except OSError:
            if time.time() > deadline:
                raise
            time.sleep(0.2)


def _serve(port: int) -> None:
    """One request at a time: the server looks before it creates, and would let two creators of one name win."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import run_simple

    application = DomainDispatcherApplication(create_backend_app)
    run_simple("127.0.0.1", port, application, threaded=False, request_handler=MotoRequestHandler)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
