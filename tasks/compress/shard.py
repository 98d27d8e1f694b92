"""One shard of a run: its sources encoded, verified and committed as one tar and one part of the report."""

import datetime
import hashlib
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet

from codec.errors import ArchiveError
from tasks.archive import index_files, layout, log, report, schema
from tasks.archive.erasing import tar_of
from tasks.archive.index_files import DamagedError, IndexFile
from tasks.archive.log import Head
from tasks.archive.manifest import Manifest
from tasks.archive.tar import Tar
from tasks.compress import listing, process_pair
from tasks.processes.child import Child, ChildDied
from tasks.processes.codec_process import CODEC, Models, decodes
from tasks.progress import SILENT, Progress
from tasks.sources.reading import LostError, Reader
from tasks.sources.source import open_source
from tasks.storage.keys import extension_of, member
from tasks.storage.store import PIECE, NotFoundError, StorageError, Store, sha256_of

LOGGER = logging.getLogger(__name__)
Row = dict[str, Any]

OWN_BYTES = ("damaged", "irregular", "signed", "raw", "not_an_image", "encoder")
"""Reasons for which not even a lossless transcode stands in: what is odd about a file may be what matters."""


@dataclass(frozen=True)
class Job:
    """A run to be worked off shard by shard. `backbone` says where the bundle's is found if it is not embedded.

    `claim` is the token of the writer, where the store cannot keep two apart.
    """

    archive: str
    run: int
    device: str = "cpu"
    backbone: str = ""
    codec: str = CODEC
    child_env: tuple[str, ...] = ()
    claim: str = ""


def encode_shard(job: Job, shard: int, progress: Progress = SILENT) -> report.Totals:
    """Encode, verify and commit one shard, unless that is done; returns its totals.

    What one source alone is to blame for is its row. Raises StorageError when the source as a whole or the archive
    cannot be reached: nothing is committed then, and calling again is right. Raises ArchiveError when more pictures
    were read and could not be kept than the run's settings allow.
    """
    archive = Store(job.archive)
    if job.claim:
        archive.claim(layout.CLAIM, job.claim)
    head = log.read(archive)
    plan = log.plan(archive, head, job.run)
    start, stop = plan.shards[shard]
    done = _sealed(archive, head, job.run, shard) if job.run in head.sealed else committed(archive, job.run, shard)
    if done is not None:
        progress.advance(stop - start)
        return report.count(done)
    entries = listing.read(archive, plan.listing, start, stop)
    settings = plan.settings
    memory, named = settings.image_memory, job.child_env
    models = Models("", job.device, job.backbone, settings.threads, job.codec, memory, named)
    with tempfile.TemporaryDirectory() as scratch:
        spool = Path(scratch) / "shard.tar"
        with process_pair.lent(archive, plan.bundle_id, models, settings.metrics) as pair, Tar(spool) as tar:
            held = _held(archive, plan.run, [entry["key"] for entry in entries if entry["held_sha256"]])
            encoding = Encoding(plan, shard, job.device, held, pair.encoder, pair.decoder, tar)
            for entry in entries:
                encoding.add(entry)
                progress.advance(1)
        return _commit(archive, plan, shard, encoding.rows, spool)


def _sealed(archive: Store, head: Head, run: int, shard: int) -> pa.Table:
    """The rows of a shard of a sealed run; raises ArchiveError where the run was closed without it."""
    for part in report.parts(archive, head, run):
        if layout.shard_of(part.name) == shard:
            return index_files.read(archive, part)
    raise ArchiveError(f"{archive.uri(layout.seal(run))}: run {run} was closed without shard {shard}")


def committed(archive: Store, run: int, shard: int) -> pa.Table | None:
    """The rows of a shard that is done, else None; raises ArchiveError where they are damaged."""
    name = layout.part(run, shard)
    try:
        return decoded(archive, name, archive.read(name))
    except NotFoundError:
        return None


def decoded(archive: Store, name: str, data: bytes) -> pa.Table:
    """The rows in the bytes of a part of an open run; raises ArchiveError, saying how the run goes on."""
    try:
        return index_files.decoded(archive, IndexFile(name), data)
    except DamagedError:
        raise ArchiveError(
            f"{archive.uri(name)}: damaged; restore it from a mirror, or remove it to have its shard encoded again"
        ) from None


def _held(archive: Store, run: int, keys: list[str]) -> dict[str, Row]:
    """What earlier runs stored last under some keys, as outcomes for sources that still have that content."""
    if not keys:
        return {}
    field = pa.compute.field
    history = report.lookup(archive, keys)
    kept = history.filter((field("run") < run) & field("tar").is_valid()).to_pylist()
    own = {"source_uri", "source_bytes", "run", "shard", "created_at", "duplicate_of", "group", "source_modified_at"}
    own.add("needs_attention")
    return {
        row["key"]: {name: value for name, value in row.items() if name not in own} | {"status": "unchanged"}
        for row in sorted(kept, key=lambda row: int(row["run"]))
    }


FOR_THE_SHARD = ("content", "fingerprint", "fallback", "film", "identifier")
"""What the encoder says for this process alone, not for the row."""
UNJUDGED = "kept by a release that did not account for every byte of a source, and the source is gone"


class Encoding:
    """The rows of a shard, in order, and the tar they fill."""

    def __init__(
        self,
        plan: Manifest,
        shard: int,
        device: str,
        held: dict[str, Row],
        encoder: Child,
        decoder: Child,
        tar: Tar,
    ) -> None:
        self.rows: list[Row] = []
        self._source, self._held = open_source(plan.source), held
        self._reader = Reader(self._source)
        self._plan, self._shard, self._device = plan, shard, device
        self._encoder, self._decoder, self._tar = encoder, decoder, tar

    def add(self, entry: Row) -> None:
        """Make the row of one listing entry."""
        row = {
            "key": entry["key"],
            "version": entry["version"],
            "source_uri": entry["uri"],
            "source_bytes": entry["size"],
            "run": self._plan.run,
            "shard": self._shard,
            "device": self._device,
            "bundle_id": self._plan.bundle_id,
            "created_at": datetime.datetime.now(datetime.UTC),
            "group": entry.get("group"),
            "source_modified_at": self._modified(entry),
        }
        self.rows.append(row | self._outcome(entry))

    def _modified(self, entry: Row) -> int | None:
        """Nanoseconds since 1970, where the source's store tells times instead of contents."""
        stamp, is_local = str(entry["stamp"]), entry["uri"].startswith("file://")
        return int(stamp) if is_local and not self._source.stamps_tell_content and stamp.isdecimal() else None

    def _outcome(self, entry: Row) -> Row:
        if entry["state"] == "unjudged" and (held := self._held.get(entry["key"])) is not None:
            return {"source_sha256": entry["held_sha256"]} | held | {"needs_attention": UNJUDGED}
        try:
            if entry["size"] > listing.LARGEST_SOURCE:
                return self._streamed(entry)
            source = self._reader.fetch(entry)
        except LostError as lost:
            return _failed(lost.reason, str(lost))
        content = hashlib.sha256(source).hexdigest()
        found = {"source_sha256": content}
        held = self._held.get(entry["key"])
        if held is not None and content == entry["held_sha256"] and not self._again(entry, held, source):
            return found | held
        if content == entry["sha256"]:
            found["duplicate_of"] = entry["duplicate_of"]
            if first := self._first(entry["duplicate_of"], content):
                return first | found
        return found | self._encoded(entry["key"], source, grouped=entry.get("group") is not None)

    def _streamed(self, entry: Row) -> Row:
        """A source that is not read into memory goes into the tar as it is, in pieces."""
        name = member(len(self.rows), entry["key"], extension_of(entry["key"]))
        offset, content = self._tar.add_pieces(name, entry["size"], self._reader.pieces(entry))
        found = {"source_sha256": content}
        held = self._held.get(entry["key"])
        if held is not None and content == entry["held_sha256"]:
            self._tar.drop()
            return found | held
        size = entry["size"]
        about = {"status": "fallback", "reason": "too_large", "codec": "original", "verified": True}
        return found | about | {"bytes": size, "offset": offset, "length": size, "sha256": content}

    def _again(self, entry: Row, held: Row, source: bytes) -> bool:
        """Whether content that is held is taken again: asked for, and what became of it then would not now."""
        if entry["state"] != "again":
            return False
        if held["reason"] in schema.TROUBLE:
            return True
        request = self._request("judge", entry["key"])
        try:
            answer, _ = self._encoder.ask(request, source, seconds=self._plan.settings.image_timeout)
        except ChildDied:
            return False
        if "reason" not in answer:
            return False
        if held["codec"] != "fdc":
            return answer["reason"] is None and held["reason"] not in ("would_grow", "below_quality", "unverified")
        same = all((held[name] or []) == answer[name] for name in ("carried", "discarded_parts"))
        film = answer["film"][1] if answer["film"] else None
        return answer["reason"] is not None or not same or held["film_length"] != film

    def _request(self, verb: str, key: str) -> Row:
        settings = self._plan.settings
        asked = ("quality", "target_bpp", "min_psnr_db", "max_lpips", "metadata", "verify")
        named = {"do": verb, "discard": list(settings.discard), "metrics": settings.metrics_of(key)}
        return named | {name: getattr(settings, name) for name in asked}

    def _first(self, key: str | None, content: str) -> Row | None:
        """The outcome of an equal source of this shard, whose stored file then serves both."""
        row = next((row for row in self.rows if row["key"] == key), None)
        if row is None or row.get("source_sha256") != content or row["status"] == "unchanged":
            return None
        own = ("key", "version", "source_uri", "created_at", "group", "source_modified_at")
        return {name: value for name, value in row.items() if name not in own}

    def _encoded(self, key: str, source: bytes, *, grouped: bool) -> Row:
        """A source as an .fdc file, or whole where that may not stand for it."""
        settings = self._plan.settings
        try:
            answer, data = self._ask_twice(self._request("encode", key), source)
        except ChildDied as death:  # whatever it is, it is not decoded here: its bytes are kept
            about = {"width": None, "height": None, "error": str(death)}
            return about | {"status": "fallback", "reason": death.reason} | self._whole(key, source, about)
        content, fingerprint, fallback, film, identifier = (answer.pop(name, None) for name in FOR_THE_SHARD)
        group = {"group": identifier} if identifier and not grouped else {}
        if content is not None and settings.verify:
            seconds = settings.image_timeout
            answer["verified"] = decodes(self._decoder, data, content, seconds=seconds, fingerprint=fingerprint)
            fallback = None if answer["verified"] else "unverified"
        if fallback is None:
            answer |= {"status": "compressed", "codec": "fdc", "content_sha256": content}
            return answer | self._stored(key, "fdc", data, answer) | self._film(key, source, film) | group
        if settings.strict_metadata and settings.metadata != "all":
            return _failed("strict_metadata", f"would be kept whole ({fallback}), with all its metadata")
        kept = ("source_format", "media_type", "width", "height", "error")
        about = {name: answer.get(name) for name in kept}
        about |= group
        return about | {"status": "fallback", "reason": fallback} | self._without_loss(key, source, about, fallback)

    def _film(self, key: str, source: bytes, place: list[int] | None) -> Row:
        """The film of a motion photo, its own bytes, beside the picture: one sample of the tar for WebDataset."""
        if place is None:
            return {}
        film = source[place[0] : place[0] + place[1]]
        offset = self._tar.add(member(len(self.rows), key, "mp4"), film)
        return {"film_offset": offset, "film_length": len(film), "film_sha256": hashlib.sha256(film).hexdigest()}

    def _ask_twice(self, request: Row, source: bytes) -> tuple[Row, bytes]:
        """The encoder's answer; what ends its process is asked once more in a fresh one. Raises ChildDied."""
        seconds = self._plan.settings.image_timeout
        try:
            return self._encoder.ask(request, source, seconds=seconds)
        except ChildDied:
            return self._encoder.ask(request, source, seconds=seconds)

    def _without_loss(self, key: str, source: bytes, about: Row, reason: str) -> Row:
        """The source as JPEG XL where that is smaller and comes back exactly, else its own bytes."""
        seconds = self._plan.settings.image_timeout
        if about["width"] is not None and reason not in OWN_BYTES:
            try:
                answer, data = self._encoder.ask({"do": "keep"}, source, seconds=seconds)
            except ChildDied:
                answer, data = {}, b""
            if "content" in answer and decodes(self._decoder, data, answer["content"], seconds=seconds):
                kept = {"codec": "jxl", "verified": True, "content_sha256": answer["content"]}
                return kept | self._stored(key, "jxl", data, about)
        return self._whole(key, source, about)

    def _whole(self, key: str, source: bytes, about: Row) -> Row:
        """The source's own bytes."""
        return {"codec": "original", "verified": True} | self._stored(key, extension_of(key), source, about)

    def _stored(self, key: str, extension: str, data: bytes, answer: Row) -> Row:
        offset = self._tar.add(member(len(self.rows), key, extension), data)
        return {
            "bytes": len(data),
            "bpp": 8 * len(data) / (answer["width"] * answer["height"]) if answer["width"] is not None else None,
            "offset": offset,
            "length": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }


def _failed(reason: str, error: str) -> Row:
    return {"status": "failed", "reason": reason, "error": error}


def _commit(archive: Store, plan: Manifest, shard: int, rows: list[Row], spool: Path) -> report.Totals:
    """Publish the tar under its content hash, then the part that names it; the part is what commits the shard."""
    _refuse_nonsense(plan, shard, rows)
    try:
        return report.count(_published(archive, plan, shard, rows, spool))
    except ArchiveError:
        winner = committed(archive, plan.run, shard)
        if winner is None:
            raise
        return report.count(winner)  # another runner was faster, and may have sealed the run and removed our tar


def _published(archive: Store, plan: Manifest, shard: int, rows: list[Row], spool: Path) -> pa.Table:
    """The part that stands: ours, or that of another runner, whose tar then stays instead of ours."""
    own = [row for row in rows if row["status"] != "unchanged" and "offset" in row]
    tar = verified_by = ""
    if own:
        _check_offsets(spool, own)
        digest = sha256_of(spool)
        tar = layout.tar(plan.run, shard, digest)
        verified_by = archive.verify(tar, spool) if archive.publish(tar, spool) else ""
        if not verified_by:
            raise StorageError(
                f"{archive.uri(tar)}: what is stored here is not what was written; remove it and run again"
            )
    for row in own:
        row |= {"tar": tar, "verified_by": verified_by}
    about = {"run": str(plan.run), "shard": str(shard), "tar": tar}
    if archive.publish(layout.part(plan.run, shard), index_files.encoded(rows, about)):
        return schema.table(rows, about)
    winner = committed(archive, plan.run, shard)
    if winner is None:
        raise StorageError(f"{archive.uri(layout.part(plan.run, shard))}: refused, yet not there; run again")
    LOGGER.info("%s: another runner committed it first", archive.uri(layout.part(plan.run, shard)))
    if tar and tar_of(winner) != tar:
        archive.remove(tar)
    return winner


def _refuse_nonsense(plan: Manifest, shard: int, rows: list[Row]) -> None:
    read = [row for row in rows if row.get("source_sha256")]
    failed = [row for row in read if row["status"] == "failed"]
    allowed = plan.settings.max_failed_fraction
    if len(failed) > allowed * len(read):
        first = f"{failed[0]['key']!r}: {failed[0]['error']}"
        raise ArchiveError(
            f"run {plan.run}, shard {shard}: {len(failed)} of {len(read)} pictures could not be kept, more than "
            f"max_failed_fraction {allowed} allows; the first is {first}"
        )


def _hashed(file: BinaryIO, length: int) -> str:
    """The SHA-256 of the next bytes."""
    digest = hashlib.sha256()
    while length and (piece := file.read(min(PIECE, length))):
        digest.update(piece)
        length -= len(piece)
    return digest.hexdigest()


def _check_offsets(spool: Path, rows: list[Row]) -> None:
    with spool.open("rb") as file:
        for row in rows:
            file.seek(row["offset"])
            whole = _hashed(file, row["length"]) == row["sha256"]
            if whole and "film_offset" in row:
                file.seek(row["film_offset"])
                whole = _hashed(file, row["film_length"]) == row["film_sha256"]
            if not whole:
                raise ArchiveError(
                    f"{row['key']!r}: its bytes are not at the offset its row says; nothing was committed"
                )
