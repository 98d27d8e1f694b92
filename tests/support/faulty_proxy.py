"""A proxy in front of an S3 server, as a process of its own, where requests go wrong as the test says.

`python -m tests.support.faulty_proxy PORT SERVER`: POST /-/rule sets what happens to which requests, POST /-/pid names
the process to kill, POST /-/log returns the requests since the last rule.
"""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ERROR = "<?xml version='1.0'?><Error><Code>{code}</Code></Error>"
CODES = {
    403: "AccessDenied",
    501: "NotImplemented",
    409: "ConditionalRequestConflict",
    412: "PreconditionFailed",
    500: "InternalError",
    503: "SlowDown",
}
STALL = 1.5
"""Seconds that a stalled reply takes; the tests let their clients wait less."""


@dataclass(frozen=True)
class Rule:
    """Every `every`-th request whose "METHOD path" matches suffers the next of `acts`; with `once`, only the first.

    Acts:
        a status: the reply, without asking the server
        drop: the connection ends before the request is served
        lose: the request is served, its reply is lost
        stall: the reply comes too late
        drip: the body of the reply comes in drops
        cut: the body of the reply ends half-way
        kill-before, kill-middle, kill-after: the named process is killed before its body was read, with half of it
            read, or after the request was served; it gets no reply
    """

    acts: list[str]
    pattern: str
    every: int = 1
    once: bool = False


class _State:
    rule: Rule | None = None
    seen = 0
    log: list[str] = []  # noqa: RUF012  # one state a process
    lock = threading.Lock()  # requests come on a thread each, and a rule counts them
    pid = 0
    named = threading.Event()  # set once a test has said which process to kill


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or a reply's body waits 40 ms for the word that its head has come
    server_address: tuple[str, int]

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self) -> None:
        if self.path.startswith("/-/"):
            self._control()
            return
        act = self._act()
        length = int(self.headers.get("Content-Length", 0))
        if act == "kill-middle":
            self.rfile.read(length // 2)
        if act in ("kill-before", "kill-middle"):
            _kill()
        if act in ("kill-before", "kill-middle", "drop"):
            self._hang_up()
            return
        body = self.rfile.read(length)
        # The sender was killed meanwhile: half of an object must not reach the server as if it were whole.
        if len(body) < length:
            self._hang_up()
            return
        if act.isdecimal():
            status = int(act)
            document = ERROR.format(code=CODES[status]).encode()
            self._send(status, [("Content-Type", "application/xml")], document)
            return
        status, headers, data = _served(sys.argv[2], self.command, self.path, body, dict(self.headers))
        if act == "kill-after":
            _kill()
        if act in ("kill-after", "lose"):
            self._hang_up()
            return
        if act == "stall":
            time.sleep(STALL)
        self._send(status, headers, data, act)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer

    def _act(self) -> str:
        request = f"{self.command} {self.path}"
        with _State.lock:
            _State.log.append(request)
            rule = _State.rule
            if rule is None or not re.search(rule.pattern, request):
                return ""
            _State.seen += 1
            if _State.seen % rule.every != 0:
                return ""
            turn = _State.seen // rule.every - 1
            if rule.once and turn > 0:
                return ""
            return rule.acts[turn % len(rule.acts)]

    def _send(self, status: int, headers: list[tuple[str, str]], data: bytes, act: str = "") -> None:
        # Without Server and Date, which the headers of the real server hold.
        self.send_response_only(status)
        # These describe the connection to the server, not the one to the client.
        skipped = ["transfer-encoding", "connection"]
        # The reply to HEAD has no body, and its Content-Length is the object's, which only the server knows.
        if self.command == "HEAD":
            data = b""
        else:
            skipped.append("content-length")
        for name, value in headers:
            if name.lower() not in skipped:
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if act == "cut":
            self.wfile.write(data[: len(data) // 2])
            self._hang_up()
        elif act == "drip":
            self._drip(data)
        else:
            self.wfile.write(data)

    def _drip(self, data: bytes) -> None:
        step = max(1, len(data) // 10)
        for start in range(0, len(data), step):
            self.wfile.write(data[start : start + step])
            self.wfile.flush()
            time.sleep(0.02)

    def _hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):  # a killed client has closed it already
            self.connection.shutdown(socket.SHUT_RDWR)

    def _control(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        answer = b"null"
        with _State.lock:
            if self.path == "/-/rule":
                told = json.loads(body)
                _State.rule = Rule(**told) if told else None
                _State.seen = 0
                _State.log = []
                _State.pid = 0
                _State.named.clear()
            elif self.path == "/-/pid":
                _State.pid = json.loads(body)
                _State.named.set()
            else:
                answer = json.dumps(_State.log).encode()
        self._send(200, [("Content-Type", "application/json")], answer)


def _kill() -> None:
    # A test starts the process first and names it then, and the request may come in between.
    _State.named.wait(60)
    os.kill(_State.pid, signal.SIGKILL)


def _served(
    server: str, method: str, path: str, body: bytes, headers: dict[str, str]
) -> tuple[int, list[tuple[str, str]], bytes]:
    connection = http.client.HTTPConnection(server, timeout=60)
    try:
        # `Expect: 100-continue` was answered by this proxy, which has read the whole body.
        sent = {name: value for name, value in headers.items() if name.lower() != "expect"}
        connection.request(method, path, body, sent)
        response = connection.getresponse()
        return response.status, response.getheaders(), response.read()
    finally:
        connection.close()


class Proxy:
    """The proxy from the test's side."""

    def __init__(self, address: str) -> None:
        self.address = address

    def rule(self, *acts: str, pattern: str = ".", every: int = 1, once: bool = False) -> None:
        """Set what happens from now on; without acts, nothing does. Clears the log."""
        told = asdict(Rule(list(acts), pattern, every, once)) if acts else {}
        self._ask("rule", told)

    def kill(self, pid: int) -> None:
        """Name the process that the rule kills."""
        self._ask("pid", pid)

    def log(self) -> list[str]:
        """The requests since the last rule."""
        return list(self._ask("log", None))

    def _ask(self, what: str, told: Any) -> Any:
        request = urllib.request.Request(f"{self.address}/-/{what}", json.dumps(told).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())


@contextmanager
def proxying(server: str) -> Iterator[Proxy]:
    """A proxy before the server at an address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, __file__, str(port), server.removeprefix("http://")])
    proxy = Proxy(f"http://127.0.0.1:{port}")
    try:
        _wait(proxy)
        yield proxy
    finally:
        process.kill()
        process.wait()


def _wait(proxy: Proxy) -> None:
    deadline = time.time() + 300
    while True:
        try:
            proxy.rule()
            return
        except OSError:
            if time.time() > deadline:
                raise
            time.sleep(0.1)


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), _Handler).serve_forever()
