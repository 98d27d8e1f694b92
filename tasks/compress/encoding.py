"""Makes the rows and the tar of a shard: reads, encodes, verifies and stores each source."""

import datetime
import hashlib
from collections.abc import Collection, Sequence
from typing import Protocol, cast

from codec.errors import ArchiveError
from tasks.archive import schema
from tasks.archive.listing_schema import Entry
from tasks.archive.manifest import Manifest
from tasks.archive.schema import Row, present
from tasks.archive.tar import Tar
from tasks.compress import listing, windows
from tasks.compress.windows import Read, Shared
from tasks.processes.child import ChildDied, Frame
from tasks.processes.codec_process import Asked, Claim, decodes, decodes_claim, decodes_each
from tasks.processes.requests import Encode, Judge, Transcode
from tasks.processes.stages import Timeline, staged, tell
from tasks.progress import Progress
from tasks.sources.reading import LostError, SourceReader
from tasks.sources.source import open_source
from tasks.storage.keys import extension_of, member

OWN_BYTES = ("damaged", "irregular", "signed", "raw", "not_an_image", "encoder")
"""Reasons for which the original bytes are stored, without a lossless transcode: the anomaly may matter."""

FOUND_BY_ENCODING = ("would_grow", "below_quality", "unverified")
"""Reasons that the structure of a source does not show."""
OF_ONE_SOURCE = ("key", "version", "source_uri", "created_at", "group", "source_modified_at")
"""Fields that differ between sources of equal content."""
UNJUDGED = "kept by a release that did not account for every byte of a source; the source has been deleted since"


class Processes(Protocol):
    """Interface to the processes with the models of a shard, implemented by process_pair.ProcessPair."""

    @property
    def encoder(self) -> Asked: ...

    @property
    def decoder(self) -> Asked: ...

    @property
    def checker(self) -> Asked | None: ...


class Encoding:
    """Makes the rows of a shard, in order, and its tar."""

    def __init__(
        self,
        plan: Manifest,
        shard: int,
        device: str,
        earlier: dict[str, Row],
        pair: Processes,
        tar: Tar,
    ) -> None:
        self.rows: list[Row] = []
        self._source = open_source(plan.source)
        self._reader = SourceReader(self._source)
        self._plan = plan
        self._shard = shard
        self._device = device
        self._earlier = earlier
        self._encoder = Shared(pair.encoder)
        self._decoder = Shared(pair.decoder)
        self._checker = None if pair.checker is None else Shared(pair.checker)
        self._tar = tar

    def add_all(self, entries: Sequence[Entry], progress: Progress) -> None:
        """Adds the rows of a shard's entries: one by one or, with batches, in overlapping stages."""
        batch = self._plan.settings.batch
        numbered = list(enumerate(entries))
        if batch == 1:
            for each in numbered:
                self._add(self._read(each))
                progress.advance(1)
            return
        keys = {entry["key"] for entry in entries}

        def together(window: list[Read]) -> list[Read]:
            return self._together(window, keys)

        # Each stage is a thread: while the GPU encodes a window, the next one is read, and the last one is verified.
        reads = staged(self._read, numbered, waiting=batch)
        encoded = staged(together, windows.windows(reads, batch))
        for window in staged(self._verify, encoded):
            for read in window:
                self._add(read)
                progress.advance(1)

    def _together(self, window: list[Read], keys: Collection[str]) -> list[Read]:
        """Encodes the sources that surely need it; possible duplicates and held sources are decided later."""
        chosen = []
        for read in window:
            entry = read.entry
            is_held = entry["key"] in self._earlier and read.content == entry["held_sha256"]
            is_equal = read.content == entry["sha256"] and entry["duplicate_of"] in keys
            if read.source is not None and not is_held and not is_equal:
                read.asked = self._encode_request(entry["key"])
                chosen.append(read)
        settings = self._plan.settings
        windows.encode(self._encoder, chosen, settings.batch, seconds=settings.image_timeout)
        return window

    def _verify(self, window: list[Read]) -> list[Read]:
        """Verifies the files of a window by decoding them again."""
        settings = self._plan.settings
        encoded: list[Read] = []
        claims: list[Claim] = []
        for read in window:
            if settings.verify and isinstance(read.answer, tuple) and "content" in read.answer[0]:
                answer, data = read.answer
                encoded.append(read)
                claims.append(Claim(data, answer["content"], answer["fingerprint"]))
        timeline = Timeline()
        with timeline.during("verify"):
            found = decodes_each(self._decoder, claims, seconds=settings.image_timeout)
            for read, claim, verified in zip(encoded, claims, found, strict=True):
                read.verified = self._checked(read.entry["key"], claim, verified)
        tell("shard", timeline.spans)
        return window

    def _checked(self, key: str, claim: Claim, verified: bool) -> bool:
        """Returns the verifier's result. Raises ArchiveError if the result differs on the CPU, for sampled keys."""
        settings = self._plan.settings
        if self._checker is None or not settings.is_decoded_on_processor(key):
            return verified
        here = decodes_claim(self._checker, claim, seconds=settings.image_timeout)
        if here != verified:
            on_device = "correctly" if verified else "incorrectly"
            on_cpu = "correctly" if here else "incorrectly"
            raise ArchiveError(
                f"{key!r}: decodes {on_device} on {self._device}, but {on_cpu} on the CPU; do not trust this device. "
                "Nothing of this shard was committed"
            )
        return verified

    def _read(self, numbered: tuple[int, Entry]) -> Read:
        """Fetches an entry's source, unless it is too large for memory or not needed."""
        number, entry = numbered
        # By the row, not by the place in a window: so a file does not depend on which other sources are encoded.
        read = Read(entry, number % self._plan.settings.batch)
        if self._is_unjudged(entry):
            return read
        try:
            if entry["size"] is None or entry["size"] <= listing.LARGEST_SOURCE:
                read.source = self._reader.fetch(entry)
                read.content = hashlib.sha256(read.source).hexdigest()
        except LostError as lost:
            read.lost = lost
        return read

    def _is_unjudged(self, entry: Entry) -> bool:
        return entry["state"] == "unjudged" and self._earlier.get(entry["key"]) is not None

    def _add(self, read: Read) -> None:
        """Makes the row of one listing entry."""
        entry = read.entry
        row: Row = {
            "key": entry["key"],
            "version": entry["version"],
            "source_uri": entry["uri"],
            "source_bytes": present(entry["size"]),
            "run": self._plan.run,
            "shard": self._shard,
            "device": self._device,
            "bundle_id": self._plan.bundle_id,
            "created_at": datetime.datetime.now(datetime.UTC),
            "group": entry.get("group"),
            "source_modified_at": self._modified(entry),
        }
        self.rows.append(row | self._outcome(read))

    def _modified(self, entry: Entry) -> int | None:
        """Nanoseconds since 1970, if the stamps of the source's store are times."""
        if not entry["uri"].startswith("file://") or self._source.stamps_tell_content:
            return None
        stamp = str(entry["stamp"])
        return int(stamp) if stamp.isdecimal() else None

    def _outcome(self, read: Read) -> Row:
        entry = read.entry
        if self._is_unjudged(entry):
            unjudged = Row(source_sha256=entry["held_sha256"]) | self._earlier[entry["key"]]
            return unjudged | Row(needs_attention=UNJUDGED)
        if read.lost is not None:
            return _failed(read.lost.reason, str(read.lost))
        if read.source is None:
            try:
                return self._streamed(entry)
            except LostError as lost:
                return _failed(lost.reason, str(lost))
        found = Row(source_sha256=read.content)
        earlier = self._earlier.get(entry["key"])
        is_held = read.content == entry["held_sha256"]
        if earlier is not None and is_held and not self._again(entry, earlier, read.source):
            return found | earlier
        # The hash in the listing is from planning; a source that has changed since is no duplicate.
        if read.content == entry["sha256"]:
            found["duplicate_of"] = entry["duplicate_of"]
            first = self._first(entry["duplicate_of"], read.content)
            if first is not None:
                return first | found
        return found | self._encoded(read, read.source)

    def _streamed(self, entry: Entry) -> Row:
        """Copies a source too large for memory into the tar in pieces, unchanged."""
        name = member(len(self.rows), entry["key"], extension_of(entry["key"]))
        size = present(entry["size"])
        # Its hash is known only when all of it has been copied: one that is held already is then taken out again.
        offset, content = self._tar.add_pieces(name, size, self._reader.pieces(entry))
        found = Row(source_sha256=content)
        earlier = self._earlier.get(entry["key"])
        if earlier is not None and content == entry["held_sha256"]:
            self._tar.drop()
            return found | earlier
        found |= {"status": "fallback", "reason": "too_large", "codec": "original", "verified": True}
        return found | {"bytes": size, "offset": offset, "length": size, "sha256": content}

    def _again(self, entry: Entry, earlier: Row, source: bytes) -> bool:
        """Whether held content is encoded again: it was requested, and the outcome would differ now."""
        if entry["state"] != "again":
            return False
        if earlier["reason"] in schema.TROUBLE:
            return True
        request = Judge(self._plan.settings.metadata, self._plan.settings.discard)
        try:
            answer, _ = self._encoder.ask(request, source, seconds=self._plan.settings.image_timeout)
        except ChildDied:
            return False
        if "reason" not in answer:
            return False
        if earlier["codec"] != "fdc":
            # Judge does not encode, so it cannot tell whether one of those reasons still holds.
            return answer["reason"] is None and earlier["reason"] not in FOUND_BY_ENCODING
        if answer["reason"] is not None:
            return True
        if (earlier["carried"] or []) != answer["carried"]:
            return True
        if (earlier["discarded_parts"] or []) != answer["discarded_parts"]:
            return True
        film_length = answer["film"][1] if answer["film"] else None
        return earlier["film_length"] != film_length

    def _encode_request(self, key: str) -> Encode:
        settings = self._plan.settings
        return Encode(
            quality=settings.quality,
            target_bpp=settings.target_bpp,
            min_psnr_db=settings.min_psnr_db,
            max_lpips=settings.max_lpips,
            metadata=settings.metadata,
            verify=settings.verify,
            discard=settings.discard,
            metrics=settings.metrics_of(key),
            effort=settings.effort,
            preview=settings.preview,
        )

    def _first(self, key: str | None, content: str) -> Row | None:
        """Returns the outcome of an equal source of this shard; both share one stored file."""
        found = [row for row in self.rows if row["key"] == key]
        if not found:
            return None
        row = found[0]
        # It may have changed since planning. And `unchanged`, of an earlier version, would not be true of this key.
        if row.get("source_sha256") != content or row["status"] == "unchanged":
            return None
        return cast(Row, {name: value for name, value in row.items() if name not in OF_ONE_SOURCE})

    def _encoded(self, read: Read, source: bytes) -> Row:
        """Stores a source as an .fdc file, or whole if the encoder gives a reason."""
        settings = self._plan.settings
        key = read.entry["key"]
        if read.answer is None:
            self._ask(read, source)
        if isinstance(read.answer, ChildDied):
            return self._undecoded(key, source, read.answer)
        answer, data = cast(Frame, read.answer)
        # These fields are for this method; the others go into the row as they are.
        content = answer.pop("content", None)
        fingerprint = answer.pop("fingerprint", None)
        fallback = answer.pop("fallback", None)
        film = answer.pop("film", None)
        identifier = answer.pop("identifier", None)
        group = Row()
        if identifier and read.entry.get("group") is None:  # a stem shared with other sources goes first
            group["group"] = identifier
        if content is not None and settings.verify:
            if read.verified is None:
                claim = Claim(data, content, fingerprint)
                verified = decodes_claim(self._decoder, claim, seconds=settings.image_timeout)
                read.verified = self._checked(key, claim, verified)
            answer["verified"] = read.verified
            fallback = None if answer["verified"] else "unverified"
        if fallback is None:
            row = cast(Row, answer)
            row |= {"status": "compressed", "codec": "fdc", "content_sha256": content, "effort": settings.effort}
            return row | self._stored(key, "fdc", data, row) | self._film(key, source, film) | group
        if settings.strict_metadata and settings.metadata != "all":
            return _failed(
                "strict_metadata",
                f"would be kept whole ({fallback}) with all its metadata, which strict_metadata refuses",
            )
        # Not the measurements: they are of an .fdc file that is not kept.
        of_the_source = ("source_format", "media_type", "width", "height", "error")
        about = cast(Row, {name: answer.get(name) for name in of_the_source}) | group
        about |= {"status": "fallback", "reason": fallback}
        return about | self._without_loss(key, source, about, fallback)

    def _undecoded(self, key: str, source: bytes, death: ChildDied) -> Row:
        """Stores the bytes of a source that ended the encoding process; nothing decodes it again."""
        about = Row(width=None, height=None, error=str(death))
        about |= {"status": "fallback", "reason": death.reason}
        return about | self._whole(key, source, about)

    def _film(self, key: str, source: bytes, extent: list[int] | None) -> Row:
        """Stores the video of a motion photo, unchanged, next to the picture: one WebDataset sample."""
        if extent is None:
            return {}
        start, length = extent
        film = source[start : start + length]
        offset = self._tar.add(member(len(self.rows), key, "mp4"), film)
        return {"film_offset": offset, "film_length": len(film), "film_sha256": hashlib.sha256(film).hexdigest()}

    def _ask(self, read: Read, source: bytes) -> None:
        """Sets the encoder's answer; retries once in a new process if the process dies."""
        settings = self._plan.settings
        request = self._encode_request(read.entry["key"])
        if settings.batch > 1:
            read.asked = request
            windows.encode_alone(self._encoder, read, settings.batch, seconds=settings.image_timeout)
            return
        # Once more in a new process: the first may have died of something else, such as a lack of memory.
        for _ in range(2):
            try:
                read.answer = self._encoder.ask(request, source, seconds=settings.encode_timeout)
                return
            except ChildDied as death:
                read.answer = death

    def _without_loss(self, key: str, source: bytes, about: Row, reason: str) -> Row:
        """Stores the source as JPEG XL if that is smaller and reversible, else its own bytes."""
        seconds = self._plan.settings.image_timeout
        if about["width"] is not None and reason not in OWN_BYTES:
            try:
                answer, data = self._encoder.ask(Transcode(), source, seconds=seconds)
            except ChildDied:  # a source that ends the transcoder is kept as it is
                return self._whole(key, source, about)
            if "content" in answer and decodes(self._decoder, data, answer["content"], seconds=seconds):
                kept = Row(codec="jxl", verified=True, content_sha256=answer["content"])
                return kept | self._stored(key, "jxl", data, about)
        return self._whole(key, source, about)

    def _whole(self, key: str, source: bytes, about: Row) -> Row:
        """Stores the source's own bytes."""
        return Row(codec="original", verified=True) | self._stored(key, extension_of(key), source, about)

    def _stored(self, key: str, extension: str, data: bytes, about: Row) -> Row:
        offset = self._tar.add(member(len(self.rows), key, extension), data)
        width = about["width"]
        height = about["height"]
        bpp = None
        if width is not None and height is not None:
            bpp = 8 * len(data) / (width * height)
        return {
            "bytes": len(data),
            "bpp": bpp,
            "offset": offset,
            "length": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }


def _failed(reason: str, error: str) -> Row:
    return {"status": "failed", "reason": reason, "error": error}
