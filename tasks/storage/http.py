"""Reads from web servers: unknown sizes, ignored ranges, redirects and endless responses.

Uses the session of `fs`, fsspec's HTTP file system, which itself reports every failure as "not found".
"""

import errno
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import aiohttp
from fsspec.asyn import sync

CONNECT_SECONDS = 10.0
"""Longest time to connect."""
SILENT_SECONDS = 60.0
"""Longest wait for the next bytes."""
# the Content-Length of a compressed reply would not be the file's size
_PLAIN = {"Accept-Encoding": "identity"}
_TRY_AGAIN = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)


def options() -> dict[str, Any]:
    """Options of fsspec's file system: no limit on a whole download, but one on silence."""
    patience = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENT_SECONDS)
    return {"client_kwargs": {"timeout": patience}}


def head(fs: Any, url: str) -> tuple[int | None, str]:
    """Returns a file's size, None if the server does not state it, and its ETag or else its date. Raises OSError."""
    return sync(fs.loop, _head, fs, url)  # type: ignore[no-any-return]  # fsspec is untyped


def pieces(fs: Any, url: str, most: int, length: int, start: int = 0) -> Iterator[bytes]:
    """Yields and reads at most `most` bytes of a file from `start` on, in pieces of `length`. Raises OSError."""
    reply = sync(fs.loop, _get, fs, url)
    try:
        # no range is requested, since servers may ignore it: the bytes before `start` are read and dropped
        while start:
            skipped = sync(fs.loop, _exactly, reply, min(length, start))
            if not skipped:
                break
            start -= len(skipped)
        while most:
            piece = sync(fs.loop, _exactly, reply, min(length, most))
            if not piece:
                break
            most -= len(piece)
            yield piece
    finally:
        # the reply belongs to fsspec's event loop, which runs in another thread
        fs.loop.call_soon_threadsafe(reply.close)


def answers(fs: Any, url: str) -> bool:
    """Whether the server of a URL works, whatever it answers for that URL."""
    try:
        status = sync(fs.loop, _status, fs, url)
    except (aiohttp.ClientError, OSError):
        return False
    return bool(status < HTTPStatus.INTERNAL_SERVER_ERROR)


async def _head(fs: Any, url: str) -> tuple[int | None, str]:
    session = await fs.set_session()
    async with session.head(fs.encode_url(url), headers=_PLAIN, allow_redirects=True) as reply:
        if reply.ok:
            size = _size(reply)
            if size is not None:
                return size, _stamp(reply)
    # some servers refuse HEAD or omit the size
    async with session.get(fs.encode_url(url), headers=_PLAIN) as reply:
        _check(reply)
        return _size(reply), _stamp(reply)


async def _get(fs: Any, url: str) -> aiohttp.ClientResponse:
    session = await fs.set_session()
    reply: aiohttp.ClientResponse = await session.get(fs.encode_url(url), headers=_PLAIN)
    try:
        _check(reply)
    except OSError:
        reply.close()
        raise
    return reply


async def _exactly(reply: aiohttp.ClientResponse, length: int) -> bytes:
    """Reads this many bytes, fewer at the end."""
    found = bytearray()
    while len(found) < length:
        some = await reply.content.read(length - len(found))
        if not some:
            break
        found += some
    return bytes(found)


async def _status(fs: Any, url: str) -> int:
    session = await fs.set_session()
    async with session.get(fs.encode_url(url), headers=_PLAIN, allow_redirects=False) as reply:
        return int(reply.status)


def _size(reply: aiohttp.ClientResponse) -> int | None:
    """The content length; None for a compressed response, whose header counts compressed bytes."""
    encoding = reply.headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        return None
    return reply.content_length


def _stamp(reply: aiohttp.ClientResponse) -> str:
    return str(reply.headers.get("ETag") or reply.headers.get("Last-Modified", "")).strip('"')


def _check(reply: aiohttp.ClientResponse) -> None:
    status = reply.status
    if reply.ok:
        return
    said = f"HTTP {status} {reply.reason or ''}".strip()
    if status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
        raise FileNotFoundError(errno.ENOENT, said)
    # EACCES is about this file alone and costs it its row; other errors count as a failure of the whole store
    if status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in _TRY_AGAIN:
        raise PermissionError(errno.EACCES, said)
    raise OSError(errno.EREMOTEIO, said)
