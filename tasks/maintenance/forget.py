"""Erases pictures permanently, for example to comply with the law: only a tombstone row remains for each.

One record begins an erasure. It contains the whole plan, and is created only if the head has not changed since the plan
was computed. From then on, any command finishes the erasure (tasks.archive.erasing). The keys are never archived again.
The owner must erase mirrors, and older versions in a versioned bucket.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import duckdb
import pyarrow as pa
import pyarrow.compute

from codec.errors import ArchiveError
from tasks.archive import erasing, index_files, layout, log, redaction, report
from tasks.archive.index_files import IndexFile
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
    """Erases all versions of some keys; returns the number of new tombstones, including those of unfinished erasures.

    With `redact`, a pseudonym also replaces each key in rows and listings, including keys that were forgotten before.
    Companions are kept keys of the same group, or of the same folder and stem (the video of a live photo, a raw file, a
    sidecar). Raises ArchiveError, before anything is changed, if a run is open, if the archive does not keep a key, if
    equal bytes are kept under another key (both must be forgotten together), and for companions with `refuse`.
    """
    erased = 0
    while True:
        # counted before it is finished: afterwards the head no longer has it
        erased += _unfinished(log.read(archive))
        head = erasing.finish(archive)
        wanted = _not_done(archive, keys, redact=redact)
        if not wanted:
            return erased
        if head.open_run is not None:
            raise ArchiveError(
                f"{archive}: run {head.open_run} is open; finish it with compress-archive or close-run first"
            )
        if companions != "leave":
            others = _companions(archive, wanted)
            if others and companions == "refuse":
                names = ", ".join(repr(key) for key in others)
                raise ArchiveError(
                    f"{archive}: {names} are companions of the keys to forget; set --group to "
                    "forget them too, or --only-this to keep them"
                )
            wanted = sorted({*wanted, *others})
        # after the companions, which may be on hold themselves
        on_hold = [key for key in wanted if key in head.holds]
        if on_hold:
            held = on_hold[0]
            raise ArchiveError(f"{archive}: {held!r} is on hold ({head.holds[held]}); release the hold first")
        plan = _plan(archive, head, wanted, redact=redact)
        begun = replace(head, erasures=head.erasures + 1, erasure=plan)
        # if another record came first, the plan may be outdated: it is made again from the new head
        if log.append(archive, head, "forget", begun, keys=list(plan.keys)):
            erasing.finish(archive)
            return erased + plan.rows


def _not_done(archive: Store, keys: Sequence[str], *, redact: bool) -> list[str]:
    """Returns the keys that are not yet forgotten or, with `redact`, not yet redacted."""
    pseudonyms = {key: redaction.pseudonym(key) for key in keys}
    rows = report.lookup(archive, [*keys, *pseudonyms.values()])
    tombstones = rows.filter(pa.compute.field("status") == "forgotten")
    forgotten = set(tombstones.column("key").to_pylist())
    open_keys = set()
    for key, pseudonym in pseudonyms.items():
        is_redacted = pseudonym in forgotten or (key in forgotten and redaction.is_pseudonym(key))
        is_forgotten = key in forgotten
        if not is_redacted and (redact or not is_forgotten):
            open_keys.add(key)
    return sorted(open_keys)


def _unfinished(head: ArchiveHead) -> int:
    """Returns the number of rows that the unfinished erasure of a head turns into tombstones."""
    if head.erasure is None:
        return 0
    return head.erasure.rows


def _companions(archive: Store, keys: list[str]) -> list[str]:
    """Returns kept keys of the same group, or folder and stem, as some keys."""
    with parquet.database(rows=report.rows(archive)) as connection:
        return _found(connection, _COMPANIONS, keys=keys)


def _found(connection: duckdb.DuckDBPyConnection, query: str, **parameters: object) -> list[str]:
    """Returns the keys that a query selects."""
    return [key for (key,) in connection.execute(query, parameters).fetchall()]


def _plan(archive: Store, head: ArchiveHead, keys: list[str], *, redact: bool) -> Erasure:
    with parquet.database(rows=report.rows(archive)) as connection:
        known = _found(connection, _KEYS, keys=keys, redact=redact)
        missing = sorted(set(keys) - set(known))
        if missing:
            raise ArchiveError(f"{archive}: has no picture under the key {missing[0]!r}; query the report for keys")
        # duplicates share one file, which the other key's rows would lose
        same = _found(connection, _SAME_BYTES, keys=keys)
        if same:
            names = ", ".join(repr(key) for key in same)
            raise ArchiveError(f"{archive}: the same bytes are also kept under {names}; forget those keys as well")
        tars: dict[str, list[int]] = {}
        for tar, offset in connection.execute(_MEMBERS, {"keys": keys}).fetchall():
            tars.setdefault(tar, []).append(offset)
        asked = {"keys": keys, "tars": list(tars), "redact": redact}
        shards: dict[int, set[int]] = {}  # of each run, those with rows to change
        for run, shard in connection.execute(_PARTS, asked).fetchall():
            shards.setdefault(run, set()).add(shard)
        [(rows,)] = connection.execute(_ROWS, {"keys": keys}).fetchall()
    parts: list[IndexFile] = []
    for run in sorted(shards):
        for part in report.parts(archive, head, run):
            if layout.shard_of(part.name) in shards[run]:
                parts.append(part)
    # unreadable objects are reported before anything is begun: an erasure that cannot go on blocks all other commands
    for part in parts:
        index_files.read(archive, part)
    for tar in tars:
        if not archive.sha256(tar).startswith(layout.hash_of(tar)):  # its other members would be copied damaged
            raise ArchiveError(f"{archive.uri(tar)}: damaged; {log.REMEDY} before you forget")
    offsets = {tar: tuple(found) for tar, found in tars.items()}
    plan = Erasure(head.record + 1, rows, tuple(keys), offsets, tuple(part.name for part in parts))
    if redact:
        # the record stays in the log, so it must not have the keys either
        pseudonyms = tuple(redaction.pseudonym(key) for key in keys)
        listings = redaction.runs_that_list(archive, head, keys)
        return replace(plan, keys=pseudonyms, redacted=True, listings=listings)
    return plan
