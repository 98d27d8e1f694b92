"""Connections with deadlines: a client that sends or reads too slowly does not hold one for long."""

import socket
import time
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from tasks.gateway.guard import HEAD_BYTES

HEAD_SECONDS = 15.0
"""How long a client may take to send the head of a request, and a connection may rest between requests."""
READ_SECONDS = 300.0
"""How long a client may take to read a response."""
MOST_CONNECTIONS = 512
CHECKED_EVERY = 2.0


class GuardedConnection(H11Protocol):
    """A connection that is cut off if it rests too long, or if what was sent to it waits too long to be read."""

    _resting_since = 0.0
    _unread_since: float | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._resting_since = time.monotonic()
        self.loop.call_later(CHECKED_EVERY, self._check)

    def on_response_complete(self) -> None:
        self._resting_since = time.monotonic()
        super().on_response_complete()

    def _check(self) -> None:
        now = time.monotonic()
        if not self.transport.get_write_buffer_size():
            self._unread_since = None
            if self.transport.is_closing():
                return
        elif self._unread_since is None:
            self._unread_since = now
        is_at_work = self.cycle is not None and not self.cycle.response_complete
        if self._unread_since is not None:
            is_late = now - self._unread_since > READ_SECONDS
        else:
            is_late = not is_at_work and now - self._resting_since > HEAD_SECONDS
        if is_late:
            self.transport.abort()
        else:
            self.loop.call_later(CHECKED_EVERY, self._check)


def server(app: Any) -> uvicorn.Server:
    """The web server of an application. It writes no address of a request to a log."""
    config = uvicorn.Config(
        app,
        http=GuardedConnection,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MOST_CONNECTIONS,
        h11_max_incomplete_event_size=HEAD_BYTES,
        timeout_graceful_shutdown=5,
    )
    return uvicorn.Server(config)


def bound(host: str, port: int) -> socket.socket:
    """A listening socket, of the family that the host needs. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family, backlog=256)
    # asyncio sets it only on sockets that it opens itself; without it each response waits 40 ms for an acknowledgment
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening
