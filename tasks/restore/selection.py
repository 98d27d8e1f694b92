"""Which stored files hold the wanted version of each wanted key, tar by tar, and the name that each picture gets.

Apart from what restores them: Prefect keeps the functions and arguments of tasks until the interpreter ends, and with
them the globals of their modules, where DuckDB's classes would be found left over and complained of.
"""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import duckdb

from codec.errors import ArchiveError
from tasks.archive import layout, report
from tasks.restore.stored_file import Member
from tasks.storage import parquet
from tasks.storage.keys import restored
from tasks.storage.store import Store

BATCH = 10_000
LAST_RUN = 2**31 - 1
JPEGS = ("JPEG", "MPO")

_CHOSEN = """
    CREATE TEMP TABLE chosen AS
    SELECT key, tar, "offset", length, sha256, codec, source_format, width, height, bundle_id
    FROM rows WHERE tar IS NOT NULL AND run <= $as_of AND ($keys IS NULL OR list_contains($keys, key))
    QUALIFY row_number() OVER (PARTITION BY key ORDER BY run DESC) = 1
"""
_MAY_SHARE_A_NAME = r"""
    SELECT key, codec, source_format FROM chosen
    QUALIFY count(*) OVER (PARTITION BY regexp_replace(lower(key), '(\.png)+$', '')) > 1
            OR regexp_matches(key, '%|\x00|(^|/)\.{0,2}(/|$)')
"""
_BY_TAR = 'SELECT * FROM chosen ORDER BY bundle_id, tar, "offset", key'


def find(archive: Store, keys: Sequence[str], as_of: int | None = None) -> list[Member]:
    """The members that hold the last kept version of some keys, those that are none left out, and their targets."""
    with choose(archive, keys, as_of) as chosen:
        return [member for members in by_tar(chosen) for member in members]


@contextmanager
def choose(archive: Store, keys: Sequence[str] | None, as_of: int | None) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database with the table `chosen`: where the wanted version of each wanted key lies."""
    if as_of is not None and not archive.exists(layout.manifest(as_of)):
        raise ArchiveError(f"{archive}: holds no run {as_of}; status names its runs")
    rows = report.rows(archive) if keys is None else report.lookup(archive, keys)
    parameters = {"as_of": LAST_RUN if as_of is None else as_of, "keys": keys if keys is None else list(keys)}
    with parquet.database(rows=rows) as connection:
        connection.execute(_CHOSEN, parameters)
        yield connection


def refuse_missing(archive: Store, chosen: duckdb.DuckDBPyConnection, keys: Sequence[str] | None) -> None:
    """Raise ArchiveError if a key was asked for that no chosen row has."""
    if keys is None:
        return
    found = {key for (key,) in chosen.execute("SELECT key FROM chosen").fetchall()}
    if missing := sorted(set(keys) - found):
        more = f", nor under {len(missing) - 1} others given" if len(missing) > 1 else ""
        raise ArchiveError(f"{archive}: holds no picture under the key {missing[0]!r}{more}; query the report for keys")


def by_tar(chosen: duckdb.DuckDBPyConnection) -> Iterator[tuple[Member, ...]]:
    """The members that were chosen, one tar after another, each with a name of its own."""
    targets = _targets(chosen.sql(_MAY_SHARE_A_NAME).to_arrow_table().to_pylist())
    rows = (row for batch in chosen.sql(_BY_TAR).to_arrow_reader(BATCH) for row in batch.to_pylist())
    for _, group in itertools.groupby(rows, key=lambda row: (row["bundle_id"], row["tar"])):
        yield tuple(Member(target=targets.get(row["key"]) or _target(row), **row) for row in group)


def _target(row: dict[str, Any]) -> str:
    return restored(row["key"], None if _as_it_was(row["codec"], row["source_format"]) else "png")


def _as_it_was(codec: str, source_format: str | None) -> bool:
    """Whether the source's own bytes come back: kept as they were, or what a lossless transcode of a JPEG gives."""
    return codec == "original" or (codec == "jxl" and source_format in JPEGS)


def _targets(rows: list[dict[str, Any]]) -> dict[str, str]:
    """A name of its own for each key: `a.jpg` becomes `a.jpg.png`, and makes way for a key of that very name."""
    taken: dict[str, str] = {}
    originals_first = sorted(rows, key=lambda row: (not _as_it_was(row["codec"], row["source_format"]), row["key"]))
    for row in originals_first:
        name = _target(row)
        while name in taken:
            name += ".png"
        taken[name] = row["key"]
    return {key: name for name, key in taken.items()}
