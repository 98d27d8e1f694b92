"""Status of an archive: its runs and their content, and rate, time left and failures of the open run."""

from dataclasses import dataclass
from typing import Any

from tasks.archive import log, report
from tasks.archive.log import ArchiveHead
from tasks.archive.opening import existing
from tasks.archive.schema import STATUSES
from tasks.storage import parquet
from tasks.storage.store import Store

_BY_STATUS = ", ".join(f"count(*) FILTER (status = '{status}') AS {status}" for status in STATUSES)
_RUNS = f"""
    SELECT run, count(*) AS images_done, count(DISTINCT shard) AS shards_done, {_BY_STATUS},
           sum(source_bytes)::BIGINT AS source_bytes, max(created_at)::VARCHAR AS last_commit
    FROM rows GROUP BY run
"""
_STORED = """
    SELECT run, sum(length + coalesce(film_length, 0))::BIGINT AS stored_bytes
    FROM (SELECT DISTINCT run, tar, "offset", length, film_length FROM rows WHERE status IN ('compressed', 'fallback'))
    GROUP BY run
"""
_FAILING = """
    SELECT run, shard, count(*) FILTER (status = 'failed') AS failed, count(*) AS images,
           list_sort(list(DISTINCT reason) FILTER (status = 'failed')) AS reasons
    FROM rows GROUP BY run, shard HAVING failed > 0 ORDER BY run, shard
"""
# a rate: rows after the first, by the time since the first
_LAST_HOUR = """
    SELECT (count(*) - 1) / nullif(epoch(max(created_at) - min(created_at)), 0)
    FROM rows WHERE run = $run
    AND created_at > (SELECT max(created_at) FROM rows WHERE run = $run) - INTERVAL 1 HOUR
"""


@dataclass(frozen=True)
class Status:
    """Status of an archive.

    `runs` has for each run: run, state (sealed, closed (sealed without some shards) or open), shards, shards_done,
    images, images_done, rows by status, source_bytes, stored_bytes and last_commit (UTC). `images_per_second`, over the
    last hour of commits, and `seconds_left` are for the open run; None without one, or before two rows are committed.
    `failing_shards` has run, shard, failed, images and reasons for each shard with failed rows.
    """

    archive: str
    runs: list[dict[str, Any]]
    images_per_second: float | None
    seconds_left: float | None
    failing_shards: list[dict[str, Any]]
    compacted_runs: int
    unfinished_erasures: int

    @property
    def failed(self) -> int:
        """Number of failed rows."""
        return sum(int(run["failed"]) for run in self.runs)


def status(archive: str) -> Status:
    """Returns the status of an archive, also during a run; raises ArchiveError if there is no archive."""
    store = existing(archive)
    with parquet.database(rows=report.rows(store)) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        done = {row["run"]: row for row in connection.sql(_RUNS).to_arrow_table().to_pylist()}
        stored = dict(connection.execute(_STORED).fetchall())
        failing = connection.sql(_FAILING).to_arrow_table().to_pylist()
        head = log.read(store)
        runs = []
        for run in range(1, head.runs + 1):
            runs.append(_run(store, head, run, done.get(run, {}), stored.get(run, 0)))
        rate: float | None = None
        left: float | None = None
        if runs and runs[-1]["state"] == "open":
            last = runs[-1]
            [(rate,)] = connection.execute(_LAST_HOUR, {"run": last["run"]}).fetchall()
            if rate:  # null for a single row or a single moment
                left = (last["images"] - last["images_done"]) / rate
    return Status(str(store), runs, rate, left, failing, head.tabled, int(head.erasure is not None))


def _run(archive: Store, head: ArchiveHead, run: int, done: dict[str, Any], stored: int) -> dict[str, Any]:
    plan = log.plan(archive, head, run)
    state = "open"
    if run in head.sealed:
        state = "closed" if "closed" in log.seal(archive, head, run) else "sealed"
    about = {"run": run, "state": state, "shards": len(plan.shards), "images": plan.images}
    for name in ("shards_done", "images_done", *STATUSES, "source_bytes"):
        about[name] = done.get(name, 0)  # a run without committed rows is absent from the query
    about["stored_bytes"] = stored
    about["last_commit"] = done.get("last_commit")
    return about
