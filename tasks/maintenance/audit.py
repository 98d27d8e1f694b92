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
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet

from codec.errors import ArchiveError, SettingsError
from tasks.archive import escrow, format1, index_files, layout, log, report, tables
from tasks.archive.decoders import Decoders
from tasks.archive.erasing import tar_of
from tasks.archive.index_files import DamagedError, IndexFile
from tasks.archive.log import Table
from tasks.archive.manifest import Manifest
from tasks.archive.opening import existing, prepare
from tasks.archive.schema import Row, present
from tasks.maintenance import checks, left_over
from tasks.maintenance.checks import Wrong
from tasks.maintenance.findings import SCHEMA, Findings
from tasks.maintenance.left_over import Disposition
from tasks.maintenance.objects import Objects
from tasks.processes.child import Child
from tasks.processes.codec_process import Models, decodes, verifier
from tasks.progress import SILENT, Progress
from tasks.storage import parquet
from tasks.storage.store import PIECE, NotFoundError, ReadOnlyError, StorageError, Store

LOGGER = logging.getLogger(__name__)
SECONDS = 1800.0
"""How long one file may take to decode."""
DAY = 86_400.0
"""Age in seconds at which an incomplete upload is aborted: no command uploads one object for so long."""
OURS = (
    f"{layout.ESCROW}/",
    f"{layout.AUDITS}/",
    f"{layout.REPORTS}/",
    f"{layout.LOG}/",
    f"{layout.PLACES}/",
    f"{format1.FORGET}/",
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
    # with a mirror, archive.json itself may be what is to be repaired; its runs show that this is an archive
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
                # also after an error: what was found until then is worth keeping
                notes.flush()
                writer.close()
                if not _published(store, name, path):
                    name = ""
    return Audited(notes.objects, notes.pictures, notes.found, notes.repaired, notes.problems, name)


def _published(store: Store, name: str, path: Path) -> bool:
    """Publishes the findings; returns False if the archive is read-only, which may still be audited."""
    try:
        store.publish(name, path)
    except ReadOnlyError as error:
        LOGGER.warning("the findings cannot be written to the archive: %s", error)
        return False
    return True


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
        self.check(layout.ARCHIVE, checks.no_document)
        for name in sorted(self.objects):
            if name.startswith(f"{layout.ESCROW}/") and name.endswith(f"/{layout.SUMS}"):
                self.escrow(name)
        last = log.number(self.archive)
        if self.mirror is not None:  # the archive may have lost its last records
            last = max(last, log.number(self.mirror))
        is_whole = True
        for number in range(1, last + 1):
            is_whole = self.check(layout.record(number), checks.no_document)
        if not is_whole:
            return  # the last record states the head, and without it nothing is known to be named
        self.head = log.read(self.archive)
        self.named |= set(self.head.retired)
        for table in self.head.tables:
            self.table(table)
        for run in range(1, self.head.runs + 1):
            self.run(run)
        # after all checks, which fill `named`
        for name in sorted(self.objects.keys() - self.named):
            if not name.startswith(OURS):
                self.unnamed(name)
        with suppress(ReadOnlyError):
            for name in self.archive.abort_uploads(older_than=DAY):
                self.notes.add(name, "dangling", "aborted", repaired=True)

    def table(self, table: Table) -> None:
        """Checks a table, and that it has exactly the rows of its runs' parts."""
        whole = [self.check(file.name, checks.not_hashed(file.sha256)) for file in tables.every_file([table])]
        if not all(whole):
            return
        try:
            parts = report.parts_of(self.archive, self.head, table)
            tabled = report.batches(self.archive, self.head, table.files, SAME)
            kept = report.batches(self.archive, self.head, parts, SAME)
            with parquet.database(tabled=tabled, kept=kept) as connection:
                differences = connection.execute(_DIFFERENCES).fetchall()
        except ArchiveError:
            return  # damaged parts and seals are findings of their run
        blamed = table.files[0].name if table.files else layout.TABLES
        for key, run, side in differences:
            detail = f"its row of run {run} is only in the {side}; run `flows.archive compact ARCHIVE --afresh`"
            self.notes.add(blamed, "damaged", detail, key=key)

    def run(self, run: int) -> None:
        """Checks one run; other objects in the folder of an open run are work in progress."""
        is_open = run not in self.head.sealed
        seal: dict[str, Any] = {}
        if not is_open and self.check(self.head.seal(run), checks.no_document):
            seal = log.seal(self.archive, self.head, run)
        planned, wrong = self.manifest(run, seal)
        if not self.check(planned, wrong):
            self.name_all(layout.run(run))  # without its plan, nothing in the folder can be called unreferenced
            return
        plan = Manifest.from_bytes(self.archive.read(planned), self.archive.uri(planned))
        self.check(plan.listing, checks.not_hashed(plan.listing_sha256))
        self.escrow(f"{layout.escrow(plan.bundle_id)}/{layout.SUMS}")
        if is_open:
            parts = report.parts(self.archive, self.head, run)
            self.name_all(layout.run(run))
        elif seal:
            parts = [IndexFile(part["name"], part["sha256"]) for part in seal["parts"]]
        else:  # the seal is damaged
            parts = [IndexFile(layout.part(run, shard)) for shard in range(len(plan.shards))]
        for part in parts:
            wrong = checks.not_hashed(part.sha256) if part.sha256 else self.no_part(part)
            if self.check(part.name, wrong):
                self.part(part)
            else:  # it may name any tar of its shard
                shard = f"{layout.shards(run)}/{layout.shard_of(part.name):06d}-"
                self.named |= {tar for tar in self.objects if tar.startswith(shard)}

    def manifest(self, run: int, seal: dict[str, Any]) -> tuple[str, Wrong]:
        """Returns the name of a run's manifest and its check. `seal` is empty for an open run or a damaged seal."""
        if seal:
            return log.manifest_of(seal, run), checks.not_hashed(seal["manifest"]["sha256"])
        if run not in self.head.sealed:
            return self.head.opened, checks.no_document
        # only the seal names it, but usually the folder has just one; losers of a race leave others
        found = [name for name in self.objects if name.startswith(f"{layout.run(run)}/manifest")]
        if len(found) == 1:
            return found[0], checks.no_document
        return layout.manifest_of_format_1(run), checks.no_document

    def name_all(self, folder: str) -> None:
        """Counts all objects of a folder as referenced."""
        self.named |= {name for name in self.objects if name.startswith(f"{folder}/")}

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
        if listed in self.named or not self.check(listed, checks.no_sums):
            return
        folder = listed.rpartition("/")[0]
        for name, sha256 in escrow.sums(self.archive, folder).items():
            self.check(name, checks.not_hashed(sha256))

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
        # tars of other shards, in which duplicates and unchanged pictures are; their own parts check their content
        for tar in sorted({row["tar"] for row in rows} - {own}):
            if tar not in self.objects and not self.was_replaced(tar):
                self.notes.add(tar, "missing", f"rows of {name} refer to it")
        if not own:
            return
        # by offset, since duplicates share a file
        files = {row["offset"]: row for row in rows if row["tar"] == own}
        films = [_film(row) for row in files.values() if row.get("film_offset") is not None]
        for film in films:
            files[film["offset"]] = film
        self.tar(own, list(files.values()))

    def tar(self, name: str, rows: list[Row]) -> None:
        """Checks a tar and its files; hashes the whole tar if all pictures are selected."""
        wrong = checks.not_named(name)
        self.named.add(name)
        whole = self.sample >= 1
        if whole or name not in self.objects:
            self.check(name, wrong)
            if not self.archive.exists(name):
                return
        chosen = rows
        if not whole:
            count = max(1, round(self.sample * len(rows)))  # at least one of each tar
            chosen = self.draw.sample(rows, count)
        self.progress.begin(len(chosen))
        repaired: bool | None = None  # not tried yet: one repair replaces the whole tar
        for row in chosen:
            try:
                sha256, data = self.hashed(name, row, whole)
            except (NotFoundError, FileNotFoundError):
                if not self.was_replaced(name):
                    raise
                return
            if sha256 == row["sha256"]:
                self.content(name, row, data)
            else:
                if repaired is None:
                    # a whole tar was repaired above, as far as that is possible
                    repaired = not whole and self.repair(name, wrong)
                detail = f"its bytes do not match its row, at byte {row['offset']}"
                self.notes.add(name, "damaged", detail, key=row["key"], repaired=repaired)
            self.progress.advance(1)
        if not whole and repaired is None:
            self.notes.add(name)
        self.progress.note(f"{name}: {len(chosen)} pictures")

    def hashed(self, tar: str, row: Row, whole: bool) -> tuple[str, bytes]:
        """Returns the SHA-256 of a row's file, and its bytes if it is to be decoded: such files fit into memory."""
        digest = hashlib.sha256()
        data = b""
        for piece in self.member(tar, row, whole):
            digest.update(piece)
            if row["content_sha256"] is not None:
                data += piece
        return digest.hexdigest(), data

    def member(self, tar: str, row: Row, whole: bool) -> Iterator[bytes]:
        """Yields the bytes of a row's file in pieces; fewer or none if the tar is truncated."""
        offset = present(row["offset"])
        length = present(row["length"])
        if not whole:
            try:
                yield from self.archive.pieces(tar, length, start=offset)
            except StorageError:
                # a store refuses a range beyond the end: damage of this tar, not a failure of the store
                if self.archive.size(tar) >= offset + length:
                    raise
            return
        with self.local(self.archive, tar).open("rb") as file:
            file.seek(offset)
            while length:
                piece = file.read(min(PIECE, length))
                if not piece:
                    return
                length -= len(piece)
                yield piece

    def content(self, tar: str, row: Row, data: bytes) -> None:
        """Records a file with correct bytes, after decoding it if it was encoded."""
        content_sha256 = row["content_sha256"]
        if content_sha256 is not None:
            decoder = self.decoder(row["bundle_id"])
            if decoder is not None and not decodes(decoder, data, content_sha256, seconds=SECONDS):
                detail = f"does not decode to the encoded content, at byte {row['offset']}"
                self.notes.add(tar, "undecodable", detail, key=row["key"])
                return
        self.notes.add(tar, key=row["key"])

    def decoder(self, bundle_id: str | None) -> Child | None:
        """Returns the decoder of a bundle; None if it cannot be loaded, which is recorded once."""
        if bundle_id is None or bundle_id in self.useless:
            return None
        try:
            return self.decoders.get(bundle_id)
        except ArchiveError as error:
            self.useless.add(bundle_id)
            self.notes.add(layout.escrow(bundle_id), "damaged", str(error))
            return None


def _film(row: Row) -> Row:
    """Returns the video next to a picture as a row, which is checked like a file of its own."""
    film = row.copy()
    film["offset"] = row["film_offset"]
    film["length"] = row["film_length"]
    film["sha256"] = row["film_sha256"]
    film["content_sha256"] = None  # original bytes, never decoded
    film["film_offset"] = None
    return film
