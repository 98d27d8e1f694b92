"""Redacts keys that are themselves sensitive: a pseudonym replaces them in rows, listings and the log.

A pseudonym contains the key's SHA-256, so that the key is recognized if a source still lists it. It hides the name from
readers of the archive, but anyone who guesses the name can confirm the guess.
"""

import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet

from tasks.archive import index_files, layout, log, manifest
from tasks.archive.index_files import IndexFile, fetch
from tasks.archive.listing_schema import Entry
from tasks.archive.log import ArchiveHead
from tasks.archive.manifest import Manifest
from tasks.archive.schema import Row
from tasks.storage.store import Store

PREFIX = "redacted/"
_SALT = "key of fdcodec/"
PSEUDONYM = f"'{PREFIX}' || sha256('{_SALT}' || key)"
"""The function `pseudonym` in SQL, for the column `key`."""


def pseudonym(key: str) -> str:
    """Returns the pseudonym of a key."""
    return PREFIX + hashlib.sha256((_SALT + key).encode()).hexdigest()


def is_pseudonym(key: str) -> bool:
    """Whether a key has the form of a pseudonym; a real key may have it too."""
    return re.fullmatch(f"{PREFIX}[0-9a-f]{{64}}", key) is not None


def of_row(row: Row, is_redacted: Callable[[str], bool]) -> Row:
    """Returns a row of the report without redacted keys."""
    row = row.copy()
    duplicate_of = row.get("duplicate_of")
    if duplicate_of is not None and is_redacted(duplicate_of):
        row["duplicate_of"] = pseudonym(duplicate_of)
    if is_redacted(row["key"]):
        row["key"] = row["source_uri"] = pseudonym(row["key"])
    return row


def of_entry(entry: Entry, is_redacted: Callable[[str], bool]) -> Entry:
    """Returns a row of a listing without redacted keys and without the hashes of their sources."""
    entry = entry.copy()
    duplicate_of = entry.get("duplicate_of")
    if duplicate_of is not None and is_redacted(duplicate_of):
        entry["duplicate_of"] = pseudonym(duplicate_of)
    if is_redacted(entry["key"]):
        entry["key"] = entry["uri"] = pseudonym(entry["key"])
        # Hashes identify the picture to anyone who has a copy; the group is the stem of its name.
        entry["held_sha256"] = entry["sha256"] = entry["duplicate_of"] = entry["group"] = None
    return entry


def runs_that_list(archive: Store, head: ArchiveHead, keys: Collection[str]) -> tuple[int, ...]:
    """Returns the sealed runs whose listing names any of the keys. Reads every listing in batches of rows."""
    wanted = pa.array(sorted(keys), pa.string())
    found = []
    for run in head.sealed:
        with tempfile.TemporaryDirectory() as scratch:
            plan = log.plan(archive, head, run)
            path = fetch(archive, IndexFile(plan.listing, plan.listing_sha256), Path(scratch))
            with pa.parquet.ParquetFile(path) as listing:
                if _names_any(listing, wanted):
                    found.append(run)
    return tuple(found)


def _names_any(listing: pa.parquet.ParquetFile, wanted: pa.Array) -> bool:
    for batch in listing.iter_batches(columns=["key", "duplicate_of"]):
        for column in batch.columns:
            if pa.compute.is_in(column, wanted).true_count:
                return True
    return False


def write_listing(archive: Store, plan: Manifest, is_redacted: Callable[[str], bool], target: Path) -> None:
    """Writes the listing of a run without redacted keys to a local file; keeps the order of rows."""
    with tempfile.TemporaryDirectory() as scratch:
        path = fetch(archive, IndexFile(plan.listing, plan.listing_sha256), Path(scratch))
        with pa.parquet.ParquetFile(path) as listing:
            schema = listing.schema_arrow
            with pa.parquet.ParquetWriter(target, schema, compression="zstd", write_page_checksum=True) as writer:
                for batch in listing.iter_batches():
                    rows = [of_entry(row, is_redacted) for row in batch.to_pylist()]
                    writer.write_table(pa.Table.from_pylist(rows, schema))


def redact_history(archive: Store) -> None:
    """Redacts older records of the log and findings of audits; removes listings of plans that never came into force.

    An older record may be replaced: no command uses its content, only its name must stay taken. Redacts all keys ever
    redacted, and repeats if another erasure began meanwhile; otherwise a late write could restore keys of another one.
    """
    while True:
        last = log.number(archive)
        records: dict[str, bytes] = {}
        for number in range(1, last + 1):
            name = layout.record(number)
            if archive.exists(name):  # all but the last are history, so an archive may lack one
                records[name] = archive.read(name)
        documents = {name: manifest.from_json(data, name) for name, data in records.items()}
        redacted = _ever_redacted(documents.values())
        del documents[layout.record(last)]  # the head, which is in force and has pseudonyms already
        for name, document in documents.items():
            after = manifest.to_json(_without(document, redacted))
            if after != records[name]:
                archive.replace(name, after)
        _remove_plans(archive, log.read(archive), redacted)
        for name in archive.children(layout.AUDITS):
            _redact_findings(archive, f"{layout.AUDITS}/{name}", redacted)
        if log.number(archive) == last:
            return


def _ever_redacted(records: Iterable[Mapping[str, Any]]) -> set[str]:
    """Returns the pseudonyms of all keys that an erasure among these records redacts."""
    redacted: set[str] = set()
    for record in records:
        erasure = record["head"]["erasure"]
        if erasure is not None and erasure.get("redacted"):
            redacted.update(erasure["keys"])
    return redacted


def _without(value: Any, redacted: Collection[str]) -> Any:
    """Returns a JSON value with each string that equals a redacted key replaced by its pseudonym."""
    # Only pseudonyms are on record, so each string is tried.
    if isinstance(value, str):
        return pseudonym(value) if pseudonym(value) in redacted else value
    if isinstance(value, list):
        return [_without(each, redacted) for each in value]
    if isinstance(value, dict):
        return {_without(name, redacted): _without(each, redacted) for name, each in value.items()}
    return value


def _remove_plans(archive: Store, head: ArchiveHead, redacted: Collection[str]) -> None:
    """Removes listings with redacted keys that never came into force, and cannot since the erasure began."""
    in_force = {log.plan(archive, head, run).listing for run in range(1, head.runs + 1)}
    for item in list(archive.list(f"{layout.RUNS}/")):  # at once: the loop removes some of them
        if not layout.is_listing(item.name) or item.name in in_force:
            continue
        with archive.open(item.name) as file:
            keys = pa.parquet.read_table(file, columns=["key"]).column("key").to_pylist()
        if any(pseudonym(key) in redacted for key in keys):
            archive.remove(item.name)


def _redact_findings(archive: Store, name: str, redacted: Collection[str]) -> None:
    with archive.open(name) as file:
        table = pa.parquet.read_table(file)
    rows = table.to_pylist()
    keys = set()
    for row in rows:
        if row["key"] is not None and pseudonym(row["key"]) in redacted:
            keys.add(row["key"])
    for row in rows:
        for key in keys:
            if row["key"] == key:
                row["key"] = pseudonym(key)
            if row["detail"]:  # a finding on another object may name the key in its text
                row["detail"] = row["detail"].replace(key, pseudonym(key))
    if keys:
        archive.replace(name, index_files.written(pa.Table.from_pylist(rows, table.schema)))


def still_named(archive: Store, keys: Iterable[str]) -> list[str]:
    """Returns the records of the log and the findings of audits that contain any of the keys."""
    as_json = [json.dumps(key).encode() for key in keys]
    names = [item.name for item in archive.list()]
    found = []
    for name in names:
        if name.startswith(f"{layout.LOG}/") and any(key in archive.read(name) for key in as_json):
            found.append(name)
    for name in names:
        if name.startswith(f"{layout.AUDITS}/"):
            with archive.open(name) as file:
                rows = pa.parquet.read_table(file, columns=["key", "detail"]).to_pylist()
            findings = json.dumps(rows).encode()
            # In a record a key is a string of its own; in a finding's text it stands without quotes.
            if any(key[1:-1] in findings for key in as_json):
                found.append(name)
    return found
