"""Pictures erased for good, as a law may ask: their bytes leave the archive and a tombstone row stays for each.

The keys are published first, forget/<number>.json, and then the plan, forget/<number>-plan.json: the members to cut out
of each tar, and every part with a row of those keys or of those tars. It is computed when no run can begin any more, so
no picture that a run committed meanwhile is overlooked. From then on the erasure goes through, whoever is killed:
`forget` called again finishes what was begun before it does anything else. Each step says the same when it is repeated:

1. A tar is copied without the members, its other bytes as they were, and published under its new content hash.
2. Parts are replaced: rows of the keys become tombstones, rows of the tars point at the new ones. A tombstone keeps
   key, version, source_uri, source_bytes, run, shard and created_at; no hash and nothing measured.
3. Seals are replaced, with the sizes and hashes of the new parts.
4. Tables are compacted afresh from the parts, where there are any, and older generations removed.
5. The old tars are removed, and forget/<number>-done.json closes the plan.

Every row is in exactly one part before and after each step. A reader that looked a row up before step 2 and reads
after step 5 finds its tar gone, and finds the new one by looking again. No shard is committed meanwhile: a plan is made
only when, after its keys were published, no run is open, and a run goes on only when, after its manifest was published,
no erasure is unfinished. The keys are never listed again, and a run that was planned before writes tombstones for them.
A compaction beside it makes tables that name the erasure before this one, and so are not read. What stays: the frozen
listings, which hold keys, sizes and, of sources of one size, hashes. Mirrors, and older versions that a store itself
keeps, are their owner's to erase.
"""

import dataclasses
import hashlib
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet

from codec.errors import ArchiveError
from tasks.archive import compacted, erasures, layout, manifest, report, schema
from tasks.maintenance import compaction
from tasks.storage import parquet
from tasks.storage.store import Store, sha256_of

Made = TypeVar("Made")
_KEPT = ("key", "version", "source_uri", "source_bytes", "run", "shard", "created_at")
_KEYS = "SELECT DISTINCT key FROM rows WHERE tar IS NOT NULL AND list_contains($keys, key)"
_SAME_BYTES = """
    SELECT DISTINCT key FROM rows WHERE tar IS NOT NULL AND NOT list_contains($keys, key) AND source_sha256 IN
        (SELECT source_sha256 FROM rows WHERE tar IS NOT NULL AND list_contains($keys, key))
    ORDER BY key
"""
_COMPANIONS = r"""
    WITH stems AS (
        SELECT DISTINCT key, regexp_replace(key, '(\.[^./]+)+$', '') AS stem, "group" FROM rows WHERE tar IS NOT NULL
    ), named AS (FROM stems WHERE list_contains($keys, key))
    SELECT DISTINCT key FROM stems WHERE NOT list_contains($keys, key)
        AND ((NOT regexp_matches(stem, '(^|/)$') AND stem IN (SELECT stem FROM named))
             OR "group" IN (SELECT "group" FROM named)) ORDER BY key
"""
_MEMBERS = """
    SELECT DISTINCT tar, unnest([x FOR x IN ["offset", film_offset] IF x IS NOT NULL]) AS first FROM rows
    WHERE tar IS NOT NULL AND list_contains($keys, key) ORDER BY ALL
"""
_PARTS = (
    "SELECT DISTINCT run, shard FROM rows WHERE list_contains($keys, key) OR list_contains($tars, tar) ORDER BY ALL"
)


@dataclass(frozen=True)
class Plan:
    """What is to be erased: `tars` maps each tar to the offsets of the members to cut out of it."""

    keys: list[str]
    tars: dict[str, list[int]]
    parts: list[str]


@dataclass
class _Moved:
    """What became of a tar: its new name, empty if nothing is left, and the new offset of each member by the old."""

    tar: str
    offsets: dict[int, int] = field(default_factory=dict)


def forget(archive: Store, keys: Sequence[str], *, companions: Literal["refuse", "too", "leave"] = "refuse") -> int:
    """Erase all versions of some keys; returns how many rows became tombstones, those of unfinished plans included.

    Companions are kept keys of the same group, or folder and stem (a live photo's film, a raw file, a sidecar). Raises
    ArchiveError, before anything is changed, while a run is open, for a key that the archive does not keep, for a
    picture whose very bytes are kept under another key too, which must be forgotten together, and for companions
    where it is not said what becomes of them.
    """
    erased = sum(_carry_out(archive, number) for number in erasures.unfinished(archive))
    done = report.lookup(archive, keys).filter(pa.compute.field("status") == "forgotten")
    keys = sorted(set(keys) - set(done.column("key").to_pylist()))
    if not keys:
        return erased
    _refuse_open_run(archive)
    if companions != "leave" and (others := _companions(archive, keys)):
        if companions == "refuse":
            raise ArchiveError(
                f"{archive}: {', '.join(map(repr, others))} belong to what is to be forgotten; say --group to forget "
                "them too, or --only-this"
            )
        keys = sorted({*keys, *others})
    number = max(erasures.numbers(archive), default=0) + 1
    _plan(archive, keys)  # says what is wrong with them before anything is published
    document = {"format": manifest.FORMAT, "keys": keys, "companions": companions}
    if not archive.publish(layout.forgetting(number), manifest.to_json(document)):
        raise ArchiveError(f"{archive}: another erasure has just begun; run again when it is done")
    return erased + _carry_out(archive, number)


def _companions(archive: Store, keys: list[str]) -> list[str]:
    """Kept keys of the same group, or folder and stem, as some keys."""
    with parquet.database(rows=report.rows(archive)) as connection:
        return [key for (key,) in connection.execute(_COMPANIONS, {"keys": keys}).fetchall()]


def _refuse_open_run(archive: Store) -> None:
    for run in report.runs(archive):
        if not report.sealed(archive, run):
            raise ArchiveError(f"{archive}: run {run} is open; finish it with compress-archive, or close-run it, first")


def _plan(archive: Store, keys: list[str]) -> Plan:
    with parquet.database(rows=report.rows(archive)) as connection:
        kept = {key for (key,) in connection.execute(_KEYS, {"keys": keys}).fetchall()}
        if missing := sorted(set(keys) - kept):
            raise ArchiveError(f"{archive}: keeps no picture under the key {missing[0]!r}; query the report for keys")
        if same := [key for (key,) in connection.execute(_SAME_BYTES, {"keys": keys}).fetchall()]:
            raise ArchiveError(
                f"{archive}: the same bytes are kept under {', '.join(map(repr, same))} too; forget those keys as well"
            )
        tars: dict[str, list[int]] = {}
        for tar, offset in connection.execute(_MEMBERS, {"keys": keys}).fetchall():
            tars.setdefault(tar, []).append(offset)
        parts = connection.execute(_PARTS, {"keys": keys, "tars": list(tars)}).fetchall()
    return Plan(keys, tars, [layout.part(run, shard) for run, shard in parts])


def _carry_out(archive: Store, number: int) -> int:
    plan = _planned(archive, number)
    moved = {tar: _without(archive, tar, offsets) for tar, offsets in plan.tars.items() if archive.exists(tar)}
    for part in plan.parts:
        _rewrite_part(archive, part, set(plan.keys), moved)
    for run in sorted({layout.run_of(part) for part in plan.parts}):
        _rewrite_seal(archive, run, plan.parts)
    if compacted.named(archive).generation:
        compaction.compact(archive, afresh=True)
    for tar in plan.tars:
        archive.remove(tar)
    archive.publish(layout.forgotten(number), manifest.to_json({"format": manifest.FORMAT}))
    return _tombstones(archive, plan)


def _planned(archive: Store, number: int) -> Plan:
    """The plan of an erasure, made now unless that is done; the erasure is taken back where it cannot be made."""
    name, planned = layout.forgetting(number), layout.forget_plan(number)
    document = manifest.from_json(archive.read(name), archive.uri(name))
    if "tars" in document:  # format 1 has all in one
        plan = Plan(document["keys"], document["tars"], document["parts"])
        if not _tombstones(archive, plan):
            _or_take_back(archive, name, lambda: _refuse_open_run(archive))
        return plan
    if not archive.exists(planned):

        def plan_now() -> Plan:
            _refuse_open_run(archive)
            if document["companions"] == "refuse" and (others := _companions(archive, document["keys"])):
                raise ArchiveError(f"{archive}: {others[0]!r} came meanwhile and belongs to them; forget again")
            return _plan(archive, document["keys"])

        made = {"format": manifest.FORMAT, **dataclasses.asdict(_or_take_back(archive, name, plan_now))}
        archive.publish(planned, manifest.to_json(made))
    document = manifest.from_json(archive.read(planned), archive.uri(planned))
    return Plan(document["keys"], document["tars"], document["parts"])


def _or_take_back(archive: Store, name: str, step: Callable[[], Made]) -> Made:
    try:
        return step()
    except ArchiveError:
        archive.remove(name)
        raise


def _tombstones(archive: Store, plan: Plan) -> int:
    parts = parquet.dataset(archive, plan.parts, schema.SCHEMA)
    field = pa.compute.field
    return int(parts.count_rows(filter=field("key").isin(plan.keys) & (field("status") == "forgotten")))


def _without(archive: Store, tar: str, cut: list[int]) -> _Moved:
    """Publish a tar without the members at some offsets."""
    moved = _Moved("")
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "shard.tar"
        with archive.open(tar) as old, path.open("wb") as new:
            end = 0
            with tarfile.open(fileobj=old, mode="r:") as members:
                for member in members:
                    end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                    if member.offset_data not in cut:
                        moved.offsets[member.offset_data] = new.tell() + member.offset_data - member.offset
                        _copy(old, new, member.offset, end)
            if not moved.offsets:
                return moved
            size = old.seek(0, 2)
            _copy(old, new, end, size)
        shard = int(tar.rpartition("/")[2][:6])
        moved.tar = layout.tar(layout.run_of(tar), shard, sha256_of(path))
        if not archive.publish(moved.tar, path):
            raise ArchiveError(f"{archive.uri(moved.tar)}: not what it is named for; remove it and forget again")
    return moved


def _copy(old: Any, new: Any, start: int, stop: int) -> None:
    old.seek(start)
    while start < stop:
        piece = old.read(min(1 << 20, stop - start))
        new.write(piece)
        start += len(piece)


def _rewrite_part(archive: Store, name: str, keys: set[str], moved: dict[str, _Moved]) -> None:
    part = pa.parquet.read_table(pa.BufferReader(archive.read(name)))
    about = {key.decode(): value.decode() for key, value in part.schema.metadata.items()}
    if about["tar"] in moved:
        about["tar"] = moved[about["tar"]].tar
    rows = [_rewritten(row, keys, moved) for row in part.to_pylist()]
    content = pa.BufferOutputStream()
    pa.parquet.write_table(schema.table(rows, about), content, compression="zstd")
    archive.replace(name, content.getvalue().to_pybytes())


def _rewritten(row: dict[str, Any], keys: set[str], moved: dict[str, _Moved]) -> dict[str, Any]:
    if row["key"] in keys:
        return {name: row[name] for name in _KEPT} | {"status": "forgotten"}
    if row["tar"] in moved:
        move = moved[row["tar"]]
        film = {"film_offset": move.offsets[row["film_offset"]]} if row.get("film_offset") is not None else {}
        return row | {"tar": move.tar, "offset": move.offsets[row["offset"]]} | film
    return row


def _rewrite_seal(archive: Store, run: int, parts: list[str]) -> None:
    seal = manifest.seal(archive, run)
    for part in seal["parts"]:
        if part["name"] in parts:
            data = archive.read(part["name"])
            part |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    archive.replace(layout.seal(run), manifest.to_json(seal))
