"""Encodes many sources at once in the encoding process: reading, networks, range coders and metrics overlap.

Pictures of one size are encoded together. The listing assigns each its position in a batch. The bytes of its file
depend only on the position, the size and the picture (codec.batches), not on the other members or their failures.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from codec.containers.reading import SourceImage
from codec.images import Picture
from codec.support import processors
from tasks.processes.answers import answered, attempted
from tasks.processes.child import Frame, still_at_work
from tasks.processes.requests import Encode, EncodeMany
from tasks.processes.stages import Timeline, staged

if TYPE_CHECKING:
    from tasks.processes.encode_worker import Worker

LARGEST_TOGETHER = 2**23
"""Most pixels of a picture encoded in a batch; a larger one fills a GPU and is encoded alone."""
READERS = 4
"""Most sources read concurrently."""

TimedPixels = tuple[NDArray[np.uint8], float]


@dataclass
class BatchMember:
    """A source, its position in a batch, and its results."""

    request: Encode
    source: bytes
    position: int
    answer: dict[str, Any] = field(default_factory=dict)
    data: bytes = b""
    found: SourceImage | None = None
    encoded: Any = None

    @property
    def picture(self) -> Picture:
        """The decoded picture of a source that was read."""
        if self.found is None or self.found.picture is None:
            raise ValueError("this source was not read as a picture")
        return self.found.picture


@dataclass
class Batch:
    """Members that are encoded together, and the function that returns their files after the networks have run."""

    members: list[BatchMember]
    count: int
    """Positions of the batch."""
    files: Callable[[], dict[int, Any]] | None = None
    seconds: float = 0.0


def encode_many(worker: "Worker", request: EncodeMany, payload: bytes) -> Frame:
    """Returns the answers for all members of a request, in order, their concatenated files, and the timeline."""
    members = []
    start = 0
    for entry in request.entries:
        members.append(BatchMember(entry.request, payload[start : start + entry.length], entry.position))
        start += entry.length
    stages = _Stages(worker, request.count, request.seconds_each)
    read = staged(stages.read, members, threads=min(READERS, processors.available()), waiting=request.count)
    batches = stages.composed(read)
    # while one batch is in the networks, the one before it is in the range coders
    through_networks = staged(stages.networks, batches)
    coded = staged(stages.code, through_networks)
    for _ in staged(stages.measure, coded):
        still_at_work(request.seconds_each)
    answers = [member.answer | {"length": len(member.data)} for member in members]
    spans = [list(span) for span in stages.timeline.spans]
    return {"answers": answers, "spans": spans}, b"".join(member.data for member in members)


class _Stages:
    """The stages of encoding, each in its own thread.

    Only one thread at a time uses the codec. The stages that share it are those that mostly run it.
    """

    def __init__(self, worker: "Worker", count: int, seconds: float) -> None:
        self._worker = worker
        self._count = count
        self._seconds = seconds
        self._codec = threading.Lock()
        self.timeline = Timeline()

    def read(self, member: BatchMember) -> BatchMember:
        """Reads a source. Its answer states why it is not encoded, if so."""

        def read() -> Frame:
            member.found, about = self._worker.read(member.request, member.source)
            return about, b""

        still_at_work(self._seconds)
        with self.timeline.during("read"):
            member.answer, _ = answered(read)
        return member

    def composed(self, members: Iterable[BatchMember]) -> Iterator[Batch]:
        """Yields batches of one size with each position used once: full ones at once, the others at the end."""
        waiting: dict[tuple[int, int], list[dict[int, BatchMember]]] = defaultdict(list)
        for member in members:
            if "fallback" in member.answer:
                continue
            if self._alone(member):
                yield Batch([member], 1)
                continue
            batches = waiting[member.picture.width, member.picture.height]
            batch = _first_without(batches, member.position)
            batch[member.position] = member
            if len(batch) == self._count:
                batches.remove(batch)
                yield Batch(list(batch.values()), self._count)
        for batches in waiting.values():
            for batch in batches:
                yield Batch(list(batch.values()), self._count)

    def _alone(self, member: BatchMember) -> bool:
        """Whether a picture is encoded alone: if it is large, or if its rate or quality is searched for."""
        pixels = member.picture.width * member.picture.height
        return member.request.searches or pixels > LARGEST_TOGETHER

    def networks(self, batch: Batch) -> Batch:
        """Runs the networks for a batch. If that fails, the next stage encodes its members one by one."""
        still_at_work(self._seconds)
        if not self._alone(batch.members[0]):
            with self.timeline.during("networks") as spent, self._codec:
                batch.files = self._begun(batch.members)
            batch.seconds += spent.seconds
        return batch

    def _begun(self, members: list[BatchMember]) -> Callable[[], dict[int, Any]] | None:
        pictures = {member.position: member.picture for member in members}
        quality = members[0].request.quality_lambda
        try:
            files: Callable[[], dict[int, Any]]
            files = self._worker.codec.begin_many(pictures, self._count, quality=quality)
        except Exception:  # caused by any member: each is encoded alone next
            return None
        return files

    def code(self, batch: Batch) -> Batch:
        """Runs the range coders and fills the row of each file."""
        still_at_work(self._seconds)
        with self.timeline.during("coder") as spent:
            try:
                encoded = batch.files() if batch.files else {}
            except Exception:  # caused by any member, as above
                encoded = {}
            for member in batch.members:
                if member.position in encoded:
                    member.encoded = encoded[member.position]
                else:
                    self._by_itself(member)
        batch.seconds += spent.seconds
        for member in batch.members:
            if member.encoded is None or member.found is None:
                continue
            # the batch took its time as a whole, so each file gets an equal share
            about = member.answer | {"encode_seconds": batch.seconds / len(batch.members)}
            size = len(member.source)
            member.answer, member.data = self._worker.answer_on(member.found, size, about, member.encoded)
        return batch

    def _by_itself(self, member: BatchMember) -> None:
        def encode() -> Any:
            if self._alone(member):
                return self._worker.encoded(member.request, member.picture)[0]
            pictures = {member.position: member.picture}
            files = self._worker.codec.begin_many(pictures, self._count, quality=member.request.quality_lambda)
            return files()[member.position]

        with self._codec:
            member.encoded, why = attempted(encode)
        member.answer |= why

    def measure(self, batch: Batch) -> Batch:
        """Computes the requested metrics of the members with files."""
        still_at_work(self._seconds)
        wanted = [member for member in batch.members if member.data and member.request.metrics]
        if wanted and self._worker.metrics is not None:
            decoded = self._decoded(wanted, batch.count)
            with self.timeline.during("metrics"):
                for member in wanted:
                    self._measured(member, batch.count, decoded.get(member.position))
        for member in batch.members:
            # its pixels are no longer needed
            member.found = None
            member.encoded = None
        return batch

    def _measured(self, member: BatchMember, count: int, decoded: TimedPixels | None) -> None:
        def measure() -> Frame:
            timed = decoded or self._reconstructed([member], count)[member.position]
            own = self._worker.measure(member.request, member.picture, member.encoded, timed)
            return member.answer | own, member.data

        # a file that cannot be measured is not committed: `answered` leaves out its data
        member.answer, member.data = answered(measure)

    def _decoded(self, members: list[BatchMember], count: int) -> dict[int, TimedPixels]:
        """Returns pixels by position; empty on failure, and each member is then decoded alone."""
        with self.timeline.during("decode"):
            try:
                return self._reconstructed(members, count)
            except Exception:  # caused by any member
                return {}

    def _reconstructed(self, members: list[BatchMember], count: int) -> dict[int, TimedPixels]:
        """Returns the pixels of members of a batch and the seconds per member.

        As for a single picture, the stream is decoded here unless another process does that.
        """
        codec = self._worker.codec
        first = members[0]  # `verify` is a setting of the run, so the same for all
        started = time.perf_counter()
        with self._codec:
            if self._alone(first):
                return {first.position: self._worker.decoded(first.request, first.encoded)}
            files = {member.position: (member.data, member.encoded.symbols) for member in members}
            if not first.request.verify:
                decoded = codec.contents([member.data for member in members])
                for member, found in zip(members, decoded, strict=True):
                    if isinstance(found, Exception):
                        raise found
                    files[member.position] = (member.data, found.symbols)
            pixels = codec.reconstruct_many(files, count)
        seconds = (time.perf_counter() - started) / len(members)
        return {position: (own, seconds) for position, own in pixels.items()}


def _first_without(batches: list[dict[int, BatchMember]], position: int) -> dict[int, BatchMember]:
    """Returns the first batch in which a position is free; adds one if there is none."""
    for batch in batches:
        if position not in batch:
            return batch
    batches.append({})
    return batches[-1]
