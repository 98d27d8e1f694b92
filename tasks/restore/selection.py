"""Selects the stored file with the wanted version of each key, by tar, and assigns a file name to each picture.

Separate from restore.py: Prefect keeps task functions and arguments, and so the globals of their modules, until the
interpreter exits. DuckDB's classes in such globals would cause warnings at exit.
"""

import dataclasses
import itertools
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from operator import itemgetter
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
"""Rows in memory at once."""
LAST_RUN = 2**31 - 1
"""Later than any run: the column has 32 bits."""
JPEGS = ("JPEG", "MPO")
"""Source formats whose lossless transcode gives the same bytes back."""
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
"""Keys that are also the folder of another key, which is possible in a bucket."""
_NOT_LISTED = """
    DELETE FROM chosen WHERE key IN (
        SELECT key FROM listings GROUP BY key HAVING arg_max(state, run) IN ('gone', 'unjudged'))
"""
_ALL = "SELECT key, codec, source_format, film_length FROM chosen"
_BY_TAR = 'SELECT * FROM chosen ORDER BY bundle_id, tar, "offset", key'


def find(archive: Store, keys: Sequence[str], as_of: int | None = None) -> list[StoredFile]:
    """Returns the members with the last kept version of some keys, and their targets; skips unknown keys."""
    found: list[StoredFile] = []
    with choose(archive, keys, as_of) as chosen:
        for members in by_tar(chosen):
            found += members
    return found


@contextmanager
def choose(
    archive: Store,
    keys: Sequence[str] | None,
    as_of: int | None,
    damaged: list[str] | None = None,
    *,
    as_listed: bool = False,
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yields a database with the table `chosen`: the location of the wanted version of each wanted key.

    If `damaged` is given, damaged parts of the report are appended to it, and their rows are omitted. With `as_listed`,
    keys that were gone from the source when run `as_of` listed it are also omitted.
    """
    head = ArchiveHead()
    if as_of is not None:
        head = log.read(archive)
        if not 1 <= as_of <= head.runs:
            raise ArchiveError(f"{archive}: holds no run {as_of}; `status` lists its runs")
    if keys is None:
        rows = report.rows(archive, damaged=damaged)
    else:
        rows = report.lookup(archive, keys, damaged=damaged)
    parameters = {
        "as_of": LAST_RUN if as_of is None else as_of,
        "keys": None if keys is None else list(keys),
    }
    with parquet.database(rows=rows) as connection:
        connection.execute(_CHOSEN, parameters)
        if as_listed:
            # from the frozen listings, not from the index of them that tables keep for planning
            without_tables = dataclasses.replace(head, tables=())
            connection.register("listings", tables.listed(archive, without_tables, 1, as_of))
            connection.execute(_NOT_LISTED)
        yield connection


def refuse_missing(archive: Store, chosen: duckdb.DuckDBPyConnection, keys: Sequence[str] | None) -> None:
    """Raises ArchiveError if a requested key has no chosen row."""
    if keys is None:
        return
    found = {key for (key,) in chosen.execute("SELECT key FROM chosen").fetchall()}
    missing = sorted(set(keys) - found)
    if missing:
        more = f", nor under {len(missing) - 1} others given" if len(missing) > 1 else ""
        raise ArchiveError(f"{archive}: holds no picture under the key {missing[0]!r}{more}; query the report for keys")


def by_tar(
    chosen: duckdb.DuckDBPyConnection, extension: str = "png", *, groups: bool = False
) -> Iterator[tuple[StoredFile, ...]]:
    """Yields the chosen members, tar by tar, each with a unique name.

    `extension` is that of decoded pictures. With `groups`, it replaces the source's extension, so that pictures and
    their companions keep a common stem. Names that differ only in case or Unicode form are made distinct.
    """
    targets = _targets_of_conflicts(chosen, extension, groups=groups)
    for _, group in itertools.groupby(_rows(chosen), key=itemgetter("bundle_id", "tar")):
        members: list[StoredFile] = []
        for row in group:
            members += _members(row, targets, extension)
        yield tuple(members)


def _targets_of_conflicts(
    chosen: duckdb.DuckDBPyConnection, extension: str, *, groups: bool
) -> dict[tuple[str, bool], str]:
    """Assigns targets to keys whose names may conflict: a few of many, so that memory stays bounded."""
    chosen.execute(_FOLDERS)
    query = _ALL  # with groups, any two keys of one stem conflict
    if not groups:
        query = f"{_MAY_SHARE_A_NAME} UNION {_IN_THE_WAY}".replace("EXTENSION", extension)
    conflicts = chosen.sql(query).to_arrow_table().to_pylist()
    if not conflicts:
        return {}
    folders = {folder for (folder,) in chosen.execute("SELECT folder FROM folders").fetchall()}
    return _targets(conflicts, extension, folders, groups=groups)


def _rows(chosen: duckdb.DuckDBPyConnection) -> Iterator[dict[str, Any]]:
    """Yields the chosen rows in the order of tars, a batch of them in memory."""
    for batch in chosen.sql(_BY_TAR).to_arrow_reader(BATCH):
        yield from batch.to_pylist()


def _members(row: dict[str, Any], targets: dict[tuple[str, bool], str], extension: str) -> Iterator[StoredFile]:
    """Yields the picture of a row, and its video if that becomes a separate file."""
    picture = StoredFile(target=targets.get((row["key"], False)) or _target(row, extension), **row)
    yield picture
    if picture.film is not None and not rejoined(extension, picture.source_format):
        target = targets.get((row["key"], True)) or _target(row | OF_A_FILM, extension)
        yield dataclasses.replace(picture.film, target=target)


def rejoined(extension: str, source_format: str | None) -> bool:
    """Whether a video is appended to its picture again: for a JPEG restored as JPEG."""
    return extension == EXTENSIONS["jpeg"] and source_format in JPEGS


def _target(row: dict[str, Any], extension: str, *, groups: bool = False) -> str:
    """The name of a picture or video if no other key is in its way."""
    if row["source_format"] == FILM:
        extension = "mp4"
    elif _as_it_was(row["codec"], row["source_format"]):
        return restored(row["key"], None)
    stem, dot, _ = restored(row["key"], None).rpartition(".")
    has_extension = dot and stem.rpartition("/")[2]  # .hidden has none
    if groups and has_extension:
        return f"{stem}.{extension}"
    return restored(row["key"], extension)


def _as_it_was(codec: str, source_format: str | None) -> bool:
    """Whether the source's own bytes are restored: kept as they were, or from a lossless transcode of a JPEG."""
    return codec == "original" or (codec == "jxl" and source_format in JPEGS)


def _targets(
    rows: list[dict[str, Any]], extension: str, folders: Collection[str], *, groups: bool
) -> dict[tuple[str, bool], str]:
    """Assigns a unique name to each key and to its video: `a.jpg` becomes `a.jpg.png`, unless that is a key too.

    `folders` are names of folders, which no file can have. Names are compared without case and in one Unicode form, for
    file systems that ignore these differences.
    """
    names: dict[tuple[str, bool], str] = {}
    taken: set[str] = set(folders)
    films = []
    for row in rows:
        if row["film_length"] and not rejoined(extension, row["source_format"]):
            films.append(row | OF_A_FILM)

    def precedence(row: dict[str, Any]) -> tuple[bool, bool, str]:
        # whoever comes first keeps the plain name: originals before decoded pictures, videos last
        is_original = _as_it_was(row["codec"], row["source_format"])
        return row["source_format"] == FILM, not is_original, row["key"]

    for row in sorted(rows + films, key=precedence):
        name = _target(row, extension, groups=groups)
        while _folded(name) in taken:
            name = _another(name)
        taken.add(_folded(name))
        names[row["key"], row["source_format"] == FILM] = name
    return names


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _another(name: str) -> str:
    """Returns the next candidate name: with the extension repeated, or a number before it."""
    stem, dot, extension = name.rpartition(".")
    if dot and not stem.endswith(f".{extension}"):
        return f"{name}.{extension}"
    return f"{stem} (2){dot}{extension}"
