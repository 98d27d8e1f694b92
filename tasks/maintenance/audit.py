"""Checks that every object the archive names exists, matches its hash and still decodes, and repairs what it can.

The audit follows references: manifest, listing, seal, parts, tars, and each file in the tars. The hash of a file must
match its row, and its symbols, decoded by a second process, must be those that were encoded. Every checked object and
file becomes a row of audits/<time>.parquet. With a mirror, a copy of the archive with the same runs, a damaged or
missing object is replaced by the mirror's, if that matches its name or hash.
"""

import datetime
import hashlib
import importlib.metadata
import logging
import random
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet

from codec.errors import ArchiveError, SettingsError
from tasks.archive import escrow, format1, index_files, layout, log, manifest, report, tables
from tasks.archive.decoders import Decoders
from tasks.archive.erasing import tar_of
from tasks.archive.index_files import DamagedError, IndexFile
from tasks.archive.log import Table
from tasks.archive.manifest import Manifest
from tasks.archive.opening import existing, prepare
from tasks.archive.schema import Row, present
from tasks.maintenance import left_over
from tasks.maintenance.findings import SCHEMA, Findings
from tasks.maintenance.left_over import Disposition
from tasks.maintenance.objects import Objects, Wrong
from tasks.processes.codec_process import Models, decodes, verifier
from tasks.progress import SILENT, Progress
from tasks.storage import parquet
from tasks.storage.store import PIECE, NotFoundError, ReadOnlyError, StorageError, Store, sha256_of

LOGGER = logging.getLogger(__name__)
SECONDS = 1800.0
DAY = 86_400.0
OURS = tuple(
    f"{folder}/" for folder in (layout.ESCROW, layout.AUDITS, layout.REPORTS, layout.LOG, layout.PLACES, format1.FORGET)
)
"""Folders in which unreferenced objects are not findings."""
SAME = ["key", "version", "run", "status", "tar", "offset", "length", "sha256", "film_offset", "film_length"]
"""Columns in which the rows of a table and of its parts must be equal."""
_DIFFERENCES = """
    WITH every AS (SELECT *, 1 AS side FROM tabled UNION ALL SELECT *, -1 AS side FROM kept),
         counted AS (SELECT * EXCLUDE side, sum(side) AS surplus FROM every GROUP BY ALL)
    SELECT key, run, if(surplus > 0, 'table', 'part') FROM counted WHERE surplus <> 0 ORDER BY key, run
"""


@dataclass(frozen=True)
class Audited:
    """Numbers of checked objects and pictures, of problems, and of repaired problems.

    `problems` are the first thousand findings that are not ok; `findings` is the name of the file with all findings,
    empty if the archive is read-only.
    """

    objects: int
    pictures: int
    found: int
    repaired: int
    problems: list[dict[str, Any]]
    findings: str


def audit(
    archive: str,
    *,
    sample: float = 1.0,
    seed: int | None = None,
    repair_from: str = "",
    models: Models = Models(""),  # noqa: B008  # frozen
    progress: Progress = SILENT,
) -> Audited:
    """Checks an archive and writes its findings.

    `sample` is the fraction of pictures whose bytes are read and decoded, selected by `seed` (None: a new seed each
    time); all other checks are complete. `models` sets device and threads for decoding; the bundles are the archive's
    own copies. Raises SettingsError for a sample outside 0..1, ArchiveError without an archive.
    """
    if not 0 < sample <= 1:
        raise SettingsError(f"sample must be above 0 and at most 1, not {sample}")
    store = Store(archive)
    if not repair_from or not store.children(layout.RUNS):
        store = existing(archive)
    if repair_from:
        prepare(store)
    mirror = existing(repair_from) if repair_from else None
    started = datetime.datetime.now(datetime.UTC)
    name = layout.audit(started)
    with tempfile.TemporaryDirectory() as scratch, Decoders(store, models, verifier) as decoders:
        path = Path(scratch) / "findings.parquet"
        about = SCHEMA.with_metadata({"package_version": importlib.metadata.version("fdcodec")})
        with pa.parquet.ParquetWriter(path, about, compression="zstd") as writer:
            notes = Findings(writer)
            try:
                _Audit(
                    archive=store,
                    mirror=mirror,
                    scratch=Path(scratch),
                    notes=notes,
                    decoders=decoders,
                    sample=sample,
                    draw=random.Random(seed),
                    progress=progress,
                ).whole()
            finally:
                notes.flush()
                writer.close()
                try:
                    store.publish(name, path)
                except ReadOnlyError as error:
                    name = ""
                    LOGGER.warning("the findings cannot be written to the archive: %s", error)
    return Audited(notes.objects, notes.pictures, notes.found, notes.repaired, notes.problems, name)


@dataclass(kw_only=True)
class _Audit(Objects):
    decoders: Decoders
    sample: float
    draw: random.Random
    progress: Progress
    useless: set[str] = field(default_factory=set)

    def whole(self) -> None:
        """Checks the whole archive."""
        self.objects = {item.name: item.size for item in self.archive.list()}
        self.check(layout.ARCHIVE, _no_document)
        for name in sorted(self.objects):
            if name.startswith(f"{layout.ESCROW}/") and name.endswith(f"/{layout.SUMS}"):
                self.escrow(name)
        last = max(log.number(store) for store in (self.archive, self.mirror) if store is not None)
        records = [self.check(layout.record(number), _no_document) for number in range(1, last + 1)]
        if not all(records[-1:]):
            return  # the head is unknown
        self.head = log.read(self.archive)
        self.named |= set(self.head.retired)
        for table in self.head.tables:
            self.table(table)
        for run in range(1, self.head.runs + 1):
            self.run(run)
        for name in sorted(self.objects.keys() - self.named):
            if not name.startswith(OURS):
                self.unnamed(name)
        with suppress(ReadOnlyError):
            for name in self.archive.abort_uploads(older_than=DAY):
                self.notes.add(name, "dangling", "aborted", repaired=True)

    def table(self, table: Table) -> None:
        """Checks a table, and that it has exactly the rows of its runs' parts."""
        whole = [self.check(file.name, _not_hashed(file.sha256)) for file in tables.every_file([table])]
        if not all(whole):
            return
        try:
            parts = report.parts_of(self.archive, self.head, table)
            tabled = report.batches(self.archive, self.head, table.files, SAME)
            kept = report.batches(self.archive, self.head, parts, SAME)
            with parquet.database(tabled=tabled, kept=kept) as connection:
                for key, run, name in connection.execute(_DIFFERENCES).fetchall():
                    detail = f"its row of run {run} is only in the {name}; run `flows.archive compact ARCHIVE --afresh`"
                    self.notes.add(table.files[0].name if table.files else layout.TABLES, "damaged", detail, key=key)
        except ArchiveError:
            return  # damaged parts and seals are findings of their run

    def run(self, run: int) -> None:
        """Checks one run; other objects in the folder of an open run are work in progress."""
        seal: dict[str, Any] = {}
        folder = f"{layout.run(run)}/"
        planned, wrong = self.head.opened, cast(Wrong, _no_document)
        if run in self.head.sealed:
            found = [name for name in self.objects if name.startswith(f"{folder}manifest")]
            planned = found[0] if len(found) == 1 else layout.manifest_of_format_1(run)
            if self.check(self.head.seal(run), _no_document):
                seal = log.seal(self.archive, self.head, run)
                planned, wrong = log.manifest_of(seal, run), _not_hashed(seal["manifest"]["sha256"])
        if not self.check(planned, wrong):
            self.named |= {name for name in self.objects if name.startswith(folder)}
            return
        plan = Manifest.from_bytes(self.archive.read(planned), self.archive.uri(planned))
        self.check(plan.listing, _not_hashed(plan.listing_sha256))
        self.escrow(f"{layout.escrow(plan.bundle_id)}/{layout.SUMS}")
        parts = [IndexFile(layout.part(run, shard)) for shard in range(len(plan.shards))]
        if run not in self.head.sealed:
            parts = report.parts(self.archive, self.head, run)
            self.named |= {name for name in self.objects if name.startswith(folder)}
        elif seal:
            parts = [IndexFile(part["name"], part["sha256"]) for part in seal["parts"]]
        for part in parts:
            if self.check(part.name, _not_hashed(part.sha256) if part.sha256 else self.no_part(part)):
                self.part(part)
            else:
                shard = f"{layout.shards(run)}/{layout.shard_of(part.name):06d}-"
                self.named |= {tar for tar in self.objects if tar.startswith(shard)}

    def no_part(self, part: IndexFile) -> Wrong:
        """Returns the check for a part that no seal names yet."""

        def wrong(path: Path) -> str:
            try:
                index_files.decoded(self.archive, part, path.read_bytes())
            except DamagedError:
                return "its rows do not match their hash"
            return ""

        return wrong

    def unnamed(self, name: str) -> None:
        """Records an unreferenced object; removes a leftover of a killed or late command after a week."""
        verdict = left_over.disposition(self.archive, self.head, name)
        if verdict is Disposition.FOREIGN:
            self.notes.add(name, "foreign", verdict.value)
        elif verdict is Disposition.OLD:
            self.archive.remove(name)
            self.notes.add(name, "left_over", verdict.value, repaired=True)
        else:
            self.notes.add(name, detail=verdict.value)

    def escrow(self, listed: str) -> None:
        """Checks a SHA256SUMS of the escrow and the files that it names, once."""
        if listed not in self.named and self.check(listed, _no_sums):
            for name, sha256 in escrow.sums(self.archive, listed.rpartition("/")[0]).items():
                self.check(name, _not_hashed(sha256))

    def part(self, file: IndexFile) -> None:
        """Checks the objects that the rows of a part name."""
        name = file.name
        try:
            part = index_files.read(self.archive, file)
        except DamagedError:
            if not self.was_replaced(name):
                raise
            return
        own = tar_of(part)
        rows = part.filter(pa.compute.field("tar").is_valid()).to_pylist()
        for tar in sorted({row["tar"] for row in rows} - {own}):
            if tar not in self.objects and not self.was_replaced(tar):
                self.notes.add(tar, "missing", f"rows of {name} refer to it")
        if own:
            files = {row["offset"]: row for row in rows if row["tar"] == own}
            self.tar(own, list((files | {row["offset"]: row for row in map(_film, files.values()) if row}).values()))

    def tar(self, name: str, rows: list[Row]) -> None:
        """Checks a tar and its files; hashes the whole tar if all pictures are selected."""
        wrong = _not_named(name)
        self.named.add(name)
        whole = self.sample >= 1
        if whole or name not in self.objects:
            self.check(name, wrong)
            if not self.archive.exists(name):
                return
        chosen = rows if whole else self.draw.sample(rows, max(1, round(self.sample * len(rows))))
        self.progress.begin(len(chosen))
        repaired: bool | None = None
        for row in chosen:
            digest, data = hashlib.sha256(), b""
            try:
                for piece in self.member(name, row, whole):
                    digest.update(piece)
                    if row["content_sha256"] is not None:  # decoded files fit into memory
                        data += piece
            except (NotFoundError, FileNotFoundError):
                if not self.was_replaced(name):
                    raise
                return
            if digest.hexdigest() == row["sha256"]:
                self.content(name, row, data)
            else:
                if repaired is None:
                    repaired = not whole and self.repair(name, wrong)
                detail = f"its bytes do not match its row, at byte {row['offset']}"
                self.notes.add(name, "damaged", detail, key=row["key"], repaired=repaired)
            self.progress.advance(1)
        if not whole and repaired is None:
            self.notes.add(name)
        self.progress.note(f"{name}: {len(chosen)} pictures")

    def member(self, tar: str, row: Row, whole: bool) -> Iterator[bytes]:
        """Yields the bytes of a row's file in pieces; fewer or none if the tar is truncated."""
        offset, length = present(row["offset"]), present(row["length"])
        if not whole:
            try:
                yield from self.archive.pieces(tar, length, start=offset)
            except StorageError:
                if self.archive.size(tar) >= offset + length:
                    raise
            return
        with self.local(self.archive, tar).open("rb") as file:
            file.seek(offset)
            while length and (piece := file.read(min(PIECE, length))):
                length -= len(piece)
                yield piece

    def content(self, tar: str, row: Row, data: bytes) -> None:
        """Records a file with correct bytes, after decoding it if it was encoded."""
        bundle_id = row["bundle_id"]
        if row["content_sha256"] is not None and bundle_id is not None and bundle_id not in self.useless:
            try:
                decoder = self.decoders.get(bundle_id)
            except ArchiveError as error:
                self.useless.add(bundle_id)
                self.notes.add(layout.escrow(bundle_id), "damaged", str(error))
                self.content(tar, row, data)
                return
            if not decodes(decoder, data, row["content_sha256"], seconds=SECONDS):
                detail = f"does not decode to the encoded content, at byte {row['offset']}"
                self.notes.add(tar, "undecodable", detail, key=row["key"])
                return
        self.notes.add(tar, key=row["key"])


def _no_document(path: Path) -> str:
    try:
        manifest.from_json(path.read_bytes(), "")
    except ArchiveError as error:
        return str(error).removeprefix(": ").partition(";")[0]
    return ""


def _film(row: Row) -> Row | None:
    """Returns the video next to a picture as a row, which is checked like a file of its own."""
    if row.get("film_offset") is None:
        return None
    film = row.copy()
    film["offset"], film["length"] = row["film_offset"], row["film_length"]
    film["sha256"] = row["film_sha256"]
    film["content_sha256"] = film["film_offset"] = None  # original bytes, never decoded
    return film


def _no_sums(path: Path) -> str:
    return "" if escrow.is_whole(path.read_bytes()) else "not a valid SHA256SUMS, or damaged"


def _not_hashed(sha256: str) -> Wrong:
    return lambda path: (
        "" if sha256_of(path) == sha256 else "its content does not match the hash of the object that names it"
    )


def _not_named(tar: str) -> Wrong:
    head = layout.hash_of(tar)
    return lambda path: "" if sha256_of(path).startswith(head) else "its content does not match the hash in its name"
