"""Derives preservation events from an archive; premis.py writes them as PREMIS 3.

The events come from records of the log, manifests, seals, rows of parts, and findings of audits; nothing else is
stored. Records of the log have no time of their own, so their events have the modification time of the object in the
store. Rows and audits have their own times.

Event types are terms of the Library of Congress: http://id.loc.gov/vocabulary/preservation/eventType.
"""

import datetime
import json
import uuid
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet

from codec.errors import ArchiveError
from tasks.archive import format1, index_files, layout, log, manifest, report
from tasks.archive.index_files import DamagedError
from tasks.archive.log import ArchiveHead
from tasks.archive.manifest import Manifest
from tasks.archive.schema import SCHEMA
from tasks.maintenance.findings import BATCH
from tasks.storage import parquet
from tasks.storage.store import NotFoundError, Store

Fields = dict[str, Any]
SWEPT = ("left_over", "dangling")
"""Findings that an audit repairs by removing an object."""


@dataclass(frozen=True)
class Agent:
    """The agent of an event: kind `software` with a name and version, or kind `bundle` with a bundle id."""

    kind: str
    value: str


@dataclass(frozen=True)
class Event:
    """One event. `objects` are pairs of kind (archive, run, key, object) and name.

    `outcome` is success, warning or fail; `note` gives details. `time` is in UTC.
    """

    id: uuid.UUID
    type: str
    time: datetime.datetime
    detail: str
    outcome: str
    note: str
    agents: tuple[Agent, ...]
    objects: tuple[tuple[str, str], ...]


def events(archive: Store) -> Iterator[Event]:
    """Yields the events of an archive in the order of its log, then those of audits. Equal archives give equal events.

    A redacted key appears as its pseudonym. Memory holds one part at a time. Raises ArchiveError for damaged objects,
    and if another command changed the archive meanwhile.
    """
    head = log.read(archive)
    try:
        yield from _History(archive, head).whole()
    except (NotFoundError, DamagedError) as error:
        if log.number(archive) == head.record:
            raise
        raise ArchiveError(f"{archive}: changed while its events were read; run this again") from error


class _History:
    def __init__(self, archive: Store, head: ArchiveHead) -> None:
        self._archive = archive
        self._head = head
        self._name = _document(archive, layout.ARCHIVE).get("name", "")
        self._origin = self._first_row()

    def _first_row(self) -> str:
        """Time of the first row, in microseconds: distinguishes archives of equal name, and never changes."""
        for run in range(1, self._head.runs + 1):
            parts = report.parts(self._archive, self._head, run)
            if parts:
                first = index_files.read(self._archive, parts[0])
                return str(first.column("created_at")[0])
        return ""

    def whole(self) -> Iterator[Event]:
        described = 0  # last run with its rows done
        for number in range(1, self._head.record + 1):
            described = yield from self._record(number, described)
        for run in range(described + 1, self._head.runs + 1):
            yield from self._rows(run)
        if not self._head.record:
            yield from self._erasures_of_format_1()
        for child in self._archive.children(layout.AUDITS):
            name = f"{layout.AUDITS}/{child}"
            time = layout.audit_time(name)
            if time is not None:  # someone else's file may lie here
                yield from self._audit(name, time)

    def _event(
        self,
        term: str,
        time: datetime.datetime,
        detail: str,
        agents: tuple[Agent, ...],
        objects: tuple[tuple[str, str], ...],
        *,
        of: str,
        outcome: str = "success",
        note: str = "",
    ) -> Event:
        """Builds an event; `of` distinguishes it from events of the same type and objects."""
        # derived from content, so that a second export has the same identifiers
        name = json.dumps([self._name, self._origin, term, of, objects])
        identifier = uuid.uuid5(uuid.NAMESPACE_URL, name)
        return Event(identifier, term, time, detail, outcome, note, agents, objects)

    def _record(self, number: int, described: int) -> Generator[Event, None, int]:
        """Yields the events of a record; returns the last run with its rows done, which was `described` before.

        Tables and rewrites only move rows, which is not an event of a picture.
        """
        name = layout.record(number)
        document = _document(self._archive, name)
        kind = document["kind"]
        about = document["about"]
        run = document["head"]["runs"]  # in records that open or seal a run, the number of that run
        time = _utc(self._archive.modified(name))
        agents = (_software(document.get("package_version")),)
        whole = ("archive", self._name)
        if kind == "create":
            yield self._event("creation", time, "archive created", agents, (whole,), of=name)
        elif kind == "upgrade":
            # runs before the upgrade have no records of their own
            sealed = run - 1 if document["head"]["opened"] else run
            for earlier in range(1, sealed + 1):
                yield from self._rows(earlier)
            described = sealed
            yield from self._erasures_of_format_1()
            detail = "archive upgraded from format 1 to format 2 by adding a log; no picture was changed"
            yield self._event("migration", time, detail, agents, (whole,), of=name)
        elif kind == "open":
            plan = log.plan(self._archive, self._head, run)
            detail = f"run opened: {plan.images} pictures of {plan.source}"
            yield self._event("ingestion start", time, detail, _of(plan), _run(run), of=name)
        elif kind == "seal":
            yield from self._rows(run)
            described = run
            yield self._sealed(run, time, name)
        elif kind == "forget":
            yield from self._forgotten(document, time, agents, name)
        elif kind == "hold":
            held = (("key", about["key"]),)
            yield self._event("policy assignment", time, f"put on hold: {about['reason']}", agents, held, of=name)
        elif kind == "release":
            held = (("key", about["key"]),)
            yield self._event("policy assignment", time, "hold released", agents, held, of=name)
        return described

    def _sealed(self, run: int, time: datetime.datetime, name: str) -> Event:
        plan = log.plan(self._archive, self._head, run)
        seal = log.seal(self._archive, self._head, run)
        detail = f"run sealed: {len(seal['parts'])} of {len(plan.shards)} shards"
        if "closed" not in seal:
            return self._event("ingestion end", time, detail, _of(plan), _run(run), of=name)
        closed = seal["closed"]
        missing = ", ".join(str(shard) for shard in closed["missing"])
        note = f"closed without shards {missing}: {closed['reason']}"
        return self._event("ingestion end", time, detail, _of(plan), _run(run), of=name, outcome="warning", note=note)

    def _forgotten(
        self, document: Fields, time: datetime.datetime, agents: tuple[Agent, ...], name: str
    ) -> Iterator[Event]:
        """Yields a deletion for each key of an erasure, and a redaction if a pseudonym replaced the key."""
        outcome = "success"
        note = ""
        unfinished = self._head.erasure
        if unfinished is not None and unfinished.number == document["record"]:
            outcome = "warning"
            note = "begun, but not finished yet"
        redacted = (document["head"]["erasure"] or {}).get("redacted", False)
        for key in document["about"]["keys"]:
            objects = (("key", key),)
            detail = "all versions of the picture erased with their measurements; a tombstone row remains"
            yield self._event("deletion", time, detail, agents, objects, of=name, outcome=outcome, note=note)
            if redacted:
                detail = "a pseudonym replaced the key in rows, listings and log"
                yield self._event("redaction", time, detail, agents, objects, of=name, outcome=outcome, note=note)

    def _erasures_of_format_1(self) -> Iterator[Event]:
        for name in format1.erasures(self._archive):
            time = _utc(self._archive.modified(name))
            for key in _document(self._archive, name).get("keys", ()):
                detail = "all versions of the picture erased; a tombstone row remains"
                yield self._event("deletion", time, detail, (_software(None),), (("key", key),), of=name)

    def _rows(self, run: int) -> Iterator[Event]:
        """Yields the events of a run's pictures, in shard order."""
        plan = log.plan(self._archive, self._head, run)
        for part in report.parts(self._archive, self._head, run):
            rows = parquet.conformed(index_files.read(self._archive, part), SCHEMA)
            for row in rows.to_pylist():
                yield from self._row(row, plan)

    def _row(self, row: Fields, plan: Manifest) -> Iterator[Event]:
        agents = _of(plan)
        key = ("key", row["key"])
        time = row["created_at"]
        of = str(time)
        stored = (("object", row["tar"]),) if row["tar"] else ()
        detail = f"read {row['source_uri']}: {row['source_bytes']} bytes"
        if row["source_sha256"]:
            detail += f", SHA-256 {row['source_sha256']}"
        outcome = "fail" if row["status"] == "failed" else "success"
        objects = (*_run(row["run"]), key, *stored)
        yield self._event("ingestion", time, detail, agents, objects, of=of, outcome=outcome, note=_became(row))
        was_stored = row["status"] in ("compressed", "fallback") and not row["duplicate_of"]
        if was_stored and row["codec"] in ("fdc", "jxl"):
            checked = "a second process decoded the same content" if row["verified"] else "not verified"
            yield self._event("compression", time, _compressed(row), agents, objects, of=of, note=checked)

    def _audit(self, name: str, time: datetime.datetime) -> Iterator[Event]:
        """Yields one fixity check for the whole audit, one for each problem, and the repairs."""
        with self._archive.open(name) as opened, pa.parquet.ParquetFile(opened) as file:
            about = file.schema_arrow.metadata or {}
            version = about.get(b"package_version", b"").decode()
            agents = (_software(version or None),)
            yield self._whole_audit(file, time, agents, name)
            for batch in file.iter_batches(BATCH):
                for row in batch.to_pylist():
                    if row["state"] != "ok":
                        yield from self._finding(row, time, agents, name)

    def _whole_audit(
        self, file: pa.parquet.ParquetFile, time: datetime.datetime, agents: tuple[Agent, ...], name: str
    ) -> Event:
        states = Counter[str]()
        unrepaired = 0
        for batch in file.iter_batches(BATCH, columns=["state", "repaired"]):
            for row in batch.to_pylist():
                states[row["state"]] += 1
                if row["state"] != "ok" and not row["repaired"]:
                    unrepaired += 1
        looked = states.total()
        if unrepaired:
            outcome = "fail"
        elif looked > states["ok"]:
            outcome = "warning"
        else:
            outcome = "success"
        note = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        detail = f"audit of the archive: {looked} objects and pictures checked"
        objects = (("archive", self._name), ("object", name))
        return self._event("fixity check", time, detail, agents, objects, of=name, outcome=outcome, note=note)

    def _finding(self, row: Fields, time: datetime.datetime, agents: tuple[Agent, ...], name: str) -> Iterator[Event]:
        objects: tuple[tuple[str, str], ...] = (("object", row["name"]),)
        if row["key"] is not None:
            objects += (("key", row["key"]),)
        of = f"{name} {row['state']} {row['detail']}"
        detail = f"{row['state']}: {row['detail']}"
        if row["state"] in SWEPT:  # no picture's object was damaged
            if row["repaired"]:
                yield self._event("deletion", time, detail, agents, objects, of=of)
            return
        yield self._event("fixity check", time, detail, agents, objects, of=of, outcome="fail")
        if row["repaired"]:
            detail = "replaced by the mirror's object after a check of its hash"
            yield self._event("recovery", time, detail, agents, objects, of=of)


def _document(archive: Store, name: str) -> Fields:
    return manifest.from_json(archive.read(name), archive.uri(name), remedy=log.REMEDY)


def _software(version: str | None) -> Agent:
    """Returns this package as an agent; records and audits before release 0.2 do not state the version."""
    if not version:
        return Agent("software", "fdcodec")
    return Agent("software", f"fdcodec {version}")


def _of(plan: Manifest) -> tuple[Agent, ...]:
    return _software(plan.package_version), Agent("bundle", plan.bundle_id)


def _run(number: int) -> tuple[tuple[str, str], ...]:
    return (("run", f"{number:06d}"),)


def _utc(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)


def _became(row: Fields) -> str:
    """Summarizes the result of an ingestion."""
    if row["status"] == "failed":
        return f"{row['reason']}: {row['error']}"
    if row["status"] == "unchanged":
        return "same content as an earlier version, whose stored file is reused"
    if row["status"] == "forgotten":
        return "forgotten since"
    if row["duplicate_of"] is not None:
        return f"duplicate of {row['duplicate_of']}, stored once"
    stored = f"{row['length']} bytes at byte {row['offset']}, {row['codec']}"
    if row["status"] == "fallback":
        return f"{stored}, kept whole: {row['reason']}"
    return stored


def _compressed(row: Fields) -> str:
    sizes = f"{row['source_bytes']} to {row['bytes']} bytes"
    if row["codec"] == "jxl":
        return f"lossless JPEG XL, {sizes}"
    return (
        f"fdc, lambda {row['quality_lambda']:g}, timestep {row['timestep']:g}, {row['bpp']:.4f} bits per pixel, {sizes}"
    )
