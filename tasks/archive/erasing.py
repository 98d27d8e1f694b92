"""Carries out an erasure. Any command that finds an unfinished erasure finishes it.

The record of the erasure contains the whole plan: the members to cut from each tar, and the parts with rows to change.
Each step is idempotent, and any process can repeat it:

1. Each tar is copied under a new name without the erased members; its other bytes do not change.
2. Parts and table files with rows to change are rewritten under new names. Rows of the erased keys become tombstones;
   rows of other keys in the same tars point to the new tars. A tombstone keeps key, version, source_uri, source_bytes,
   run, shard and created_at, but no hashes or measurements. Seals that name those parts are rewritten too.
   To redact keys, the listings that name them are rewritten, and the manifests that name those listings.
3. One record puts the new names in force. Readers see either the old state or the new state.
4. The replaced objects are removed, redacted keys are removed from older records, and a last record completes it.

No name is used twice, so a late step overwrites nothing and no reader uses its result; the process that detects it was
late removes the result. No shards are committed during an erasure: no erasure begins while a run is open, and no run
opens during an erasure. Keys that are not redacted stay in the frozen listings, with their sizes, and with hashes where
several sources have the same size.
"""

import os
import tarfile
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute

from codec.errors import ArchiveError
from tasks.archive import index_files, layout, log, manifest, redaction, report, tables
from tasks.archive.index_files import DamagedError
from tasks.archive.log import ArchiveHead, Erasure, Table, TableFile
from tasks.archive.schema import SCHEMA, Row, present
from tasks.archive.tar import padded
from tasks.storage.store import NotFoundError, Store, sha256_of

# Hashes and measurements would let a reader recognize the erased picture, so a tombstone has none.
_TOMBSTONE = ("key", "version", "source_uri", "source_bytes", "run", "shard", "created_at")


@dataclass
class _Moved:
    """A rewritten tar: its new name (empty if no member is left), and the new offset of each member by old offset."""

    tar: str
    offsets: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Change:
    """The changes that an erasure makes to rows."""

    erasure: Erasure
    moved: Mapping[str, _Moved]

    @property
    def keys(self) -> list[str]:
        return list(self.erasure.keys)

    def is_erased(self, key: str) -> bool:
        named = redaction.pseudonym(key) if self.erasure.redacted else key
        return named in self.erasure.keys

    def row(self, row: Row) -> Row:
        """Returns the row after the erasure."""
        if self.is_erased(row["key"]):
            row = cast(Row, {name: value for name, value in row.items() if name in _TOMBSTONE})
            row["status"] = "forgotten"
        elif row["tar"] in self.moved:
            move = self.moved[present(row["tar"])]
            row = row | {"tar": move.tar, "offset": move.offsets[present(row["offset"])]}
            film_offset = row.get("film_offset")
            if film_offset is not None:
                row["film_offset"] = move.offsets[film_offset]
        if self.erasure.redacted:
            return redaction.of_row(row, self.is_erased)
        return row


def finish(archive: Store) -> ArchiveHead:
    """Finishes an unfinished erasure, if any, and returns the head for a command that will change it."""
    while True:
        head = log.writable(archive)
        if head.erasure is None:
            return head
        # The record with the new names also lists the replaced ones: without that list it is yet to be written.
        if not head.erasure.remove:
            _rewrite(archive, head, head.erasure)
            continue
        for name in head.erasure.remove:
            archive.remove(name)
        if head.erasure.redacted:
            redaction.redact_history(archive)
        # If another command wrote this record first, the next round finds no erasure.
        log.append(archive, head, "forgotten", replace(head, erasure=None), rows=head.erasure.rows)


def _rewrite(archive: Store, head: ArchiveHead, erasure: Erasure) -> None:
    """Rewrites the objects that an erasure changes, and puts them in force."""
    made: list[str] = []
    try:
        after = _rewritten(archive, head, erasure, made)
        if log.append(archive, head, "rewritten", after) and log.number(archive) == after.record:
            return
    except (NotFoundError, DamagedError):
        # Another command was faster and removed the objects to rewrite; only under the same head they are really lost.
        if log.number(archive) == head.record:
            raise
    now = log.read(archive)  # the head may have changed, so these objects may be too late
    for name in made:
        if not in_force(archive, now, name):
            archive.remove(name)


def _rewritten(archive: Store, head: ArchiveHead, erasure: Erasure, made: list[str]) -> ArchiveHead:
    """Returns the head with the new names; appends each name to `made` as soon as it is published."""
    moved: dict[str, _Moved] = {}
    for tar, offsets in erasure.tars.items():
        moved[tar] = _without(archive, tar, offsets, erasure.number, made)
    change = _Change(erasure, moved)
    parts: dict[str, dict[str, Any]] = {}
    for name in erasure.parts:
        parts[name] = _part(archive, head, name, change, made)
    changed_runs = {layout.run_of(name) for name in erasure.parts}
    changed_runs.update(erasure.listings)
    seals: dict[int, str] = {}
    listings: list[str] = []
    for run in sorted(changed_runs):  # in a fixed order: each process that finishes the erasure takes the same steps
        document = log.seal(archive, head, run)
        document["parts"] = [parts.get(part["name"], part) for part in document["parts"]]
        if run in erasure.listings:
            listings += [log.manifest_of(document, run), log.plan(archive, head, run).listing]
            document["manifest"] = _manifest(archive, head, run, change, made)
        data = manifest.to_json(document)
        seals[run] = layout.rewritten_seal(run, sha256_of(data))
        _publish(archive, seals[run], data, made)
    after = replace(head, record=head.record + 1, seals={**head.seals, **seals}, retired=())
    # Tables come last: one that is rebuilt reads the new parts through the new seals.
    new_tables = []
    for table in head.tables:
        new_tables.append(_table(archive, head, after, table, change, made))
    after = replace(after, tables=tuple(new_tables))
    # Retired table files go too, though readers may still use them: they have the rows to erase.
    old_seals = [head.seal(run) for run in seals]
    old_files = tables.replaced_files(head, after)
    remove = (*erasure.tars, *erasure.parts, *listings, *old_seals, *old_files, *head.retired)
    return replace(after, erasure=replace(erasure, tars={}, parts=(), listings=(), remove=remove))


def in_force(archive: Store, head: ArchiveHead, name: str) -> bool:
    """Whether a head names a tar, part, listing, manifest, seal or table file, directly or indirectly."""
    if not name.startswith(f"{layout.RUNS}/"):
        return any(file.name == name for file in tables.every_file(head.tables))
    run = layout.run_of(name)
    if run not in head.sealed:
        return True  # nothing names the objects of an open run yet, and its runner needs them
    if name.endswith(".json"):
        return head.seal(run) == name or log.manifest_of(log.seal(archive, head, run), run) == name
    if layout.is_listing(name):
        return log.plan(archive, head, run).listing == name
    shard = layout.shard_of(name)
    for part in report.parts(archive, head, run):
        if layout.shard_of(part.name) != shard:
            continue
        if name.endswith(".parquet"):
            return part.name == name
        return tar_of(index_files.read(archive, part)) == name
    return False  # the run was closed without this shard


def tar_of(part: pa.Table) -> str:
    """Returns the tar that a part names; empty if the shard stored nothing."""
    return str(part.schema.metadata[b"tar"].decode())


def _publish(archive: Store, name: str, content: bytes | Path, made: list[str]) -> None:
    # Each name has a hash of the content, so an object of that name can only be the same one, or a damaged one.
    if not archive.publish(name, content):
        raise ArchiveError(f"{archive.uri(name)}: its content does not match its name; {log.REMEDY}")
    made.append(name)


def _without(archive: Store, tar: str, cut: Collection[int], record: int, made: list[str]) -> _Moved:
    """Publishes a copy of a tar without the members at the given offsets."""
    moved = _Moved("")
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "shard.tar"
        with archive.open(tar) as old, path.open("wb") as new:
            end = 0
            with tarfile.open(fileobj=old, mode="r:") as members:
                for member in members:
                    end = member.offset_data + padded(member.size)
                    if member.offset_data not in cut:
                        header = member.offset_data - member.offset
                        moved.offsets[member.offset_data] = new.tell() + header
                        _copy(old, new, member.offset, end)
            if not moved.offsets:
                return moved
            # The zero blocks behind the last member end a tar.
            _copy(old, new, end, old.seek(0, os.SEEK_END))
        moved.tar = layout.rewritten_tar(layout.run_of(tar), layout.shard_of(tar), sha256_of(path), record)
        _publish(archive, moved.tar, path, made)
    return moved


def _copy(old: Any, new: Any, start: int, stop: int) -> None:
    old.seek(start)
    while start < stop:
        piece = old.read(min(1 << 20, stop - start))
        new.write(piece)
        start += len(piece)


def _manifest(archive: Store, head: ArchiveHead, run: int, change: _Change, made: list[str]) -> dict[str, Any]:
    """Publishes a run's listing and manifest without redacted keys; returns the seal's entry for the manifest."""
    plan = log.plan(archive, head, run)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "listing.parquet"
        redaction.write_listing(archive, plan, change.is_erased, path)
        digest = sha256_of(path)
        _publish(archive, layout.listing(run, digest), path, made)
    planned = log.manifest_of(log.seal(archive, head, run), run)
    document = manifest.from_json(archive.read(planned), archive.uri(planned), remedy=log.REMEDY)
    data = manifest.to_json(document | {"listing": layout.listing(run, digest), "listing_sha256": digest})
    name = layout.manifest(run, sha256_of(data))
    _publish(archive, name, data, made)
    return {"name": name, "sha256": sha256_of(data)}


def _part(archive: Store, head: ArchiveHead, name: str, change: _Change, made: list[str]) -> dict[str, Any]:
    """Publishes a part with its rows changed; returns the seal's entry for it."""
    run = layout.run_of(name)
    sealed = next(part for part in report.parts(archive, head, run) if part.name == name)
    part = index_files.read(archive, sealed)
    about = {key.decode(): value.decode() for key, value in part.schema.metadata.items()}
    about.pop(index_files.ROWS_SHA256.decode(), None)  # of the old rows; `encoded` adds that of the new ones
    if about["tar"] in change.moved:
        about["tar"] = change.moved[about["tar"]].tar
    data = index_files.encoded([change.row(row) for row in part.to_pylist()], about)
    content = sha256_of(data)
    named = layout.rewritten_part(run, layout.shard_of(name), content)
    _publish(archive, named, data, made)
    return {"name": named, "size": len(data), "sha256": content}


def _table(
    archive: Store, head: ArchiveHead, after: ArchiveHead, table: Table, change: _Change, made: list[str]
) -> Table:
    """Rewrites the files of a table that have rows to change; returns the table.

    A damaged table, or one with redacted keys, is rebuilt from the new parts: pseudonyms sort differently.
    """
    if change.erasure.redacted:
        return _of_parts(archive, after, table, made)
    of_keys = pa.compute.field("key").isin(change.keys)
    of_tars = pa.compute.field("tar").isin([*change.moved])
    files: list[TableFile] = []
    try:
        for index, file in enumerate(table.files):
            rows = index_files.read(archive, file)
            if rows.filter(of_keys | of_tars).num_rows:
                changed = pa.Table.from_pylist([change.row(row) for row in rows.to_pylist()], SCHEMA)
                file = tables.publish(archive, head.record + 1, index, changed)
                made.append(file.name)
            files.append(file)
    except DamagedError as error:
        report.say_instead(error)
        return _of_parts(archive, after, table, made)
    return replace(table, files=tuple(files))


def _of_parts(archive: Store, after: ArchiveHead, table: Table, made: list[str]) -> Table:
    afresh = replace(after, tables=())  # so that listing entries come from the new listings, not from a table
    parts = report.parts_of(archive, afresh, table)
    written = tables.write(archive, afresh, table.first_run, table.last_run, [*parts])
    made += [file.name for file in tables.every_file([written])]
    return written
