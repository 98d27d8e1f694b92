"""Which stored files hold the wanted version of each wanted key, tar by tar, and the name that each picture gets.

Apart from what restores them: Prefect keeps the functions and arguments of tasks until the interpreter ends, and with
them the globals of their modules, where DuckDB's classes would be found left over and complained of.
"""

import dataclasses
import itertools
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import duckdb

from codec.containers.writing import EXTENSIONS
from codec.errors import ArchiveError
from tasks.archive import log, report, tables
from tasks.archive.log import ArchiveHead
from tasks.restore.stored_file import FILM, StoredFile
from tasks.storage import parquet
from tasks.storage.keys import restored
from tasks.storage.store import Store

BATCH = 10_000
LAST_RUN = 2**31 - 1
JPEGS = ("JPEG", "MPO")
OF_A_FILM = {"codec": "original", "source_format": FILM}

_CHOSEN = """
    CREATE TEMP TABLE chosen AS
    SELECT key, tar, "offset", length, sha256, codec, source_format, width, height, bundle_id, source_modified_at,
           film_offset, film_length, film_sha256
    FROM rows WHERE tar IS NOT NULL AND run <= $as_of AND ($keys IS NULL OR list_contains($keys, key))
    QUALIFY row_number() OVER (PARTITION BY key ORDER BY run DESC) = 1
"""
_MAY_SHARE_A_NAME = r"""
    SELECT key, codec, source_format, film_length FROM chosen
    QUALIFY count(*) OVER (PARTITION BY regexp_replace(nfc_normalize(lower(key)), '(\.(EXTENSION|mp4))+$', '')) > 1
            OR regexp_matches(key, '%|\x00|(^|/)\.{0,2}(/|$)')
"""
_FOLDERS = """
    CREATE TEMP TABLE folders AS
    SELECT DISTINCT nfc_normalize(lower(array_to_string(parts[:depth], '/'))) AS folder
    FROM (SELECT parts, unnest(range(1, len(parts))) AS depth FROM (SELECT string_split(key, '/') AS parts FROM chosen))
"""
_IN_THE_WAY = """
    SELECT key, codec, source_format, film_length FROM chosen
    WHERE EXISTS (SELECT 1 FROM folders WHERE folder IN (
        nfc_normalize(lower(key)), nfc_normalize(lower(key)) || '.EXTENSION', nfc_normalize(lower(key)) || '.mp4'))
"""
"""A key may be the folder of another key: a bucket has no folders."""
_NOT_LISTED = """
    DELETE FROM chosen WHERE key IN (
        SELECT key FROM listings GROUP BY key HAVING arg_max(state, run) IN ('gone', 'unjudged'))
"""
_ALL = "SELECT key, codec, source_format, film_length FROM chosen"
_BY_TAR = 'SELECT * FROM chosen ORDER BY bundle_id, tar, "offset", key'


def find(archive: Store, keys: Sequence[str], as_of: int | None = None) -> list[StoredFile]:
    """The members that hold the last kept version of some keys, those that are none left out, and their targets."""
    with choose(archive, keys, as_of) as chosen:
        return [member for members in by_tar(chosen) for member in members]


@contextmanager
def choose(
    archive: Store,
    keys: Sequence[str] | None,
    as_of: int | None,
    damaged: list[str] | None = None,
    *,
    as_listed: bool = False,
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database with the table `chosen`: where the wanted version of each wanted key lies.

    Damaged parts of the report are named in `damaged`, where it is given, and their rows left out. With `as_listed`,
    keys that were gone from the source when run `as_of` listed it are left out too.
    """
    head = log.read(archive) if as_of is not None else ArchiveHead()
    if as_of is not None and not 1 <= as_of <= head.runs:
        raise ArchiveError(f"{archive}: holds no run {as_of}; status names its runs")
    rows = report.rows(archive, damaged=damaged) if keys is None else report.lookup(archive, keys, damaged=damaged)
    parameters = {"as_of": LAST_RUN if as_of is None else as_of, "keys": keys if keys is None else list(keys)}
    with parquet.database(rows=rows) as connection:
        connection.execute(_CHOSEN, parameters)
        if as_listed:
            connection.register("listings", tables.listed(archive, dataclasses.replace(head, tables=()), 1, as_of))
            connection.execute(_NOT_LISTED)
        yield connection


def refuse_missing(archive: Store, chosen: duckdb.DuckDBPyConnection, keys: Sequence[str] | None) -> None:
    """Raise ArchiveError if a key was asked for that no chosen row has."""
    if keys is None:
        return
    found = {key for (key,) in chosen.execute("SELECT key FROM chosen").fetchall()}
    if missing := sorted(set(keys) - found):
        more = f", nor under {len(missing) - 1} others given" if len(missing) > 1 else ""
        raise ArchiveError(f"{archive}: holds no picture under the key {missing[0]!r}{more}; query the report for keys")


def by_tar(
    chosen: duckdb.DuckDBPyConnection, extension: str = "png", *, groups: bool = False
) -> Iterator[tuple[StoredFile, ...]]:
    """The members that were chosen, one tar after another, each with a name of its own.

    `extension` is that of decoded pictures. With `groups` it takes the place of the source's own, so that pictures and
    their companions keep one stem. Names that differ by case or Unicode form alone are told apart.
    """
    chosen.execute(_FOLDERS)
    in_the_way = _IN_THE_WAY.replace("EXTENSION", extension)
    some = f"{_MAY_SHARE_A_NAME.replace('EXTENSION', extension)} UNION {in_the_way}"
    alike = chosen.sql(_ALL if groups else some).to_arrow_table().to_pylist()
    folders = {folder for (folder,) in chosen.execute("SELECT folder FROM folders").fetchall()} if alike else set()
    targets = _targets(alike, extension, folders, groups=groups)
    rows = (row for batch in chosen.sql(_BY_TAR).to_arrow_reader(BATCH) for row in batch.to_pylist())
    for _, group in itertools.groupby(rows, key=lambda row: (row["bundle_id"], row["tar"])):
        yield tuple(member for row in group for member in _members(row, targets, extension))


def _members(row: dict[str, Any], targets: dict[tuple[str, bool], str], extension: str) -> Iterator[StoredFile]:
    """The picture of a row, and its film where that becomes a file of its own."""
    picture = StoredFile(target=targets.get((row["key"], False)) or _target(row, extension), **row)
    yield picture
    if picture.film is not None and not rejoined(extension, picture.source_format):
        target = targets.get((row["key"], True)) or _target(row | OF_A_FILM, extension)
        yield dataclasses.replace(picture.film, target=target)


def rejoined(extension: str, source_format: str | None) -> bool:
    """Whether a film goes behind its picture again: a JPEG that comes back as a JPEG."""
    return extension == EXTENSIONS["jpeg"] and source_format in JPEGS


def _target(row: dict[str, Any], extension: str, *, groups: bool = False) -> str:
    if row["source_format"] == FILM:
        extension = "mp4"
    elif _as_it_was(row["codec"], row["source_format"]):
        return restored(row["key"], None)
    name = restored(row["key"], extension)
    stem, dot, _ = restored(row["key"], None).rpartition(".")
    return f"{stem}.{extension}" if groups and dot and stem.rpartition("/")[2] else name


def _as_it_was(codec: str, source_format: str | None) -> bool:
    """Whether the source's own bytes come back: kept as they were, or what a lossless transcode of a JPEG gives."""
    return codec == "original" or (codec == "jxl" and source_format in JPEGS)


def _targets(
    rows: list[dict[str, Any]], extension: str, folders: Collection[str], *, groups: bool
) -> dict[tuple[str, bool], str]:
    """A name of its own for each key, and for its film: `a.jpg` becomes `a.jpg.png`, and makes way for such a key.

    `folders` are names that keys below them need, so no file can have them.
    Names are compared as the least careful file system does: without case and in one Unicode form.
    """
    names: dict[tuple[str, bool], str] = {}
    taken: set[str] = set(folders)
    films = [row | OF_A_FILM for row in rows if row["film_length"] and not rejoined(extension, row["source_format"])]
    originals_first = sorted(
        rows + films,
        key=lambda row: (
            row["source_format"] == FILM,
            not _as_it_was(row["codec"], row["source_format"]),
            row["key"],
        ),
    )
    for row in originals_first:
        name = _target(row, extension, groups=groups)
        while _folded(name) in taken:
            name = _another(name)
        taken.add(_folded(name))
        names[row["key"], row["source_format"] == FILM] = name
    return names


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _another(name: str) -> str:
    """The next name to try: the extension once more, or a number before it."""
    stem, dot, extension = name.rpartition(".")
    return f"{name}.{extension}" if dot and not stem.endswith(f".{extension}") else f"{stem} (2){dot}{extension}"
