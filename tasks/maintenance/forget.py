"""Pictures erased for good, as a law may ask: their bytes leave the archive and a tombstone row stays for each.

An erasure is begun by one record, which has the whole plan and is created only if the head that the plan was computed
from still holds. From then on it goes through, whoever is killed: tasks.archive.erasing. The keys are never listed
again. Mirrors, and older versions that a store itself keeps, are their owner's to erase.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import pyarrow as pa
import pyarrow.compute

from codec.errors import ArchiveError
from tasks.archive import erasing, index_files, layout, log, redaction, report
from tasks.archive.log import ArchiveHead, Erasure
from tasks.storage import parquet
from tasks.storage.store import Store

_KEYS = """
    SELECT DISTINCT key FROM rows
    WHERE (tar IS NOT NULL OR ($redact AND status = 'forgotten')) AND list_contains($keys, key)
"""
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
_PARTS = """
    SELECT DISTINCT run, shard FROM rows
    WHERE list_contains($keys, key) OR list_contains($tars, tar) OR ($redact AND list_contains($keys, duplicate_of))
    ORDER BY ALL
"""
_ROWS = "SELECT count(*) FROM rows WHERE list_contains($keys, key)"


def forget(
    archive: Store,
    keys: Sequence[str],
    *,
    companions: Literal["refuse", "too", "leave"] = "refuse",
    redact: bool = False,
) -> int:
    """Erase all versions of some keys; returns how many rows became tombstones, those of unfinished plans included.

    With `redact` the keys go too, from rows and listings: a pseudonym takes the place of each, also of those that were
    forgotten before. Companions are kept keys of the same group, or folder and stem (a live photo's film, a raw file,
    a sidecar). Raises ArchiveError, before anything is changed, while a run is open, for a key that the archive does
    not keep, for a picture whose very bytes are kept under another key too, which must be forgotten together, and for
    companions where it is not said what becomes of them.
    """
    erased = 0
    while True:
        erased += _unfinished(log.read(archive))
        head = erasing.finish(archive)
        wanted = _not_done(archive, keys, redact=redact)
        if not wanted:
            return erased
        if head.open_run is not None:
            raise ArchiveError(
                f"{archive}: run {head.open_run} is open; finish it with compress-archive, or close-run it, first"
            )
        if companions != "leave" and (others := _companions(archive, wanted)):
            if companions == "refuse":
                raise ArchiveError(
                    f"{archive}: {', '.join(map(repr, others))} belong to what is to be forgotten; say --group to "
                    "forget them too, or --only-this"
                )
            wanted = sorted({*wanted, *others})
        if on_hold := [key for key in wanted if key in head.holds]:
            raise ArchiveError(
                f"{archive}: {on_hold[0]!r} is on hold ({head.holds[on_hold[0]]}); release it before it is forgotten"
            )
        plan = _plan(archive, head, wanted, redact=redact)
        begun = replace(head, erasures=head.erasures + 1, erasure=plan)
        if log.append(archive, head, "forget", begun, keys=list(plan.keys)):
            erasing.finish(archive)
            return erased + plan.rows


def _not_done(archive: Store, keys: Sequence[str], *, redact: bool) -> list[str]:
    """The keys that are neither forgotten, nor redacted where that is asked for."""
    rows = report.lookup(archive, [*keys, *map(redaction.pseudonym, keys)])
    forgotten = set(rows.filter(pa.compute.field("status") == "forgotten").column("key").to_pylist())
    done = {key for key in keys if redaction.pseudonym(key) in forgotten}
    done |= {key for key in forgotten if redaction.is_pseudonym(key) or not redact}
    return sorted(set(keys) - done)


def _unfinished(head: ArchiveHead) -> int:
    """How many rows become tombstones when the erasure that a head has begun is carried out."""
    return head.erasure.rows if head.erasure is not None else 0


def _companions(archive: Store, keys: list[str]) -> list[str]:
    """Kept keys of the same group, or folder and stem, as some keys."""
    with parquet.database(rows=report.rows(archive)) as connection:
        return [key for (key,) in connection.execute(_COMPANIONS, {"keys": keys}).fetchall()]


def _plan(archive: Store, head: ArchiveHead, keys: list[str], *, redact: bool) -> Erasure:
    with parquet.database(rows=report.rows(archive)) as connection:
        known = {key for (key,) in connection.execute(_KEYS, {"keys": keys, "redact": redact}).fetchall()}
        if missing := sorted(set(keys) - known):
            raise ArchiveError(f"{archive}: keeps no picture under the key {missing[0]!r}; query the report for keys")
        if same := [key for (key,) in connection.execute(_SAME_BYTES, {"keys": keys}).fetchall()]:
            raise ArchiveError(
                f"{archive}: the same bytes are kept under {', '.join(map(repr, same))} too; forget those keys as well"
            )
        tars: dict[str, list[int]] = {}
        for tar, offset in connection.execute(_MEMBERS, {"keys": keys}).fetchall():
            tars.setdefault(tar, []).append(offset)
        asked = {"keys": keys, "tars": list(tars), "redact": redact}
        changed = {(run, shard) for run, shard in connection.execute(_PARTS, asked).fetchall()}
        rows = connection.execute(_ROWS, {"keys": keys}).fetchall()[0][0]
    parts = [
        part
        for run in sorted({run for run, _ in changed})
        for part in report.parts(archive, head, run)
        if (run, layout.shard_of(part.name)) in changed
    ]
    for part in parts:
        index_files.read(archive, part)  # what cannot be read is said before anything is begun
    for tar in tars:
        if not archive.sha256(tar).startswith(layout.hash_of(tar)):  # what it keeps of others would be copied damaged
            raise ArchiveError(f"{archive.uri(tar)}: damaged; {log.REMEDY} before you forget")
    offsets = {tar: tuple(found) for tar, found in tars.items()}
    plan = Erasure(head.record + 1, rows, tuple(keys), offsets, tuple(part.name for part in parts))
    if redact:
        pseudonyms = tuple(map(redaction.pseudonym, keys))
        return replace(plan, keys=pseudonyms, redacted=True, listings=redaction.runs_that_list(archive, head, keys))
    return plan
