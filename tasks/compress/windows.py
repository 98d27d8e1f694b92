"""Groups the pictures of a shard into batches, and retries the batches of an encoding process that died.

The position of a source in its batch is its row in the shard modulo the batch size. A file depends only on its picture,
its position and the batch size (codec.batches). So tars do not depend on which other pictures fail, are already held
or are retried alone. Each request to the encoding process has a window of a few batches, so that its stages overlap.
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
"""Largest number of batches in a window."""
WINDOW_BYTES = 2**28
"""Source bytes at which a window is complete."""


@dataclass
class Read:
    """A listing entry with the bytes of its source, or the error that prevented reading it."""

    entry: Entry
    position: int
    source: bytes | None = None
    content: str = ""
    lost: LostError | None = None
    asked: Encode | None = None
    """The request to the encoding process, if already known."""
    answer: Frame | ChildDied | None = None
    verified: bool | None = None


class Shared:
    """A child process shared by several threads; requests are serialized."""

    def __init__(self, child: Asked) -> None:
        self._child = child
        self._lock = threading.Lock()

    def ask(self, request: Request, payload: bytes = b"", *, seconds: float) -> Frame:
        with self._lock:
            return self._child.ask(request, payload, seconds=seconds)


def windows(reads: Iterable[Read], batch: int) -> Iterator[list[Read]]:
    """Splits consecutive sources into windows for the encoding process."""
    window: list[Read] = []
    size = 0
    for read in reads:
        window.append(read)
        size += len(read.source or b"")
        if len(window) == BATCHES * batch or size > WINDOW_BYTES:
            yield window
            window = []
            size = 0
    if window:
        yield window


def encode(child: Asked, reads: Sequence[Read], batch: int, *, seconds: float) -> None:
    """Encodes sources together; sets the answer of each, or the ChildDied that it causes alone.

    If the process dies, each batch is retried separately. If it dies again, each source of that batch is retried
    alone, in the same position of a batch of the same shape, and once more in a new process if that dies too.
    """
    if not reads:
        return
    try:
        _ask(child, reads, batch, seconds)
    except ChildDied as death:
        # A process that dies does not say of which source, so the suspects are divided until one is alone.
        if len(reads) > batch:
            for start in range(0, len(reads), batch):
                encode(child, reads[start : start + batch], batch, seconds=seconds)
        elif len(reads) > 1:
            for read in reads:
                encode_alone(child, read, batch, seconds=seconds)
        else:
            # The try above was of this source alone already, so one more is its second.
            reads[0].answer = death
            encode_alone(child, reads[0], batch, seconds=seconds, tries=1)


def encode_alone(child: Asked, read: Read, batch: int, *, seconds: float, tries: int = 2) -> None:
    """Encodes one source in its position of a batch of the same shape."""
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
        assert read.asked is not None, "whoever puts a source into a window sets its request"
        entries.append(BatchEntry(read.asked, read.position, len(source)))
    request = EncodeMany(entries, batch, seconds)
    answer, files = child.ask(request, b"".join(sources), seconds=seconds * len(reads))
    start = 0
    for read, own in zip(reads, answer["answers"], strict=True):
        length = own.pop("length")
        read.answer = (own, files[start : start + length])
        start += length
    tell("encoder", [tuple(span) for span in answer["spans"]])
