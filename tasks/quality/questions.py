"""Saved questions: SQL over the views `rows`, `runs` and `listings` of one or more archives.

Each file in `sql/` is one query, which runs in any DuckDB session with these views. The first column of every view is
`archive`. A question's variables have defaults and are set with SET VARIABLE.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset

from codec.errors import SettingsError
from tasks.archive import log, manifest, report
from tasks.archive.listing_schema import LISTING
from tasks.archive.opening import existing
from tasks.storage import parquet

SQL = Path(__file__).parent / "sql"
QUESTIONS: Mapping[str, str] = {
    "savings": "What did we save, in all and by folder?",
    "months": "How many bytes were written each month, at how many bits per pixel?",
    "quality": "How is quality distributed, and how bad is its tail?",
    "below_floor": "Which pictures miss the quality constraint?",
    "fallbacks": "What was kept in another format, and why?",
    "kept_whole": "What is kept whole, why, at how many bytes, and what would each --discard save?",
    "left_out": "What was left out, and of which pictures?",
    "attention": "What needs attention, and why?",
    "failures": "What failed, and why?",
    "duplicates": "Which sources are there more than once?",
    "changes": "Which sources changed or vanished?",
    "cost": "What did each run cost in time, by stage?",
    "provenance": "Which bundle and settings wrote what?",
    "trends": "How do runs compare?",
}


def sql(question: str) -> str:
    """Returns the text of a saved query. Raises SettingsError for an unknown question."""
    if question not in QUESTIONS:
        raise SettingsError(f"{question!r} is not a saved question; choose from {', '.join(QUESTIONS)}")
    return (SQL / f"{question}.sql").read_text(encoding="utf-8")


def answer(locations: str | Sequence[str], question: str, **variables: float) -> pa.Table:
    """Answers a saved question about one or more archives (paths or URLs) as a pyarrow table.

    >>> answer("s3://bucket/archive", "below_floor", min_psnr_db=30).to_pandas()
    """
    text = sql(question)
    if isinstance(locations, str):
        locations = [locations]
    with database(locations) as connection:
        for name, value in variables.items():
            connection.execute(f"SET VARIABLE {_identifier(name)} = {float(value)!r}")
        return connection.sql(text).to_arrow_table()


def query(locations: Sequence[str], text: str) -> pa.Table:
    """The result of an SQL query over the views of archives. Raises SettingsError for SQL that DuckDB refuses."""
    with database(locations) as connection:
        try:
            return connection.sql(text).to_arrow_table()
        except duckdb.Error as error:
            raise SettingsError(f"the query cannot be answered: {str(error).splitlines()[0]}") from None


@contextmanager
def database(locations: Sequence[str]) -> Iterator[duckdb.DuckDBPyConnection]:
    """Opens DuckDB with the three views over archives. Raises ArchiveError for a location without an archive."""
    tables = sources(locations)
    with parquet.database(**tables.datasets) as connection:
        define_views(connection, tables)
        yield connection


@dataclass(frozen=True)
class Sources:
    """What the views are made of."""

    archives: tuple[str, ...]
    datasets: dict[str, pyarrow.dataset.Dataset]
    """`rows_N` and `listings_N` of the Nth archive."""
    runs: pa.Table


def sources(locations: Sequence[str]) -> Sources:
    """Opens archives, each once. Raises ArchiveError for a location without an archive."""
    by_url = {}  # an archive given twice counts once
    for location in locations:
        store = existing(location)
        by_url[store.url] = store
    stores = list(by_url.values())
    if not stores:
        raise SettingsError("name at least one archive")
    tables: dict[str, pyarrow.dataset.Dataset] = {}
    runs: list[dict[str, Any]] = []
    for number, store in enumerate(stores):
        head = log.read(store)
        listings = []
        for run in range(1, head.runs + 1):
            plan = log.plan(store, head, run)
            listings.append(plan.listing)
            runs.append({"archive": str(store), **_described(plan)})
        tables[f"rows_{number}"] = report.rows(store)
        tables[f"listings_{number}"] = parquet.dataset(store, listings, LISTING)
    return Sources(tuple(str(store) for store in stores), tables, _table(runs))


def define_views(connection: duckdb.DuckDBPyConnection, tables: Sources) -> None:
    """Makes the three views in a connection where the datasets are registered."""
    for view in ("rows", "listings"):
        parts = []
        for number, archive in enumerate(tables.archives):
            parts.append(f"SELECT {_literal(archive)} AS archive, * FROM {view}_{number}")
        union = " UNION ALL ".join(parts)
        connection.execute(f"CREATE OR REPLACE VIEW {view} AS {union}")
    connection.register("runs", tables.runs)


_NONE = manifest.Manifest(0, None, "", "", "", 0, False, (), manifest.RunSettings(), "")
"""A manifest of no run, for the columns of a view of an archive without runs."""


def _table(runs: list[dict[str, Any]]) -> pa.Table:
    if not runs:  # pyarrow takes the columns from the rows
        return pa.Table.from_pylist([{"archive": "", **_described(_NONE)}]).slice(0, 0)
    return pa.Table.from_pylist(runs)


def _described(plan: manifest.Manifest) -> dict[str, Any]:
    names = ("run", "parent", "source", "bundle_id", "package_version", "gone", "images")
    about = {name: getattr(plan, name) for name in names}
    about["settings"] = dataclasses.asdict(plan.settings)
    return about


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _identifier(name: str) -> str:
    if not name.isidentifier():
        raise SettingsError(f"{name!r} cannot be the name of a variable")
    return name
