"""Encodes, verifies and commits one shard of a run as one tar and one part of the report."""

import hashlib
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet

from codec.errors import ArchiveError
from tasks.archive import index_files, layout, log, report, schema
from tasks.archive.erasing import tar_of
from tasks.archive.index_files import DamagedError, IndexFile
from tasks.archive.log import ArchiveHead
from tasks.archive.manifest import Manifest
from tasks.archive.schema import Row, present
from tasks.archive.tar import Tar
from tasks.compress import listing, process_pair
from tasks.compress.encoding import Encoding
from tasks.processes.codec_process import CODEC, Models
from tasks.progress import SILENT, Progress
from tasks.storage.store import PIECE, NotFoundError, StorageError, Store, sha256_of

LOGGER = logging.getLogger(__name__)
OF_THIS_RUN = (
    *("source_uri", "source_bytes", "run", "shard", "created_at", "duplicate_of", "group", "source_modified_at"),
    "needs_attention",
)
"""Fields that a row `unchanged` does not take from the earlier row of the same content."""


@dataclass(frozen=True)
class CompressionJob:
    """A run to encode shard by shard. `backbone` is the location of the backbone, if the bundle does not embed it.

    `claim` is the writer's token, for stores without exclusive creation.
    """

    archive: str
    run: int
    device: str = "cpu"
    backbone: str = ""
    codec: str = CODEC
    child_env: tuple[str, ...] = ()
    claim: str = ""


def encode_shard(job: CompressionJob, shard: int, progress: Progress = SILENT) -> report.Totals:
    """Encodes, verifies and commits one shard, unless it is done; returns its totals.

    An error of one source is recorded in its row. Raises StorageError if the source store or the archive is
    unreachable; nothing is committed then, and the call can be retried. Raises ArchiveError if more of the pictures
    that were read failed than the settings allow.
    """
    archive = Store(job.archive)
    if job.claim:
        archive.claim(layout.CLAIM, job.claim)
    head = log.read(archive)
    plan = log.plan(archive, head, job.run)
    start, stop = plan.shards[shard]
    done: pa.Table | None
    if job.run in head.sealed:  # by another runner; in a sealed run, only the seal says which parts count
        done = _sealed(archive, head, job.run, shard)
    else:
        done = committed(archive, job.run, shard)
    if done is not None:
        progress.advance(stop - start)
        return report.count(done)
    entries = listing.read(archive, plan.listing, start, stop)
    settings = plan.settings
    models = Models("", job.device, job.backbone, settings.threads, job.codec, settings.image_memory, job.child_env)
    held = [entry["key"] for entry in entries if entry["held_sha256"]]
    with tempfile.TemporaryDirectory() as scratch:
        spool = Path(scratch) / "shard.tar"
        with process_pair.for_shard(archive, plan.bundle_id, models, settings.metrics) as pair, Tar(spool) as tar:
            earlier = _earlier_rows(archive, plan.run, held)
            encoding = Encoding(plan, shard, job.device, earlier, pair, tar)
            encoding.add_all(entries, progress)
        return _commit(archive, plan, shard, encoding.rows, spool)


def _sealed(archive: Store, head: ArchiveHead, run: int, shard: int) -> pa.Table:
    """Reads the rows of a shard of a sealed run; raises ArchiveError if the run was closed without it."""
    for part in report.parts(archive, head, run):
        if layout.shard_of(part.name) == shard:
            return index_files.read(archive, part)
    raise ArchiveError(f"{archive.uri(layout.seal(run))}: run {run} was closed without shard {shard}")


def committed(archive: Store, run: int, shard: int) -> pa.Table | None:
    """Reads the rows of a committed shard; None if not committed. Raises ArchiveError if they are damaged."""
    name = layout.part(run, shard)
    try:
        return decoded(archive, name, archive.read(name))
    except NotFoundError:
        return None


def decoded(archive: Store, name: str, data: bytes) -> pa.Table:
    """Parses a part of an open run; raises ArchiveError, which names the remedy."""
    try:
        return index_files.decoded(archive, IndexFile(name), data)
    except DamagedError:
        raise ArchiveError(
            f"{archive.uri(name)}: damaged; restore it from a mirror, or remove it to have its shard encoded again"
        ) from None


def _earlier_rows(archive: Store, run: int, keys: list[str]) -> dict[str, Row]:
    """Returns the last stored rows of some keys, as outcomes for sources with unchanged content."""
    if not keys:
        return {}
    history = report.lookup(archive, keys)
    is_stored = pa.compute.field("tar").is_valid()
    is_earlier = pa.compute.field("run") < run
    stored = history.filter(is_earlier & is_stored).to_pylist()
    earlier: dict[str, Row] = {}
    for row in sorted(stored, key=lambda row: int(row["run"])):  # a later row replaces an earlier one
        outcome = {name: value for name, value in row.items() if name not in OF_THIS_RUN}
        earlier[row["key"]] = cast(Row, outcome | {"status": "unchanged"})
    return earlier


def _commit(archive: Store, plan: Manifest, shard: int, rows: list[Row], spool: Path) -> report.Totals:
    """Publishes the tar under its content hash, then the part that names it; the part commits the shard."""
    _refuse_nonsense(plan, shard, rows)
    try:
        return report.count(_published(archive, plan, shard, rows, spool))
    except ArchiveError:
        winner = committed(archive, plan.run, shard)
        if winner is None:
            raise
        return report.count(winner)  # another runner was faster; it may have sealed the run and removed our tar


def _published(archive: Store, plan: Manifest, shard: int, rows: list[Row], spool: Path) -> pa.Table:
    """Returns the committed part: ours, or that of another runner, in which case our tar is removed."""
    own = [row for row in rows if row["status"] != "unchanged" and "offset" in row]
    tar = ""
    verified_by = ""
    if own:
        _check_offsets(spool, own)
        digest = sha256_of(spool)
        tar = layout.tar(plan.run, shard, digest)
        if archive.publish(tar, spool):  # also if another runner wrote the same tar
            verified_by = archive.verify(tar, spool)
        if not verified_by:
            raise StorageError(
                f"{archive.uri(tar)}: the stored content differs from the written one; remove it and run again"
            )
    for row in own:
        row |= {"tar": tar, "verified_by": verified_by}
    about = {"run": str(plan.run), "shard": str(shard), "tar": tar}
    if archive.publish(layout.part(plan.run, shard), index_files.encoded(rows, about)):
        return schema.table(rows, about)
    winner = committed(archive, plan.run, shard)
    if winner is None:
        raise StorageError(
            f"{archive.uri(layout.part(plan.run, shard))}: the store refused to create it, but it does not exist; "
            "run again"
        )
    LOGGER.info("%s: another runner committed this shard first", archive.uri(layout.part(plan.run, shard)))
    # Only now that the committed part was read and names another tar: equal runners make one tar, under one name.
    if tar and tar_of(winner) != tar:
        archive.remove(tar)
    return winner


def _refuse_nonsense(plan: Manifest, shard: int, rows: list[Row]) -> None:
    # Sources that could not be read do not count: they say nothing about the encoder.
    read = [row for row in rows if row.get("source_sha256")]
    failed = [row for row in read if row["status"] == "failed"]
    allowed = plan.settings.max_failed_fraction
    if len(failed) > allowed * len(read):
        first = f"{failed[0]['key']!r}: {failed[0]['error']}"
        raise ArchiveError(
            f"run {plan.run}, shard {shard}: {len(failed)} of {len(read)} pictures failed, more than "
            f"max_failed_fraction {allowed} allows; the first is {first}"
        )


def _hashed(file: BinaryIO, length: int) -> str:
    """Returns the SHA-256 of the next bytes."""
    digest = hashlib.sha256()
    while length:
        piece = file.read(min(PIECE, length))
        if not piece:
            break
        digest.update(piece)
        length -= len(piece)
    return digest.hexdigest()


def _check_offsets(spool: Path, rows: list[Row]) -> None:
    """Raises ArchiveError if a row names other bytes of the tar than its file: restore would fail, or find another."""
    with spool.open("rb") as file:
        for row in rows:
            file.seek(present(row["offset"]))
            whole = _hashed(file, present(row["length"])) == row["sha256"]
            if whole and "film_offset" in row:
                file.seek(present(row["film_offset"]))
                whole = _hashed(file, present(row["film_length"])) == row["film_sha256"]
            if not whole:
                raise ArchiveError(
                    f"{row['key']!r}: its bytes are not at the offset in its row; nothing was committed; run again"
                )
