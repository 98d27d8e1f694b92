"""The pictures of an archive as they are now: the last kept version of each key, in a local DuckDB table.

The table is made again when the archive's log has a new record, so that a forgotten picture is not found any more, and
every minute while a run is open, whose parts appear without a record. Nothing is written to the archive.
"""

import threading
import time
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tasks.archive import log, redaction, report
from tasks.archive.log import ArchiveHead
from tasks.archive.schema import SCHEMA
from tasks.gateway.refusals import Refusal
from tasks.restore.stored_file import StoredFile
from tasks.storage import parquet
from tasks.storage.store import Store

PAGE = 48
"""Pictures on a page of the listing."""
MOST_PAGES = 1_000_000
REMEMBERED = 20_000
"""Keys whose rows are kept in memory."""
OPEN_RUN_SECONDS = 60.0
COLUMNS = tuple(field.name for field in SCHEMA if not pa.types.is_list(field.type))
"""Columns that a search may name."""
OPERATORS: dict[str, str] = {"contains": "contains", "is": "is", "at_least": "≥", "at_most": "≤"}
_OF_FILE = (
    *("key", "tar", "offset", "length", "sha256", "codec", "source_format", "width", "height", "bundle_id"),
    *("film_offset", "film_length", "film_sha256"),
)
# Sorted, so that a key is found in one group of rows by the bounds that DuckDB keeps.
_CURRENT = """
    CREATE TABLE current AS SELECT * EXCLUDE (carried, discarded_parts) FROM rows
    WHERE tar IS NOT NULL OR status = 'forgotten'
    QUALIFY row_number() OVER (PARTITION BY key ORDER BY run DESC, tar IS NULL) = 1 ORDER BY key
"""


@dataclass(frozen=True)
class CatalogEntry:
    """A key as it is now: its stored file, None if it was forgotten, and what a viewer needs of its row."""

    file: StoredFile | None
    media_type: str | None = None
    reason: str | None = None
    preview_bytes: int = 0

    @property
    def pixels(self) -> int | None:
        """Width times height; None for what is no picture."""
        if self.file is None or self.file.width is None or self.file.height is None:
            return None
        return self.file.width * self.file.height


@dataclass(frozen=True)
class Condition:
    """A condition on a column of the report."""

    column: str
    operator: str
    value: str


@dataclass(frozen=True)
class Search:
    """A search: text in keys, conditions, order, and the page from 1 on."""

    text: str = ""
    conditions: tuple[Condition, ...] = ()
    sort: str = "key"
    descending: bool = False
    page: int = 1


@dataclass(frozen=True)
class FoundPage:
    """A page of rows, and how many there are in all."""

    rows: list[dict[str, Any]]
    total: int


class Catalog:
    """The current rows of an archive, shared by threads."""

    def __init__(self, archive: Store) -> None:
        self._archive = archive
        self._lock = threading.RLock()
        self._stack = ExitStack()
        self._head = ArchiveHead()
        self._made = 0.0
        self._known: dict[str, CatalogEntry | None] = {}
        self.generation = 0
        """Increased whenever the table is made again."""
        self.refresh()

    def is_current(self) -> bool:
        """Whether the archive has not changed since the table was made. Raises ArchiveError."""
        changes_silently = self._head.open_run is not None or self._head.record == 0
        if changes_silently and time.monotonic() - self._made > OPEN_RUN_SECONDS:
            return False
        return log.number(self._archive) == self._head.record

    def refresh(self) -> None:
        """Makes the table again. Raises ArchiveError; the older table then stays."""
        head = log.read(self._archive)  # before the rows, so that a change in between is seen next time
        made = time.monotonic()
        with ExitStack() as stack:
            connection = stack.enter_context(parquet.database(rows=report.rows(self._archive)))
            connection.execute(_CURRENT)
            connection.unregister("rows")
            kept = stack.pop_all()
        with self._lock:
            self._stack.close()
            self._stack = kept
            self._connection = connection
            self._head = head
            self._made = made
            self._known.clear()
            self.generation += 1

    def find(self, key: str) -> CatalogEntry | None:
        """Returns the entry of a key; None if the archive never kept it."""
        with self._lock:
            if key not in self._known:
                while len(self._known) >= REMEMBERED:
                    del self._known[next(iter(self._known))]
                self._known[key] = self._found(key)
            return self._known[key]

    def _found(self, key: str) -> CatalogEntry | None:
        erasure = self._head.erasure
        if erasure is not None and (key in erasure.keys or redaction.pseudonym(key) in erasure.keys):
            return CatalogEntry(None)  # an erasure under way: its bytes may still be there
        columns = ", ".join(f'"{name}"' for name in _OF_FILE)
        sql = f"SELECT {columns}, media_type, reason, preview_bytes FROM current WHERE key = ?"
        rows = self._rows(sql, [key])
        if not rows:
            return None
        about = rows[0]
        if about["tar"] is None:
            return CatalogEntry(None)
        of_file = {name: about[name] for name in _OF_FILE}
        entry = StoredFile(target="", **of_file)
        return CatalogEntry(entry, about["media_type"], about["reason"], about["preview_bytes"] or 0)

    def _rows(self, sql: str, values: Any) -> list[dict[str, Any]]:
        """Runs a query on a connection of its own: one keeps the result of the last query."""
        with self._connection.cursor() as cursor:
            return list(cursor.sql(sql, params=values).to_arrow_table().to_pylist())

    def held(self, hashes: Collection[str]) -> set[str]:
        """Returns those of some SHA-256 that are of stored files of the archive."""
        with self._lock:
            erasing = self._head.erasure.keys if self._head.erasure is not None else ()
            sql = """
                SELECT DISTINCT sha256 FROM current
                WHERE tar IS NOT NULL AND list_contains($hashes, sha256) AND NOT list_contains($erasing, key)
            """
            found = self._rows(sql, {"hashes": list(hashes), "erasing": list(erasing)})
        return {row["sha256"] for row in found}

    def search(self, search: Search) -> FoundPage:
        """Returns a page of the rows that meet all conditions. Raises Refusal for one that is not valid."""
        if search.sort not in COLUMNS:
            raise Refusal(400, "sort must name a column of the report")
        if not 1 <= search.page <= MOST_PAGES:
            raise Refusal(400, f"page must be 1 to {MOST_PAGES}")
        with self._lock:
            where = ["tar IS NOT NULL"]
            values: list[Any] = []
            if search.text:
                where.append("contains(lower(key), lower(?))")
                values.append(search.text)
            for condition in search.conditions:
                clause, value = self._clause(condition)
                where.append(clause)
                values.append(value)
            clauses = " AND ".join(where)
            order = "DESC" if search.descending else "ASC"
            [counted] = self._rows(f"SELECT count(*) AS total FROM current WHERE {clauses}", values)
            sql = f"""
                SELECT * FROM current WHERE {clauses} ORDER BY "{search.sort}" {order} NULLS LAST, key
                LIMIT {PAGE} OFFSET {(search.page - 1) * PAGE}
            """
            rows = self._rows(sql, values)
        return FoundPage(rows, int(counted["total"]))

    def _clause(self, condition: Condition) -> tuple[str, Any]:
        """The SQL of a condition, with a placeholder for its value: a name in it is always one of ours."""
        column = condition.column
        if column not in COLUMNS or condition.operator not in OPERATORS:
            raise Refusal(400, f"a condition needs a column of the report and one of {', '.join(OPERATORS)}")
        if condition.operator == "contains":
            return f'contains(lower("{column}"::VARCHAR), lower(?))', condition.value
        kind = _sql_type(SCHEMA.field(column).type)
        [cast] = self._rows(f"SELECT TRY_CAST(? AS {kind}) AS value", [condition.value])
        if cast["value"] is None:
            raise Refusal(400, f"{column} is compared with a value of type {kind.lower()}")
        sign = {"is": "=", "at_least": ">=", "at_most": "<="}[condition.operator]
        return f'"{column}" {sign} ?', cast["value"]

    def close(self) -> None:
        """Removes the table."""
        with self._lock:
            self._stack.close()


def _sql_type(kind: pa.DataType) -> str:
    if pa.types.is_integer(kind):
        return "BIGINT"
    if pa.types.is_floating(kind):
        return "DOUBLE"
    if pa.types.is_boolean(kind):
        return "BOOLEAN"
    if pa.types.is_timestamp(kind):
        return "TIMESTAMPTZ"
    return "VARCHAR"
