"""Makes the pictures that are asked for: from the cache, from a preview, or by decoding in a child process."""

import asyncio
import importlib.metadata
import logging
import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from codec.errors import ArchiveError, BitstreamError, FdcError
from codec.format.preview import Preview
from codec.preview import read_preview
from tasks.archive.decoders import Decoders
from tasks.archive.schema import TROUBLE
from tasks.gateway.addresses import FDC, Address
from tasks.gateway.admission import WorkQueue, timed
from tasks.gateway.cache import DiskCache
from tasks.gateway.catalog import CatalogEntry
from tasks.gateway.conditions import entity_tag
from tasks.gateway.figures import Figures
from tasks.gateway.refusals import Refusal
from tasks.gateway.stored import without_metadata
from tasks.processes import show_worker
from tasks.processes.child import Child, ChildDied
from tasks.processes.codec_process import Models, worker
from tasks.processes.requests import Show
from tasks.restore.stored_file import StoredFile, is_large, read_member
from tasks.storage.errors import StorageError
from tasks.storage.store import Store

LOGGER = logging.getLogger(__name__)
SECONDS = 300.0
"""How long one picture may take to decode."""
COSTS = {"fdc": 8.0, "jxl": 1.0, "original": 0.5, "preview": 0.5}
"""Processor seconds of a megapixel by codec, before any is measured."""
QUALITY = {"png": "png", "jpg": "jpeg:85", "webp": "webp:85", "avif": "avif:75"}
"""How a picture is coded by suffix."""
NOT_SHOWN = ("not_an_image", "raw", "damaged", "unsupported", *TROUBLE)
"""Reasons for which a file was kept whole that also keep it from being shown."""
READERS = 8
"""Threads that read from the store and the disk."""
DAMAGED = "this picture is damaged in the archive; audit it with --repair-from a mirror"
Made = TypeVar("Made")
Size = tuple[int | None, int | None]


@dataclass(frozen=True)
class DecodingLimits:
    """The limits of a gateway: decoding processes, pixels of a picture, and seconds that work may wait."""

    workers: int = 1
    max_pixels: int = 50_000_000
    longest_wait: float = 30.0


class PictureMaker:
    """Makes pictures for one event loop. Two requests for the same picture cause one decoding."""

    def __init__(
        self,
        archive: Store,
        models: Models,
        cache: DiskCache,
        limits: DecodingLimits,
        figures: Figures,
        held: Callable[[set[str]], set[str]],
    ) -> None:
        """`held` returns those of some SHA-256 whose files the archive holds."""
        self._held = held
        self._archive = archive
        self._cache = cache
        self._limits = limits
        self._figures = figures
        self._release = importlib.metadata.version("fdcodec")
        self._stack = ExitStack()
        self._io = ThreadPoolExecutor(READERS, thread_name_prefix="gateway-read")
        self.decoding = WorkQueue(limits.workers, limits.longest_wait, COSTS)
        self.light = WorkQueue(limits.workers, limits.longest_wait, COSTS)
        self._decoders = _Pool([Decoders(archive, models, worker) for _ in range(limits.workers)])
        self._viewers = _Pool([show_worker.worker(models.memory) for _ in range(limits.workers)])
        for decoders in self._decoders.members:
            self._stack.enter_context(decoders)
        self._stack.callback(_close, self._viewers.members)
        self._under_way: dict[tuple[object, ...], asyncio.Task[bytes]] = {}

    def tag(self, entry: CatalogEntry, address: Address, *, metadata: bool = False) -> str:
        """The entity tag of a response: it changes with the stored file, the form, and the release that decodes."""
        sha256 = "" if entry.file is None else entry.file.sha256
        return entity_tag(sha256, address.suffix, address.width, address.preview, metadata, self._release)

    async def picture(self, entry: CatalogEntry, address: Address) -> bytes:
        """Returns the picture of an address. Raises Refusal."""
        file = _present(entry)
        variant = (address.suffix, address.width, address.preview, self._release)
        found = await self._reading(partial(self._cache.get, file.sha256, *variant))
        if found is not None:
            self._figures.pictures.labels("cache").inc()
            return found
        name = (file.sha256, *variant)
        task = self._under_way.get(name)
        if task is None:
            task = asyncio.create_task(self._made(entry, file, address, variant))
            self._under_way[name] = task
            task.add_done_callback(lambda _: self._under_way.pop(name, None))
            # nobody may be waiting any more when it fails
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(task)  # a client that leaves does not take the picture from the others

    async def _made(
        self, entry: CatalogEntry, file: StoredFile, address: Address, variant: tuple[object, ...]
    ) -> bytes:
        small = await self._of_preview(entry, file, address)
        if small is not None:
            self._figures.pictures.labels("preview").inc()
            data = small
        else:
            if address.preview:
                raise Refusal(404, "this picture has no preview")
            data = await self._decoded(entry, file, address)
            self._figures.pictures.labels("decoded").inc()
        await self._reading(partial(self._keep, data, file.sha256, *variant))
        return data

    async def _of_preview(self, entry: CatalogEntry, file: StoredFile, address: Address) -> bytes | None:
        """The picture as far as the stored preview suffices; None if it must be decoded. Needs no codec."""
        if not entry.preview_bytes or not (address.preview or address.width is not None):
            return None
        preview = await self._reading(partial(self._preview, file))
        if preview is None or (address.width or 0) > preview.width:
            return None
        is_as_stored = address.width is None or address.width == preview.width
        if is_as_stored and address.suffix == "webp":
            return preview.data
        pixels = preview.width * preview.height
        request = Show("preview", QUALITY[address.suffix], address.width)
        return await self.light.run("preview", pixels, partial(self._viewed, request, preview.data, None))

    def _preview(self, file: StoredFile) -> Preview | None:
        """The preview of a stored file, kept in the cache: it is small, and asked for in several widths."""
        content = self._cache.get(file.sha256, "preview")
        if content is None:
            preview = read_preview(self._read(file))
            if preview is not None:
                self._keep(preview.data, file.sha256, "preview")
            return preview
        return Preview.of(content)

    def _keep(self, data: bytes, sha256: str, *variant: object) -> None:
        """Puts a picture into the cache, unless its stored file was erased meanwhile."""
        self._cache.put(data, sha256, *variant)
        # Asked afterwards: an erasure that is noticed later than here removes what was put.
        if not self._held({sha256}):
            self._cache.keep_only(self._held)

    async def _decoded(self, entry: CatalogEntry, file: StoredFile, address: Address) -> bytes:
        pixels = entry.pixels
        if pixels is None or entry.reason in NOT_SHOWN:
            raise Refusal(415, f"this file is no picture that can be shown ({entry.reason or 'kept whole'})")
        if pixels > self._limits.max_pixels:
            raise Refusal(
                413, f"the picture has {pixels} pixels; this gateway decodes at most {self._limits.max_pixels}"
            )
        if is_large(file):
            raise Refusal(413, "this file is too large for the gateway; use restore-archive")
        request = Show(file.codec, QUALITY[address.suffix], address.width)
        size = (file.width, file.height)
        if file.codec == FDC:
            work = partial(self._reconstructed, request, file, size)
            return await self.decoding.run(file.codec, pixels, work)
        return await self.light.run(file.codec, pixels, partial(self._of_whole, request, file, size))

    def _reconstructed(self, request: Show, file: StoredFile, size: Size) -> tuple[bytes, float]:
        data = self._read(file)
        with self._decoders.lent() as decoders:
            try:
                decoder = decoders.get(file.bundle_id)
            except ArchiveError as error:
                LOGGER.error("%s", error)
                raise Refusal(502, "the decoder of this picture cannot be loaded from the archive") from error
            return timed(partial(self._asked, decoder, request, data, size))

    def _of_whole(self, request: Show, file: StoredFile, size: Size) -> tuple[bytes, float]:
        return self._viewed(request, self._read(file), size)

    def _viewed(self, request: Show, data: bytes, size: Size | None) -> tuple[bytes, float]:
        with self._viewers.lent() as viewer:
            viewer.greeting()  # starts it, which is no part of the time
            return timed(partial(self._asked, viewer, request, data, size))

    def _asked(self, child: Child, request: Show, data: bytes, size: Size | None) -> bytes:
        """Has a child make the picture and checks its size. Raises Refusal."""
        with self._figures.decoding.labels(request.codec).time():
            try:
                answer, picture = child.ask(request, data, seconds=SECONDS)
            except ChildDied as death:
                LOGGER.error("a picture of %d bytes cannot be shown: %s", len(data), death)
                raise Refusal(504 if death.reason == "timeout" else 502, f"cannot be decoded: {death}") from death
        if "fallback" in answer:
            LOGGER.error("a picture of %d bytes cannot be shown: %s", len(data), answer["error"])
            raise Refusal(502, f"cannot be decoded: {answer['error'][:300]}")
        if size is not None and (answer["width"], answer["height"]) != size:
            raise Refusal(502, f"decodes to {answer['width']} x {answer['height']} pixels, not {size[0]} x {size[1]}")
        return picture

    async def stored(self, entry: CatalogEntry, *, metadata: bool) -> bytes:
        """Returns the .fdc file of a picture, without its metadata unless told. Raises Refusal."""
        file = _present(entry)
        if file.codec != FDC:
            raise Refusal(404, "this picture was kept whole; it is no .fdc file")

        def read() -> bytes:
            data = self._read(file)
            try:
                return data if metadata else without_metadata(data)
            except BitstreamError as error:
                raise Refusal(502, DAMAGED) from error

        return await self._reading(read)

    async def whole(self, file: StoredFile) -> bytes:
        """Returns the bytes of a file that was kept whole. Raises Refusal."""
        return await self._reading(partial(self._read, file))

    def _read(self, file: StoredFile) -> bytes:
        """Reads a stored file whole and checks its hash, before the first byte of a response. Raises Refusal."""
        try:
            return read_member(self._archive, file)
        except StorageError as error:
            LOGGER.error("%s", error)
            raise Refusal(503, "the archive's store does not answer", 10) from error
        except FdcError as error:
            LOGGER.error("%s", error)
            raise Refusal(502, DAMAGED) from error

    async def _reading(self, work: Callable[[], Made]) -> Made:
        return await asyncio.get_running_loop().run_in_executor(self._io, work)

    def close(self) -> None:
        """Ends the child processes, and with them the work that runs."""
        self._stack.close()
        for work_queue in (self.decoding, self.light):
            work_queue.close()
        self._io.shutdown(cancel_futures=True)


class _Pool(Generic[Made]):
    """Things of which each is used by one thread at a time."""

    def __init__(self, members: Sequence[Made]) -> None:
        self.members = members
        self._free: queue.SimpleQueue[Made] = queue.SimpleQueue()
        for member in members:
            self._free.put(member)

    @contextmanager
    def lent(self) -> Iterator[Made]:
        """Waits for a free one and gives it back afterwards."""
        member = self._free.get()
        try:
            yield member
        finally:
            self._free.put(member)


def _present(entry: CatalogEntry) -> StoredFile:
    if entry.file is None:
        raise Refusal(410, "this picture was erased permanently")
    return entry.file


def _close(viewers: Sequence[Child]) -> None:
    for viewer in viewers:
        viewer.__exit__(None, None, None)
