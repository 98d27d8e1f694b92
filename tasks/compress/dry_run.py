"""Dry run: predicts pictures, bytes, requests and hours of compress-archive without writing anything."""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.dataset

from codec.containers.judgement import DISCARDS
from codec.errors import ArchiveError
from tasks.archive import log
from tasks.archive.listing_schema import Entry
from tasks.archive.manifest import Manifest, RunSettings
from tasks.archive.schema import Row, present
from tasks.archive.tar import Tar
from tasks.compress import listing
from tasks.compress.encoding import Encoding
from tasks.processes.child import Child, ChildDied
from tasks.processes.codec_process import Asked, Models, verifier, worker
from tasks.processes.requests import Judge
from tasks.progress import SILENT, Progress
from tasks.sources import sharding
from tasks.sources.filters import Filter
from tasks.sources.source import Source, open_source
from tasks.storage import parquet
from tasks.storage.store import Store

SAMPLES = 20
"""Number of sources to encode."""
JUDGED = 200
"""Number of sources to inspect for files that would be kept whole, which is much faster than to encode them."""
UNLIMITED = 2**40
READS_A_PICTURE = 2
"""Read the source, then check that it has not changed."""
READS_A_SHARD = 8
"""Manifest, part (done?), listing (3), tar for verification, part for the seal (2)."""
WRITES_A_SHARD = 2
"""Tar, part."""

_SAMPLES = """
    SELECT * EXCLUDE (place, pictures) FROM (
        SELECT *, row_number() OVER (ORDER BY size, key) - 1 AS place, count(*) OVER () AS pictures
        FROM listing WHERE state NOT IN ('gone', 'excluded')
    ) WHERE list_contains([(2 * i + 1) * pictures // (2 * $samples) FOR i IN range($samples)], place) ORDER BY place
"""


@dataclass(frozen=True)
class KeptWhole:
    """Estimated number and bytes of the pictures that would be kept whole for a reason.

    With the parts named by `discard` left out, they could be compressed; `saved` estimates the saved bytes.
    """

    reason: str
    pictures: int
    bytes: int
    discard: str | None = None
    would_save_bytes: int | None = None


@dataclass(frozen=True)
class Plan:
    """Predicted cost of a run. Requests are approximate; predictions are None without pictures to sample.

    `kept_whole` is scaled from `judged` pictures. `stored_bytes` and `hours` are scaled from `sampled` pictures, spread
    evenly over the sizes; `failed` of these could not be kept. `hours` assumes `workers` processes that load the models
    once.
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
    judged: int = 0
    kept_whole: tuple[KeptWhole, ...] = ()


def predict(
    source: str,
    archive: str,
    settings: RunSettings = RunSettings(),  # noqa: B008  # frozen
    *,
    models: Models = Models(""),  # noqa: B008  # frozen
    workers: int = 1,
    allow_shrink: bool = False,
    progress: Progress = SILENT,
) -> Plan:
    """Predicts what compress-archive would do. The archive need not exist, and is not changed.

    Includes the remaining work of an open run. Raises ArchiveError if the source does not exist, or if compress-archive
    would refuse it because it has shrunk.
    """
    pictures = open_source(source)
    store = Store(archive)
    pictures.check(store)
    head = log.read(store)
    with tempfile.TemporaryDirectory() as scratch:
        # One listing for all runs: a limit on shards would cut it where the first run ends.
        limits = sharding.Limits(settings.max_images_per_shard, settings.max_shard_bytes, UNLIMITED)
        chosen = Filter(settings.include, settings.exclude, settings.non_images == "keep")
        frozen = listing.freeze(pictures, store, head, limits, Path(scratch), chosen=chosen, allow_shrink=allow_shrink)
        with parquet.database(listing=pyarrow.dataset.dataset(frozen.path)) as connection:
            count, size = connection.execute(
                "SELECT count(*), coalesce(sum(size), 0)::BIGINT FROM listing WHERE state NOT IN ('gone', 'excluded')"
            ).fetchall()[0]

            # Nested, since a function with DuckDB's type in its signature must not be in this module: after an error,
            # Prefect keeps the module until exit, when DuckDB would report leaks.
            def sample(samples: int) -> list[Entry]:
                found = connection.sql(_SAMPLES, params={"samples": samples})
                return list(found.to_arrow_table().to_pylist())

            to_encode = sample(min(SAMPLES, count))
            to_judge = sample(min(JUDGED, count))
        trial = _Trial(pictures, settings, models)
        rows, seconds = trial.encoded(head.runs + 1, to_encode, Path(scratch), progress)
        wholes = trial.judged(to_judge, count)
    shards = len(frozen.shards)
    stored_bytes: int | None = None
    seconds_a_picture: float | None = None
    hours: float | None = None
    if rows:
        stored_bytes = round(_stored(rows) / len(rows) * count)
        seconds_a_picture = seconds / len(rows)
        hours = seconds_a_picture * count / workers / 3600
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
        stored_bytes=stored_bytes,
        seconds_a_picture=seconds_a_picture,
        workers=workers,
        hours=hours,
        judged=len(to_judge),
        kept_whole=tuple(wholes),
    )


def _stored(rows: list[Row]) -> int:
    """Returns the bytes that some rows add to tars, with the videos of motion photos."""
    total = 0
    for row in rows:
        total += row.get("length") or 0
        total += row.get("film_length") or 0
    return total


@dataclass
class _Trials:
    """The processes that encode sample pictures."""

    encoder: Asked
    decoder: Asked
    checker: Asked | None = None


class _Trial:
    """Encodes sources as a shard does, without writing anything."""

    def __init__(self, pictures: Source, settings: RunSettings, models: Models) -> None:
        self._pictures = pictures
        self._settings = settings
        self._models = replace(models, threads=settings.threads, memory=settings.image_memory)
        self._bpp: float | None = None

    def encoded(self, run: int, entries: list[Entry], scratch: Path, progress: Progress) -> tuple[list[Row], float]:
        """Returns the rows of some entries, and the seconds they took after the models were loaded."""
        if not entries:
            return [], 0.0
        settings = self._settings
        models = self._models
        with worker(models, settings.metrics) as encoder, verifier(models) as decoder:
            about = decoder.greeting()
            encoder.greeting()  # waits until the models are loaded, so that the seconds below are those of encoding
            if settings.quality is None and settings.target_bpp is None:
                settings = replace(settings, quality=about["default_quality"])
            plan = Manifest(
                run=run,
                parent=None,
                source=self._pictures.url,
                listing="",
                listing_sha256="",
                gone=0,
                truncated=False,
                shards=((0, len(entries)),),
                settings=settings,
                bundle_id=about["bundle_id"],
            )
            # The archive's earlier rows are not read here, so each source counts as new.
            as_new = [entry | {"held_sha256": None} for entry in entries]
            with Tar(scratch / "trial.tar") as tar:
                encoding = Encoding(plan, 0, models.device, {}, _Trials(encoder, decoder), tar)
                progress.begin(len(entries))
                started = time.perf_counter()
                encoding.add_all(as_new, progress)
        seconds = time.perf_counter() - started
        self._bpp = _mean_bpp(encoding.rows)
        return encoding.rows, seconds

    def judged(self, entries: list[Entry], pictures: int) -> list[KeptWhole]:
        """Scales the sampled pictures that would be kept whole to all pictures; most bytes first."""
        found: dict[tuple[str, str | None], list[tuple[int, float]]] = {}
        if not entries:
            return []
        with worker(self._models) as encoder:
            for entry in entries:
                for outcome, size, saved in self._judgement(encoder, entry):
                    found.setdefault(outcome, []).append((size, saved))
        scale = pictures / len(entries)  # the entries are a sample
        wholes: list[KeptWhole] = []
        for (reason, discard), outcomes in found.items():
            size = sum(size for size, _ in outcomes)
            would_save = None
            if discard and self._bpp:  # without a rate the .fdc file's size is unknown
                would_save = round(sum(saved for _, saved in outcomes) * scale)
            wholes.append(KeptWhole(reason, round(len(outcomes) * scale), round(size * scale), discard, would_save))
        return sorted(wholes, key=lambda one: (-one.bytes, one.reason))

    def _judgement(self, encoder: Child, entry: Entry) -> Iterator[tuple[tuple[str, str | None], int, float]]:
        """Yields (reason, part to discard), size and saved bytes of a source that would be kept whole.

        The part is None if no single part would let the source be compressed. Yields nothing for other sources.
        """
        size = present(entry["size"])
        if size > listing.LARGEST_SOURCE:
            yield ("too_large", None), size, 0.0
            return
        try:
            data = self._pictures.fetch(entry)
            answer = self._ask(encoder, data, self._settings.discard)
            if answer.get("fallback", answer.get("reason")) is None:
                return
            for name in DISCARDS:
                if name in self._settings.discard:
                    continue
                other = self._ask(encoder, data, (*self._settings.discard, name))
                if "fallback" not in other and other["reason"] is None:
                    saved = size - (self._bpp or 0) * other["width"] * other["height"] / 8
                    yield (answer["reason"], name), size, saved
                    return
            yield (answer.get("fallback") or answer["reason"], None), size, 0.0
        except ArchiveError:
            return  # the run will record a failed row
        except ChildDied as death:
            yield (death.reason, None), size, 0.0

    def _ask(self, encoder: Child, data: bytes, discard: tuple[str, ...]) -> dict[str, Any]:
        request = Judge(self._settings.metadata, discard)
        answer, _ = encoder.ask(request, data, seconds=self._settings.image_timeout)
        return answer


def _mean_bpp(rows: list[Row]) -> float | None:
    """Returns bits per pixel over all compressed rows; None without any."""
    compressed = [row for row in rows if row["status"] == "compressed"]
    pixels = sum(present(row["width"]) * present(row["height"]) for row in compressed)
    if not pixels:
        return None
    return 8 * sum(present(row["bytes"]) for row in compressed) / pixels
