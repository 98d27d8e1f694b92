"""Serves the decoder's page on the loopback interface, in isolation, which lets the browser use threads."""

import functools
import gzip
import mimetypes
import posixpath
import re
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from codec.browser import page
from codec.bundle import find_bundle
from codec.errors import BundleError

HOST = "127.0.0.1"
HEADERS = {
    # both together isolate the page, without which browsers share no memory between threads
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": (
        "default-src 'self' blob:; img-src 'self' blob: data:; script-src 'self' 'wasm-unsafe-eval' blob:"
    ),
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}
TYPES = {
    ".mjs": "text/javascript",
    ".wasm": "application/wasm",
    ".wat": "text/plain",
    ".fdc": "application/octet-stream",
}
KEY = re.compile(rf"[0-9a-f]{{{page.KEY_DIGITS}}}")


class PageServer(ThreadingHTTPServer):
    """Serves the page, the files it was given by name, and the bundles that it asks for."""

    daemon_threads = True

    def __init__(
        self, given: Mapping[str, bytes], bundles: tuple[str, ...] = (), port: int = 0, webgpu: Path | None = None
    ) -> None:
        runtime = page.packed_runtime(webgpu)
        super().__init__((HOST, port), _Handler)
        self.given = {name: gzip.decompress(content) for name, content in runtime.items()} | dict(given)
        self.bundles = bundles

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.server_port}/"

    def content(self, name: str) -> bytes | None:
        """The file of this name, or None. Raises BundleError for a bundle that is not here."""
        if name in self.given:
            return self.given[name]
        key = posixpath.dirname(name)
        if KEY.fullmatch(key):
            return self._bundle(key).get(name)
        scripts = {path.name: path for path in page.SCRIPT.iterdir()}
        return scripts[name].read_bytes() if name in scripts else None

    @functools.lru_cache(maxsize=2)  # noqa: B019  (a server lives as long as its process)
    def _bundle(self, key: str) -> Mapping[str, bytes]:
        found = find_bundle(key, self.bundles)
        return page.bundle_files(found.path, found.id)


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        # a site elsewhere whose name was made to point here must not read the user's pictures
        if self.headers.get("Host") not in (
            f"{HOST}:{self.server.server_port}",
            f"localhost:{self.server.server_port}",
        ):
            self._answer(HTTPStatus.FORBIDDEN, b"this server answers to its loopback address alone", "text/plain")
            return
        name = self.path.partition("?")[0].lstrip("/") or "page.html"
        try:
            content = self.server.content(name)
        except BundleError as error:
            self._answer(HTTPStatus.NOT_FOUND, " ".join(str(error).split()).encode(), "text/plain")
            return
        if content is None:
            self._answer(HTTPStatus.NOT_FOUND, f"there is no {name}".encode(), "text/plain")
            return
        suffix = posixpath.splitext(name)[1]
        kind = TYPES.get(suffix) or mimetypes.types_map.get(suffix) or "application/octet-stream"
        self._answer(HTTPStatus.OK, content, kind)

    def _answer(self, status: HTTPStatus, content: bytes, kind: str) -> None:
        self.send_response(status)
        for header, value in HEADERS.items():
            self.send_header(header, value)
        self.send_header("Content-Type", kind if kind.startswith("image/") else f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Keeps the terminal quiet."""
