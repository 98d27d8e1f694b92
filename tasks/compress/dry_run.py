"""A dry run: what compress-archive would take, in pictures, bytes, requests and hours, with nothing written."""

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.dataset

from tasks.archive import compacted, report
from tasks.archive.manifest import Manifest, Settings
from tasks.archive.tar import Tar
from tasks.compress import listing
from tasks.compress.shard import Encoding
from tasks.processes.codec_process import Models, verifier, worker
from tasks.progress import SILENT, Progress
from tasks.sources import sharding
from tasks.sources.filters import Filter
from tasks.sources.source import open_source
from tasks.storage import parquet
from tasks.storage.store import Store

SAMPLES = 20
UNLIMITED = 2**40
READS_A_PICTURE = 2
"""The source is read, then looked at again to see that it has not changed."""
READS_A_SHARD, WRITES_A_SHARD = 8, 2
"""Manifest, part (is it done?), listing (three), tar read back, part for the seal (twice); tar and part written."""

_SAMPLES = """
    SELECT * EXCLUDE (place, pictures) FROM (
        SELECT *, row_number() OVER (ORDER BY size, key) - 1 AS place, count(*) OVER () AS pictures
        FROM listing WHERE state NOT IN ('gone', 'excluded')
    ) WHERE list_contains([(2 * i + 1) * pictures // (2 * $samples) FOR i IN range($samples)], place) ORDER BY place
"""


@dataclass(frozen=True)
class Plan:
    """What is ahead. Requests are those of an object store, about; predictions are None without pictures to sample.

    `hours` are of so many `workers`, models loaded once; `stored_bytes` and they come from `sampled` pictures spread
    evenly over the sizes, of which `failed` could not be kept.
    """

    pictures: int
    gone: int
    excluded: int
    source_bytes: int
    shards: int
    runs: int
    read_requests: int
    write_requests: int
    sampled: int
    failed: int
    stored_bytes: int | None
    seconds_a_picture: float | None
    workers: int
    hours: float | None


def predict(
    source: str,
    archive: str,
    settings: Settings = Settings(),  # noqa: B008  # frozen
    *,
    models: Models = Models(""),  # noqa: B008  # frozen
    workers: int = 1,
    progress: Progress = SILENT,
) -> Plan:
    """Predict what compress would do; the archive need not be there yet, and is not touched.

    What an open run still has to do is part of it. Raises ArchiveError where there is nothing to read pictures from.
    """
    pictures, store = open_source(source), Store(archive)
    pictures.check(store)
    run = max(report.runs(store), default=compacted.current(store).runs) + 1
    with tempfile.TemporaryDirectory() as scratch:
        limits = sharding.Limits(settings.max_images_per_shard, settings.max_shard_bytes, UNLIMITED)
        chosen = Filter(settings.include, settings.exclude, settings.non_images == "keep")
        frozen = listing.freeze(pictures, store, run, limits, Path(scratch), chosen=chosen)
        with parquet.database(listing=pyarrow.dataset.dataset(frozen.path)) as connection:
            count, size = connection.execute(
                "SELECT count(*), coalesce(sum(size), 0)::BIGINT FROM listing WHERE state NOT IN ('gone', 'excluded')"
            ).fetchall()[0]
            chosen = connection.sql(_SAMPLES, params={"samples": min(SAMPLES, count)})
            entries = chosen.to_arrow_table().to_pylist()
        rows, seconds = _tried(pictures.url, run, settings, models, entries, Path(scratch), progress)
    shards = len(frozen.shards)
    each = seconds / len(rows) if rows else None
    stored = sum(row.get("length", 0) + row.get("film_length", 0) for row in rows)
    return Plan(
        pictures=count,
        gone=frozen.gone,
        excluded=frozen.excluded,
        source_bytes=size,
        shards=shards,
        runs=-(-shards // listing.SHARDS_PER_RUN),
        read_requests=READS_A_PICTURE * count + READS_A_SHARD * shards,
        write_requests=WRITES_A_SHARD * shards,
        sampled=len(rows),
        failed=sum(row["status"] == "failed" for row in rows),
        stored_bytes=round(stored / len(rows) * count) if rows else None,
        seconds_a_picture=each,
        workers=workers,
        hours=each * count / workers / 3600 if each is not None else None,
    )


def _tried(
    source: str,
    run: int,
    settings: Settings,
    models: Models,
    entries: list[dict[str, Any]],
    scratch: Path,
    progress: Progress,
) -> tuple[list[dict[str, Any]], float]:
    """The rows of some entries as a shard would make them, and the seconds that took once models were loaded."""
    if not entries:
        return [], 0.0
    models = replace(models, threads=settings.threads, memory=settings.image_memory)
    metrics = settings.lpips_net if settings.metrics else "none"
    with worker(models, metrics) as encoder, verifier(models) as decoder:
        about = decoder.greeting()
        encoder.greeting()
        if settings.quality is None and settings.target_bpp is None:
            settings = replace(settings, quality=about["default_quality"])
        trial = Manifest(run, None, source, "", "", 0, False, ((0, len(entries)),), settings, about["bundle_id"])
        with Tar(scratch / "trial.tar") as tar:
            encoding = Encoding(trial, 0, models.device, {}, encoder, decoder, tar)
            progress.begin(len(entries))
            started = time.perf_counter()
            for entry in entries:
                encoding.add(entry | {"held_sha256": None})
                progress.advance(1)
    return encoding.rows, time.perf_counter() - started
