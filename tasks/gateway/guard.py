"""What every request passes first: limits, the token, the host; and the headers of every response."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fastapi import Response
from fastapi.responses import PlainTextResponse

from tasks.gateway.addresses import LONGEST
from tasks.gateway.refusals import Refusal
from tasks.gateway.tokens import Gate

LOGGER = logging.getLogger(__name__)
Message = MutableMapping[str, Any]
Application = Callable[[Any, Any, Any], Awaitable[None]]
METHODS = ("GET", "HEAD")
OPEN = (b"/health",)
"""Paths that need no token."""
REQUEST_SECONDS = 400.0
"""How long a request may take in all, longer than any picture may."""
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
HEAD_BYTES = 32_768
"""Most bytes of a request's headers. The web server only limits what has not arrived completely."""
MOST_HEADERS = 100
REALM = 'Basic realm="archive", charset="UTF-8"'
LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})


class Guard:
    """An ASGI application around another. Refusals become one line of plain text.

    `hosts` are the only names in Host that are answered, if any: with a name of its own, a page of a stranger could
    read what listens on the loopback interface (DNS rebinding). More than `concurrency` requests at a time are refused.
    """

    def __init__(
        self,
        app: Application,
        gate: Gate,
        *,
        hosts: frozenset[str] = frozenset(),
        concurrency: int = 64,
        counted: Callable[[int], None] = lambda status: None,
    ) -> None:
        self._app = app
        self._gate = gate
        self._hosts = hosts
        self._concurrency = concurrency
        self._counted = counted
        self._under_way = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def sent(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                _complete(message)
                self._counted(message["status"])
            await send(message)

        try:
            self._check(scope)
            self._under_way += 1
            try:
                async with asyncio.timeout(REQUEST_SECONDS):
                    await self._app(scope, receive, sent)
            finally:
                self._under_way -= 1
        except Refusal as refusal:
            await refused(refusal)(scope, receive, sent)
        except TimeoutError:
            if not started:
                await refused(Refusal(504, "took too long"))(scope, receive, sent)
        except Exception:
            # its traceback is for the operator: a client gets neither paths nor locations
            LOGGER.exception("a request failed")
            if not started:
                await refused(Refusal(500, "an error of the gateway; its log says more"))(scope, receive, sent)

    def _check(self, scope: Any) -> None:
        """Raises Refusal for a request that is not answered."""
        head = sum(len(name) + len(value) for name, value in scope["headers"])
        if head > HEAD_BYTES or len(scope["headers"]) > MOST_HEADERS:
            raise Refusal(431, f"more than {MOST_HEADERS} headers, or {HEAD_BYTES} bytes of them")
        headers = dict(scope["headers"])  # the last one of equal names
        if scope["method"] not in METHODS:
            raise Refusal(405, "this gateway only reads: GET or HEAD")
        if headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers:
            raise Refusal(413, "requests have no body here")
        if max(len(scope.get("raw_path") or b""), len(scope["query_string"])) > LONGEST:
            raise Refusal(414, f"a path or query of more than {LONGEST} bytes")
        if self._hosts and _host(headers.get(b"host", b"")) not in self._hosts:
            raise Refusal(
                421, "this gateway does not answer under that name; give it a --token to be reached by others"
            )
        if scope.get("raw_path") not in OPEN and not self._gate.lets_in(headers.get(b"authorization", b"")):
            raise Refusal(401, "this gateway needs a token: as Bearer, or as the password of Basic")
        if self._under_way >= self._concurrency:
            raise Refusal(503, f"{self._concurrency} requests are under way; try again in 1 s", 1)


def _host(given: bytes) -> str:
    """The name in a Host header, without the port."""
    name = given.decode("latin-1").lower()
    if name.startswith("["):
        return name.partition("]")[0] + "]"
    return name.partition(":")[0]


def _complete(message: Message) -> None:
    there = {name.lower() for name, _ in message["headers"]}
    added = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
    message["headers"] = [*message["headers"], *(each for each in added if each[0] not in there)]


def refused(refusal: Refusal) -> Response:
    """The response of a refusal: one line of plain text."""
    headers = {"Cache-Control": "no-store", "Content-Security-Policy": "default-src 'none'"}
    if refusal.retry_after is not None:
        headers["Retry-After"] = str(refusal.retry_after)
    if refusal.status == 401:
        headers["WWW-Authenticate"] = REALM
    if refusal.status == 405:
        headers["Allow"] = ", ".join(METHODS)
    return PlainTextResponse(f"{' '.join(refusal.why.split())}\n", refusal.status, headers)
