"""The questions of an owner: one small archive with a known answer to each, asked in every documented way."""

import os
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import pytest

from codec.errors import ArchiveError, SettingsError
from tasks.archive import log, report
from tasks.archive.listing_schema import LISTING
from tasks.archive.opening import create
from tasks.quality.questions import QUESTIONS, SQL, answer, sql
from tasks.storage import parquet
from tasks.storage.store import NotFoundError, Store
from tests.support import fake_codec
from tests.support.archive_builder import folder, in_process, pack, png
from tests.support.codecless_archives import make
from tests.support.known_reports import archive_of, row, write_run

Rows = list[dict[str, Any]]
Ask = Callable[[str], Rows]


@contextmanager
def unreadable(*names: str) -> Iterator[None]:
    """Sources that are gone when they are read."""
    pieces = Store.pieces

    def missing(store: Store, name: str, most: int, length: int) -> Iterator[bytes]:
        if name in names:
            raise NotFoundError(name)
        return pieces(store, name, most, length)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "pieces", missing)
        yield


def build(source: Path, archive: str, bundle: Path) -> str:
    """Run 1 takes eight sources; then one changes, one vanishes, one that failed is mended, and run 2 follows."""
    folder(
        source,
        {
            "2023/a.png": png(1),
            "2023/b.png": png(2),
            "2024/copy-of-a.png": png(1),
            "2024/grows.png": png(3, fault=fake_codec.GROW),
            "2024/raises.png": png(4, fault=fake_codec.RAISE),
            "2024/torn.png": png(7),
            "2024/lost.png": png(8),
            "gone.png": png(5),
        },
    )
    with in_process():
        with unreadable("2024/torn.png", "2024/lost.png"):
            pack(source, archive, bundle)
        (source / "gone.png").unlink()
        folder(source, {"2023/b.png": png(6)})
        os.utime(source / "2024/grows.png", ns=(1, 1))
        with unreadable("2024/lost.png"):
            pack(source, archive, bundle)
    return archive


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, fake_bundle: Path) -> str:
    home = tmp_path_factory.mktemp("owner's")
    return build(home / "source", str(home / "archive"), fake_bundle)


@pytest.fixture(scope="module")
def remote(archive: str, bucket: str) -> str:
    """The same archive, carried to the bucket."""
    fsspec.filesystem("s3").put(f"{archive}/", f"{bucket}/archive/", recursive=True)
    return f"{bucket}/archive"


def test_the_page_s_own_lines_ask_an_archive_whose_path_is_odd(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(__file__).parents[3]
    place = tmp_path / "it's [my] pictures? *"
    make(place, [{"a.jpg": b"bytes", "b.jpg": b"more"}])
    blocks = (root / "infra" / "docs" / "archives.md").read_text().split("```python\n")
    (lines,) = [block.partition("```")[0] for block in blocks if "CREATE VIEW" in block]
    local = lines.replace('"s3://bucket/archive"', "PLACE").replace("connection.register_filesystem", "str")
    monkeypatch.chdir(root)
    exec(local.replace('fsspec.filesystem("s3")', "1"), {"PLACE": str(place)})
    assert "saved" in capfd.readouterr().out


def with_files(connection: duckdb.DuckDBPyConnection, archive: str) -> Ask:
    """Views of an archive's files as infra/docs/archives.md makes them."""
    place = archive.replace("'", "''")
    for view, files in {
        "rows": "runs/*/report/*.parquet",
        "listings": "runs/*/listing-*.parquet",
        "runs": "runs/*/manifest*.json",
    }.items():
        connection.sql(f"CREATE VIEW {view} AS SELECT '{place}' AS archive, * FROM '{place}/{files}'")
    return lambda question: connection.sql(sql(question)).to_arrow_table().to_pylist()


def by_function(archive: str) -> Ask:
    return lambda question: answer(archive, question).to_pylist()


def by_duckdb(archive: str) -> Ask:
    connection = duckdb.connect(config={"autoinstall_known_extensions": False})
    if archive.startswith("s3://"):
        connection.register_filesystem(fsspec.filesystem("s3"))
    return with_files(connection, archive)


def by_pandas(archive: str) -> Ask:
    """pyarrow reads the files, pandas holds them, DuckDB queries the frames."""
    store = Store(archive)
    head = log.read(store)
    plans = [log.plan(store, head, run) for run in range(1, head.runs + 1)]
    listings = parquet.dataset(store, [plan.listing for plan in plans], LISTING)
    frames = {"rows": report.rows(store).to_table().to_pandas(), "listings": listings.to_table().to_pandas()}
    connection = duckdb.connect()
    for name, frame in frames.items():
        frame.insert(0, "archive", archive)
        connection.register(name, frame)
    return lambda question: [
        {name: None if isinstance(value, float) and value != value else value for name, value in row.items()}
        for row in connection.sql(sql(question)).df().to_dict("records")
    ]


WAYS = {"function": by_function, "duckdb": by_duckdb, "pandas": by_pandas}


@pytest.fixture(scope="module", params=["function", "duckdb", "pandas", "function on s3", "duckdb on s3"])
def ask(request: pytest.FixtureRequest, archive: str) -> Ask:
    way, _, where = request.param.partition(" on ")
    return WAYS[way](request.getfixturevalue("remote") if where else archive)


def test_there_is_a_query_for_every_question_and_no_other() -> None:
    assert {path.stem for path in SQL.glob("*.sql")} == set(QUESTIONS)


def test_what_needs_attention(archive: str) -> None:
    assert answer(archive, "attention").schema.names == ["archive", "needs_attention", "key", "run"]


def test_savings_in_all_and_by_folder(ask: Ask) -> None:
    rows = {row["folder"]: row for row in ask("savings") if row["folder"]}
    assert {name: row["pictures"] for name, row in rows.items()} == {"2023": 3, "2024": 4, ".": 1}
    total = ask("savings")[0]
    assert (total["archive"], total["folder"], total["pictures"]) == (None, None, 8)
    assert total["saved_bytes"] == total["source_bytes"] - total["stored_bytes"] > 0
    for column in ("source_bytes", "stored_bytes", "saved_bytes"):
        assert total[column] == sum(row[column] for row in rows.values())


def test_a_file_that_two_pictures_share_is_stored_once(archive: str) -> None:
    total = answer(archive, "savings").to_pylist()[0]
    assert total["stored_bytes"] == sum(
        report.count(report.rows(Store(archive), [run]).to_table())["stored_bytes"] for run in (1, 2)
    )
    assert total["stored_bytes"] < report.query(Store(archive), "SELECT sum(bytes) b FROM rows")[0]["b"]


def test_bytes_and_rate_by_month(ask: Ask) -> None:
    (month,) = ask("months")
    assert month["files"] == 7
    assert month["bpp"] == pytest.approx(8 * month["stored_bytes"] / (7 * 40 * 24), abs=1e-4)


def test_failures_that_a_later_run_mended_count_no_more(ask: Ask) -> None:
    (row,) = ask("failures")
    assert (row["reason"], row["example"], row["pictures"]) == ("source_missing", "2024/lost.png", 1)
    assert row["error"] == "no longer exists"


def test_fallbacks_say_why(ask: Ask) -> None:
    assert {(row["reason"], row["example"]) for row in ask("fallbacks")} == {
        ("encoder", "2024/raises.png"),
        ("would_grow", "2024/grows.png"),
    }


def test_what_is_kept_whole_and_why(ask: Ask) -> None:
    found = {row["reason"]: (row["pictures"], row["discard"]) for row in ask("kept_whole")}
    assert found == {"encoder": (1, None), "would_grow": (1, None)}


def test_nothing_was_left_out_here(ask: Ask) -> None:
    assert ask("left_out") == []


def test_duplicates_are_found_by_content(ask: Ask) -> None:
    (row,) = ask("duplicates")
    assert row["copies"] == 2
    assert list(row["first_keys"]) == ["2023/a.png", "2024/copy-of-a.png"]
    assert row["repeated_bytes"] == len(png(1))


def test_changed_and_vanished_sources(ask: Ask) -> None:
    assert {(row["run"], row["key"], row["what"]) for row in ask("changes")} == {
        (2, "2023/b.png", "changed"),
        (2, "2024/grows.png", "changed"),
        (2, "gone.png", "gone"),
        (1, "2024/torn.png", "gone while the run went on"),
        (1, "2024/lost.png", "gone while the run went on"),
        (2, "2024/lost.png", "gone while the run went on"),
    }


def test_cost_by_run_and_stage(ask: Ask) -> None:
    assert [(row["run"], row["stage"], row["pictures"]) for row in ask("cost")] == [(1, "encode", 3), (2, "encode", 2)]


def test_which_bundle_and_settings_wrote_what(archive: str, remote: str) -> None:
    for ask in (by_function(archive), by_duckdb(archive), by_function(remote), by_duckdb(remote)):
        first, second = ask("provenance")
        assert (first["run"], first["quality"], first["threads"], first["pictures"]) == (1, 4.0, 1, 8)
        assert (second["run"], second["bundle"]) == (2, first["bundle"])


def test_runs_beside_each_other(ask: Ask) -> None:
    assert [(row["run"], row["pictures"], row["failed"], row["fallbacks"]) for row in ask("trends")] == [
        (1, 8, 2, 2),
        (2, 3, 1, 0),
    ]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A report of 100 pictures whose metrics are known: PSNR 20, 20.1, ..., LPIPS 0.01, 0.02, ..."""
    return archive_of(tmp_path_factory.mktemp("measured") / "archive", 100)


def test_the_mean_of_a_sample_has_an_interval_and_that_of_all_pictures_none(tmp_path: Path) -> None:
    reason = "dists: not in the sample; lpips_vgg: not asked for"
    unsampled = [row(number, 1) | {"not_measured": reason} for number in range(75)]
    sampled = [row(number, 1) | {"dists": 0.1 + number % 2 * 0.1} for number in range(75, 100)]
    archive = tmp_path / "a"
    create(Store(str(archive)))
    write_run(archive, 1, unsampled + sampled, 100)
    quality = {row["metric"]: row for row in answer(str(archive), "quality").to_pylist()}
    half = 1.96 * statistics.stdev(row["dists"] for row in sampled) / 25**0.5 * 0.75**0.5
    dists = quality["dists"]
    assert (dists["pictures"], dists["mean"]) == (25, 0.152)
    assert (dists["mean_low"], dists["mean_high"]) == pytest.approx((0.152 - half, 0.152 + half), abs=1e-4)
    assert quality["psnr_db"]["mean_low"] is None and "lpips_vgg" not in quality


def test_the_distribution_of_quality_and_its_tail(measured: str) -> None:
    rows = {row["metric"]: row for row in answer(measured, "quality").to_pylist()}
    assert set(rows) == {"psnr_db", "lpips"}
    assert (rows["psnr_db"]["worst"], rows["psnr_db"]["best_5_percent"]) == (20.0, pytest.approx(29.405))
    assert (rows["lpips"]["worst"], rows["lpips"]["worst_5_percent"]) == (1.0, pytest.approx(0.9505))
    assert rows["lpips"]["median"] == pytest.approx(0.505)


def test_pictures_below_a_floor_which_is_a_variable(measured: str) -> None:
    rows = answer(measured, "below_floor", min_psnr_db=20.15, max_lpips=0.985).to_pylist()
    assert [(row["key"], row["misses"]) for row in rows] == [
        ("099.png", "LPIPS"),
        ("098.png", "LPIPS"),
        ("001.png", "PSNR"),
        ("000.png", "PSNR"),
    ]


def test_forgotten_pictures_count_no_more(tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "a", 20, forgotten=[0, 19])
    assert answer(archive, "savings").to_pylist()[0]["pictures"] == 18
    quality = {row["metric"]: row for row in answer(archive, "quality").to_pylist()}
    assert (quality["psnr_db"]["pictures"], quality["psnr_db"]["worst"], quality["lpips"]["worst"]) == (18, 20.1, 0.19)
    assert [row["pictures"] for row in answer(archive, "trends").to_pylist()] == [20]


def test_many_archives_are_asked_at_once(archive: str, measured: str, remote: str) -> None:
    rows = answer([archive, measured, remote, archive], "savings").to_pylist()
    assert rows[0]["pictures"] == 8 + 100 + 8
    assert [row["archive"] for row in rows[1:4]] == [measured, *sorted([archive, remote])]


def test_what_cannot_be_asked(archive: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="is not a saved question; choose from savings"):
        answer(archive, "../secret")
    with pytest.raises(ArchiveError, match="no archive here"):
        answer(str(tmp_path), "savings")
    with pytest.raises(SettingsError, match="at least one archive"):
        answer([], "savings")
    with pytest.raises(SettingsError, match="cannot be the name"):
        answer(archive, "below_floor", **{"x = 1; DROP VIEW rows; --": 1.0})


def test_an_empty_archive_answers_with_nothing(tmp_path: Path) -> None:
    create(Store(str(tmp_path / "a")))
    others = {
        question: answer(str(tmp_path / "a"), question).num_rows for question in QUESTIONS if question != "savings"
    }
    assert set(others.values()) == {0}
    assert answer(str(tmp_path / "a"), "savings").to_pylist()[0]["pictures"] == 0
