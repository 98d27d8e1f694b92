"""The report in DuckDB, Polars and pandas, in one call each, on disk and in a bucket."""

import json
from pathlib import Path
from typing import Any

import duckdb
import polars
import pyarrow.compute
import pytest
from typer.testing import CliRunner

from codec.errors import ArchiveError, SettingsError
from flows.archive import app
from tasks.archive.schema import SCHEMA
from tasks.quality.questions import query
from tasks.quality.tables import pandas_frame, polars_scan, register
from tests.support.codecless_archives import make
from tests.support.maintenance_runs import RUNS

COUNT = "SELECT status, count(*) AS pictures FROM rows GROUP BY status ORDER BY status"
SIDE_BY_SIDE = """SELECT rows.key, runs.run, listings.state FROM rows JOIN runs USING (archive, run)
    JOIN listings ON listings.key = rows.key AND listings.run = runs.run ORDER BY ALL"""


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("tables") / "an 'odd' name"
    make(path, RUNS)
    return str(path)


@pytest.fixture(scope="module")
def remote(bucket: str) -> str:
    make(f"{bucket}/tables", RUNS)
    return f"{bucket}/tables"


@pytest.mark.parametrize("place", ["local", "remote"])
def test_every_way_tells_the_same(place: str, request: pytest.FixtureRequest) -> None:
    archive: str = request.getfixturevalue(place)
    with duckdb.connect() as connection:
        register(connection, archive)
        counted = connection.sql(COUNT).fetchall()
        joined = connection.sql(SIDE_BY_SIDE).fetchall()
    assert sum(number for _, number in counted) > 5 and len(joined) > 5
    scanned = polars_scan(archive).group_by("status").len().sort("status").collect()
    assert scanned.rows() == counted
    frame = pandas_frame(archive, ["key", "status"])
    assert sorted(frame.groupby("status").size().items()) == counted
    assert query([archive], COUNT).to_pylist() == [{"status": status, "pictures": n} for status, n in counted]


def test_polars_reads_what_a_query_needs_and_keeps_the_schema(local: str) -> None:
    lazy = polars_scan(local)
    assert lazy.collect_schema().names() == SCHEMA.names
    kept = lazy.filter(polars.col("status") == "fallback").select("key").collect()
    expected = pandas_frame(local, ["key"], pyarrow.compute.field("status") == "fallback")
    assert sorted(kept["key"]) == sorted(expected["key"])


def test_views_of_two_archives_say_which_and_are_replaced_by_a_second_call(local: str, tmp_path: Path) -> None:
    make(tmp_path / "other", RUNS[:1])
    with duckdb.connect() as connection:
        register(connection, local)
        register(connection, local, str(tmp_path / "other"))
        assert connection.sql("SELECT count(DISTINCT archive) FROM rows").fetchall() == [(2,)]


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["sql", *arguments])


def test_the_command_prints_a_table_or_json_and_one_line_for_wrong_sql(local: str) -> None:
    done = run(local, COUNT, "--json")
    assert done.exit_code == 0 and json.loads(done.stdout) == query([local], COUNT).to_pylist()
    assert "pictures" in run(local, COUNT).stdout
    done = run(local, "SELECT nothing FROM rows")
    assert done.exit_code == 1 and "cannot be answered" in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_place_without_an_archive_is_named(tmp_path: Path) -> None:
    for ask in (polars_scan, pandas_frame, lambda place: query([place], COUNT)):
        with pytest.raises(ArchiveError, match="archive"):
            ask(str(tmp_path))
    with pytest.raises(SettingsError, match="at least one archive"):
        register(duckdb.connect())


def test_every_column_of_the_report_is_described_with_its_unit() -> None:
    page = (Path(__file__).parents[3] / "infra" / "docs" / "report-schema.md").read_text()
    for field in SCHEMA:
        metadata = {name.decode(): value.decode() for name, value in field.metadata.items()}
        row = next(line for line in page.splitlines() if line.startswith(f"| `{field.name}` |"))
        assert str(field.type) in row and metadata["description"].replace("|", "\\|") in row
        assert metadata.get("unit", "") in row
