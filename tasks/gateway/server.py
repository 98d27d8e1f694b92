"""The gateway's web application: routes, headers and limits. It only reads, and names no path of the archive."""

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse

from codec.errors import FdcError
from tasks.gateway import addresses, conditions, listing
from tasks.gateway.addresses import FDC, Address
from tasks.gateway.cache import DiskCache
from tasks.gateway.catalog import Catalog, CatalogEntry
from tasks.gateway.figures import Figures
from tasks.gateway.guard import Guard, refused
from tasks.gateway.pictures import DecodingLimits, PictureMaker
from tasks.gateway.refusals import Refusal
from tasks.gateway.stored import whole
from tasks.gateway.tokens import Gate
from tasks.processes.codec_process import Models
from tasks.storage.store import Store

LOGGER = logging.getLogger(__name__)
PAGE_POLICY = (
    "default-src 'none'; img-src 'self' data:; style-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
PICTURE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; sandbox"
"""Browsers style the page that they make around a picture."""
CACHING = "private, no-cache"
"""A browser may keep a picture but asks each time whether it is still there: it may have been erased."""


class Gateway:
    """The state of a running gateway. `state_age` is how old, in seconds, its view of the archive may be."""

    def __init__(
        self,
        archive: Store,
        models: Models,
        cache: DiskCache,
        limits: DecodingLimits,
        *,
        metadata: bool = False,
        state_age: float = 1.0,
    ) -> None:
        self.figures = Figures()
        self.catalog = Catalog(archive)
        self.pictures = PictureMaker(archive, models, cache, limits, self.figures, self.catalog.held)
        self._cache = cache
        self._metadata = metadata
        self._state_age = state_age
        self._checked = float("-inf")
        self._checking = asyncio.Lock()
        self._page = listing.ListingPage(archive.url.rstrip("/").rpartition("/")[2] or "archive")
        cache.keep_only(self.catalog.held)
        watched: dict[str, tuple[str, Callable[[], float]]] = {
            "cache_bytes": ("Bytes in the cache.", lambda: cache.bytes),
            "cache_files": ("Files in the cache.", lambda: len(cache)),
            "queue_seconds": ("Estimated processor seconds of waiting and running work.", self._waiting),
        }
        for name, (meaning, value) in watched.items():
            self.figures.watch(name, meaning, value)

    def _waiting(self) -> float:
        return self.pictures.decoding.seconds + self.pictures.light.seconds

    async def settle(self) -> None:
        """Brings the catalog and the cache up to date, if their state is too old. Raises Refusal."""
        if time.monotonic() - self._checked <= self._state_age:
            return
        async with self._checking:  # one check at a time; those who waited use its result
            if time.monotonic() - self._checked <= self._state_age:
                return
            started = time.monotonic()
            try:
                await asyncio.to_thread(self._settled)
            except FdcError as error:
                LOGGER.error("%s", error)
                # An older state might show a picture that was erased since.
                raise Refusal(503, "the archive's store does not answer", 10) from error
            self._checked = started

    def _settled(self) -> None:
        if not self.catalog.is_current():
            self.catalog.refresh()
            self._cache.keep_only(self.catalog.held)

    async def entry(self, key: str) -> CatalogEntry:
        """The entry of a key as the archive is now. Raises Refusal."""
        await self.settle()
        entry = await asyncio.to_thread(self.catalog.find, key)
        if entry is None:
            raise Refusal(404, "the archive has no picture under this key")
        if entry.file is None:
            raise Refusal(410, "this picture was erased permanently")
        return entry

    async def index(self, request: Request) -> Response:
        """The listing page."""
        search = listing.parse(request.scope["query_string"])
        await self.settle()
        found = await asyncio.to_thread(self.catalog.search, search)
        page = self._page.render(search, found)
        return HTMLResponse(page, headers={"Content-Security-Policy": PAGE_POLICY, "Cache-Control": CACHING})

    async def asked(self, request: Request) -> Response:
        """A picture or a stored file."""
        scope = request.scope
        address = addresses.parse(scope.get("raw_path") or scope["path"].encode(), scope["query_string"])
        entry = await self.entry(address.key)
        tag = self.pictures.tag(entry, address, metadata=self._metadata and address.is_stored)
        headers = {"ETag": tag, "Cache-Control": CACHING, "Content-Security-Policy": PICTURE_POLICY}
        headers["Vary"] = "Authorization"
        if conditions.is_known(tag, request.headers):
            return Response(status_code=304, headers=headers)
        generation = self.catalog.generation
        data, media_type = await self._content(entry, address, is_head=request.method == "HEAD")
        if self.catalog.generation != generation:
            await self.entry(address.key)  # it may have been erased while it was made
        if address.is_stored:
            headers["Content-Disposition"] = "attachment"
            return _ranged(request, data, media_type, headers)
        response = Response(data, media_type=media_type, headers=headers)
        if request.method == "HEAD":
            del response.headers["content-length"]  # unknown until the picture is made
        return response

    async def _content(self, entry: CatalogEntry, address: Address, *, is_head: bool) -> tuple[bytes, str]:
        if address.suffix == FDC:
            return await self.pictures.stored(entry, metadata=self._metadata), addresses.FDC_TYPE
        if address.is_stored:
            file, media_type = whole(entry, metadata=self._metadata)
            return await self.pictures.whole(file), media_type
        if is_head:  # nothing is decoded for a response without a body
            return b"", addresses.KINDS[address.suffix]
        return await self.pictures.picture(entry, address), addresses.KINDS[address.suffix]

    def close(self) -> None:
        """Ends child processes and removes the catalog."""
        self.pictures.close()
        self.catalog.close()


def _ranged(request: Request, data: bytes, media_type: str, headers: dict[str, str]) -> Response:
    """A response with the bytes that Range asks for."""
    headers = headers | {"Accept-Ranges": "bytes"}
    try:
        chosen = conditions.chosen_range(request.headers, headers["ETag"], len(data))
    except conditions.RangeError:
        return PlainTextResponse(
            "no such range\n", 416, headers | {"Content-Range": f"bytes */{len(data)}"}
        )  # fmt: skip
    if chosen is None:
        return Response(data, media_type=media_type, headers=headers)
    first, last = chosen
    headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
    return Response(data[first : last + 1], 206, headers, media_type)


def application(gateway: Gateway, gate: Gate, *, hosts: frozenset[str], concurrency: int) -> Any:
    """The application of a gateway, which its caller closes. `hosts` and `concurrency` are those of Guard."""
    app = FastAPI(title="fdcodec gateway", docs_url=None, redoc_url=None, openapi_url=None)
    reading = partial(app.api_route, methods=["GET", "HEAD"])

    @reading("/")
    async def index(request: Request) -> Response:
        return await gateway.index(request)

    @reading("/health")
    async def health() -> Response:
        return PlainTextResponse("ok\n")

    @reading("/metrics")
    async def metrics() -> Response:
        return Response(gateway.figures.text(), media_type=gateway.figures.media_type)

    @reading(listing.STYLE)
    async def style() -> Response:
        text = (listing.PAGES / "style.css").read_text(encoding="utf-8")
        return Response(text, media_type="text/css", headers={"Cache-Control": "max-age=3600"})

    async def asked(scope: Any, receive: Any, send: Any) -> None:
        response = await gateway.asked(Request(scope, receive))
        await response(scope, receive, send)

    @app.exception_handler(Refusal)
    async def refuse(_: Request, refusal: Exception) -> Response:
        return refused(cast(Refusal, refusal))

    # A route cannot match every key: not one with a line end, nor two slashes in a row.
    app.router.default = asked
    app.router.redirect_slashes = False

    def count(status: int) -> None:
        gateway.figures.requests.labels(str(status)).inc()

    return Guard(app, gate, hosts=hosts, concurrency=concurrency, counted=count)
