"""A web server whose every path says how it misbehaves."""

import hashlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class WebServer:
    """The files of a server by path, its address, and the requests it got. `let_go` ends the replies that hang.

    The first part of a path says what happens:
        moved: a redirect to the rest of the path
        loop: a redirect to itself
        status: an error whose number follows
        headless: HEAD is refused
        unsaid: the length is not stated
        ranges: ranges are served, which no other kind does
        slow: the body stops after ten bytes until `let_go` is set
        cut: the last seven bytes are missing
    """

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
            if kind == "loop":
                self._end(302, {"Location": self.path, "Content-Length": "0"})
            elif kind == "moved":
                self._end(302, {"Location": "/" + "/".join(rest), "Content-Length": "0"})
            elif content is None:
                status = int(rest[0]) if kind == "status" else 404
                self._end(status, {"Content-Length": "0"})
            elif kind == "headless" and not body:
                self._end(405, {"Content-Length": "0"})
            else:
                self._file(kind, content, body=body)

        def _file(self, kind: str, content: bytes, *, body: bool) -> None:
            headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
            if kind == "unsaid":
                # Without a length, the end of the connection is the end of the file.
                self._end(200, headers | {"Connection": "close"})
                if body:
                    self._body(content)
                return
            status = 200
            asked = self.headers.get("Range")
            if kind == "ranges" and asked:
                first, _, last = asked.removeprefix("bytes=").partition("-")
                headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
                content = content[int(first) : int(last) + 1]
                status = 206
            self._end(status, headers | {"Content-Length": str(len(content))})
            if kind == "cut":
                # A client that waits for the rest would wait for ever if the connection stayed.
                self.close_connection = True
                content = content[:-7]
            if not body:
                return
            if kind == "slow":
                self._body(content[:10])
                server.let_go.wait(60)
                content = content[10:]
            self._body(content)

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
        # Kept, so that connections which a client holds open can be ended with the server.
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
