"""Pictures of a shard encoded together: which share a batch, and what becomes of a batch whose process dies.

The row of a source in its shard gives its place: row modulo batch. A file follows from its picture, its place and the
number of places alone (codec.batches), so tars are the same whichever pictures fail, are held already, or are asked for
by themselves. Windows of a few batches are sent to the encoding process at once, so that its stages overlap.
"""

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tasks.archive.listing_schema import Entry
from tasks.processes.child import ChildDied, Frame
from tasks.processes.codec_process import Asked
from tasks.processes.requests import BatchEntry, Encode, EncodeMany, Request
from tasks.processes.stages import tell
from tasks.sources.reading import LostError

BATCHES = 4
"""Batches in a window, at most."""
WINDOW_BYTES = 2**28
"""Bytes of sources in a window, but for its last."""


@dataclass
class Read:
    """An entry of the listing whose source was looked at: its bytes, or why they could not be had."""

    entry: Entry
    position: int
    source: bytes | None = None
    content: str = ""
    lost: LostError | None = None
    asked: Encode | None = None
    """What the encoding process is asked about it, where that is known already."""
    answer: Frame | ChildDied | None = None
    verified: bool | None = None


class Shared:
    """A child process that several threads ask, one after another."""

    def __init__(self, child: Asked) -> None:
        self._child, self._lock = child, threading.Lock()

    def ask(self, request: Request, payload: bytes = b"", *, seconds: float) -> Frame:
        with self._lock:
            return self._child.ask(request, payload, seconds=seconds)


def windows(reads: Iterable[Read], batch: int) -> Iterator[list[Read]]:
    """Consecutive sources in portions for the encoding process."""
    window: list[Read] = []
    size = 0
    for read in reads:
        window.append(read)
        size += len(read.source or b"")
        if len(window) == BATCHES * batch or size > WINDOW_BYTES:
            yield window
            window, size = [], 0
    if window:
        yield window


def encode(child: Asked, reads: Sequence[Read], batch: int, *, seconds: float) -> None:
    """Have sources encoded together; each then has its answer, or how the process died of it alone.

    Where the process dies, each batch is asked about by itself; where it dies again, each source of that batch is, in
    the same place of a batch of the same shape, and once more in a fresh process if it dies of it.
    """
    if not reads:
        return
    try:
        _ask(child, reads, batch, seconds)
    except ChildDied as death:
        if len(reads) > batch:
            for start in range(0, len(reads), batch):
                encode(child, reads[start : start + batch], batch, seconds=seconds)
        elif len(reads) > 1:
            for read in reads:
                encode_alone(child, read, batch, seconds=seconds)
        else:
            reads[0].answer = death
            encode_alone(child, reads[0], batch, seconds=seconds, tries=1)


def encode_alone(child: Asked, read: Read, batch: int, *, seconds: float, tries: int = 2) -> None:
    """Have one source encoded in its place of a batch of that shape."""
    for _ in range(tries):
        try:
            _ask(child, [read], batch, seconds)
            return
        except ChildDied as death:
            read.answer = death


def _ask(child: Asked, reads: Sequence[Read], batch: int, seconds: float) -> None:
    sources = [read.source or b"" for read in reads]
    entries = []
    for read, source in zip(reads, sources, strict=True):
        assert read.asked is not None
        entries.append(BatchEntry(read.asked, read.position, len(source)))
    request = EncodeMany(entries, batch, seconds)
    answer, files = child.ask(request, b"".join(sources), seconds=seconds * len(reads))
    start = 0
    for read, own in zip(reads, answer["answers"], strict=True):
        length = own.pop("length")
        read.answer = (own, files[start : start + length])
        start += length
    tell("encoder", [tuple(span) for span in answer["spans"]])
