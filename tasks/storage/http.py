"""What only web servers have: sizes that nobody says, ranges that nobody honors, redirects, replies that never end.

`fs` is fsspec's HTTP file system, whose session this uses; of every failure, that file system says "not found".
"""

import errno
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import aiohttp
from fsspec.asyn import sync

CONNECT_SECONDS, SILENT_SECONDS = 10.0, 60.0
"""How long a server may take to accept a connection, and to send the next bytes."""
_PLAIN = {"Accept-Encoding": "identity"}
_TRY_AGAIN = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)


def options() -> dict[str, Any]:
    """What fsspec's file system is made with: no limit on the whole of a download, but on silence."""
    patience = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENT_SECONDS)
    return {"client_kwargs": {"timeout": patience}}


def head(fs: Any, url: str) -> tuple[int | None, str]:
    """Size, None where the server does not say it, and ETag or else date of a file; raises OSError."""
    return sync(fs.loop, _head, fs, url)  # type: ignore[no-any-return]  # fsspec is untyped


def pieces(fs: Any, url: str, most: int, length: int, start: int = 0) -> Iterator[bytes]:
    """At most so many bytes of a file from `start` on, in pieces of `length`; no more is read. Raises OSError."""
    reply = sync(fs.loop, _get, fs, url)
    try:
        while start and (skipped := sync(fs.loop, _exactly, reply, min(length, start))):
            start -= len(skipped)
        while most and (piece := sync(fs.loop, _exactly, reply, min(length, most))):
            most -= len(piece)
            yield piece
    finally:
        fs.loop.call_soon_threadsafe(reply.close)


def answers(fs: Any, url: str) -> bool:
    """Whether the server at an address is there and in working order, whatever it says of that address."""
    try:
        status = sync(fs.loop, _status, fs, url)
    except (aiohttp.ClientError, OSError):
        return False
    return bool(status < HTTPStatus.INTERNAL_SERVER_ERROR)


async def _head(fs: Any, url: str) -> tuple[int | None, str]:
    session = await fs.set_session()
    async with session.head(fs.encode_url(url), headers=_PLAIN, allow_redirects=True) as reply:
        if reply.ok and (size := _size(reply)) is not None:
            return size, _stamp(reply)
    async with session.get(fs.encode_url(url), headers=_PLAIN) as reply:  # some servers refuse HEAD, or know no size
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
    """So many bytes, fewer at the end."""
    found = bytearray()
    while len(found) < length and (some := await reply.content.read(length - len(found))):
        found += some
    return bytes(found)


async def _status(fs: Any, url: str) -> int:
    session = await fs.set_session()
    async with session.get(fs.encode_url(url), headers=_PLAIN, allow_redirects=False) as reply:
        return int(reply.status)


def _size(reply: aiohttp.ClientResponse) -> int | None:
    """The length of what is read: that of a compressed reply is another."""
    return reply.content_length if reply.headers.get("Content-Encoding", "identity") == "identity" else None


def _stamp(reply: aiohttp.ClientResponse) -> str:
    return str(reply.headers.get("ETag") or reply.headers.get("Last-Modified", "")).strip('"')


def _check(reply: aiohttp.ClientResponse) -> None:
    status = reply.status
    if reply.ok:
        return
    said = f"HTTP {status} {reply.reason or ''}".strip()
    if status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
        raise FileNotFoundError(errno.ENOENT, said)
    if status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in _TRY_AGAIN:
        raise PermissionError(errno.EACCES, said)
    raise OSError(errno.EREMOTEIO, said)
