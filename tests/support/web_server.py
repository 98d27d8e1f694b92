"""A web server whose every path says how it misbehaves."""

import hashlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class WebServer:
    """The files of a server, its address, and the requests it got. `let_go` ends the replies that hang."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.let_go = threading.Event()
        self.address = ""


def _handler(server: WebServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._reply(body=False)

        def do_GET(self) -> None:
            self._reply(body=True)

        def _reply(self, *, body: bool) -> None:
            server.requests.append((self.command, self.path))
            _, kind, *rest = self.path.split("/")
            content = server.files.get(self.path)
            if kind in ("moved", "loop"):
                to = self.path if kind == "loop" else "/" + "/".join(rest)
                self._end(302, {"Location": to, "Content-Length": "0"})
                return
            if content is None or (kind == "headless" and not body):
                status = int(rest[0]) if kind == "status" else 404 if content is None else 405
                self._end(status, {"Content-Length": "0"})
                return
            headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
            if kind == "unsaid":
                self._end(200, headers | {"Connection": "close"})
                self._body(content if body else b"")
                return
            status = 200
            if kind == "ranges" and (asked := self.headers.get("Range")):
                first, _, last = asked.removeprefix("bytes=").partition("-")
                headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
                status, content = 206, content[int(first) : int(last) + 1]
            self._end(status, headers | {"Content-Length": str(len(content))})
            if kind == "slow" and body:
                self._body(content[:10])
                server.let_go.wait(60)
                content = content[10:]
            self._body(content[:-7] if kind == "cut" and body else content if body else b"")
            if kind == "cut":
                self.close_connection = True

        def _end(self, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def _body(self, content: bytes) -> None:
            self.wfile.write(content)
            self.wfile.flush()

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.connections: list[socket.socket] = []

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.append(request)
        super().process_request(request, client_address)

    def handle_error(self, *_: Any) -> None:
        """A client that hangs up is no news."""


@contextmanager
def web() -> Iterator[WebServer]:
    """A server in this process."""
    server = WebServer()
    with _Quiet(("127.0.0.1", 0), _handler(server)) as listening:
        server.address = f"http://127.0.0.1:{listening.server_port}"
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.let_go.set()
            listening.shutdown()
            for connection in listening.connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            thread.join()
