"""A real S3 server over HTTP, as a process of its own. It can behave as servers of other makers do.

`python -m tests.support.fake_s3 PORT WAY...`, where WAY is one of WAYS.
"""

import base64
import hashlib
import io
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from s3fs import S3FileSystem

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "planted-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
}

WAYS = {
    "checks-checksums": "compares a body with the SHA-256 beside it, and refuses another one",
    "knows-no-checksums": "stores and returns no checksums",
    "says-checksums-of-ranges": "returns the checksum of the whole object with a part of it",
    "ignores-condition-on-put": "ignores If-None-Match on PutObject",
    "ignores-condition-on-complete": "ignores If-None-Match on CompleteMultipartUpload",
}
"""Without any of them it stores the checksum that a client sends, and honors conditions."""


@contextmanager
def serving(log: Path | None = None, ways: Iterable[str] = ()) -> Iterator[str]:
    """The address of a server that forgets everything when the context ends; it writes each request to the log."""
    # moto does not tell which port it chose, so a free one is looked up for it.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tests.support.fake_s3", str(port), *ways]
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
def in_environment(log: Path | None = None, ways: Iterable[str] = ()) -> Iterator[str]:
    """The address of such a server; address and credentials are in the environment, as for any user."""
    with serving(log, ways) as address, pytest.MonkeyPatch.context() as patch:
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


Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class _Odd:
    """A WSGI application in front of the server, with ways of its own."""

    def __init__(self, application: Application, ways: list[str]) -> None:
        self._application = application
        self._ways = ways

    def __call__(self, environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        method = environment["REQUEST_METHOD"]
        if "knows-no-checksums" in self._ways:
            for name in list(environment):
                if "CHECKSUM" in name:
                    del environment[name]
        if method == "PUT" and "ignores-condition-on-put" in self._ways:
            environment.pop("HTTP_IF_NONE_MATCH", None)
        if method == "POST" and "ignores-condition-on-complete" in self._ways:
            environment.pop("HTTP_IF_NONE_MATCH", None)
        if method == "PUT" and "checks-checksums" in self._ways and not _intact(environment):
            start("400 Bad Request", [("Content-Type", "application/xml")])
            return [b"<Error><Code>BadDigest</Code><Message>other bytes</Message></Error>"]
        if method == "GET" and "says-checksums-of-ranges" in self._ways and "HTTP_RANGE" in environment:
            # A client that compared it with the part would refuse sound bytes.
            whole = _checksum(b"another content")

            def start_with_checksum(status: str, headers: list[tuple[str, str]]) -> Any:
                return start(status, [*headers, ("x-amz-checksum-sha256", whole)])

            return self._application(environment, start_with_checksum)
        return self._application(environment, start)


def _intact(environment: dict[str, Any]) -> bool:
    """Whether the body of a request has the checksum that is sent with it, if one is."""
    told = environment.get("HTTP_X_AMZ_CHECKSUM_SHA256")
    if not told:
        return True
    body = environment["wsgi.input"].read(int(environment["CONTENT_LENGTH"]))
    environment["wsgi.input"] = io.BytesIO(body)  # a stream is read once, and the server reads it next
    return _checksum(body) == told


def _checksum(content: bytes) -> str:
    return base64.b64encode(hashlib.sha256(content).digest()).decode()


def _serve(port: int, ways: list[str]) -> None:
    """One request at a time: the server looks before it creates, and would let two creators of one name win."""
    # Imported here: these take seconds, which only the server's own process should pay.
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import run_simple

    application = DomainDispatcherApplication(create_backend_app)
    served = _Odd(application, ways) if ways else application
    run_simple("127.0.0.1", port, served, threaded=False, request_handler=MotoRequestHandler)


if __name__ == "__main__":
    _serve(int(sys.argv[1]), sys.argv[2:])
