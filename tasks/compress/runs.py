"""Archives: created, grown by numbered runs, one open at a time, each planned once, worked off and sealed."""

import dataclasses
import hashlib
import importlib.metadata
import logging
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from codec.errors import ArchiveError, SettingsError
from tasks.archive import erasures, escrow, layout, manifest, report
from tasks.archive.manifest import Manifest, Settings
from tasks.archive.opening import create
from tasks.compress import listing, shard
from tasks.compress.listing import NOTHING, Again
from tasks.compress.shard import Job, encode_shard
from tasks.processes.codec_process import Models, verifier
from tasks.progress import SILENT, Progress
from tasks.sources import sharding
from tasks.sources.filters import Filter
from tasks.sources.source import Source, open_source
from tasks.storage.store import Store, sha256_of

LOGGER = logging.getLogger(__name__)
ShardMap = Callable[[Job, int], Iterable[report.Totals]]
"""Calls encode_shard(job, shard) for every shard below the number."""


@dataclass(frozen=True)
class Outcome:
    """What one call did: the runs it finished, none when nothing was new, and their totals."""

    runs: list[int] = field(default_factory=list)
    totals: report.Totals = field(default_factory=lambda: report.add([]))


def compress(
    source: str,
    archive: str,
    settings: Settings = Settings(),  # noqa: B008  # frozen
    *,
    models: Models = Models(""),  # noqa: B008  # frozen
    resume: int | None = None,
    retry_failed: bool = False,
    recheck: bool = False,
    allow_shrink: bool = False,
    single_writer: bool = False,
    shard_map: ShardMap | None = None,
    progress: Progress = SILENT,
) -> Outcome:
    """Bring an archive up to date with a source: finish the open run, then take what is new.

    An open run keeps its own settings and bundle. With `resume`, its number, nothing else is done, and settings that
    differ from its own are refused. With `retry_failed`, what crashed, was killed, took too long or broke the encoder
    before this call is taken again, once; with `recheck`, what an earlier release of this package would judge
    otherwise. A source that lists nothing, or less than half of what is kept, is refused without `allow_shrink`. With
    `single_writer` the owner vouches that nobody else writes to a store that cannot keep two writers apart; the archive
    remembers it. Of `models`, the threads are those of the settings. `shard_map` maps encode_shard over the shards of a
    run, by default one after another.
    """
    pictures, store = open_source(source), Store(archive)
    pictures.check(store)
    if models.bundle and not Path(models.bundle).is_dir():
        raise SettingsError(f"{models.bundle}: no such bundle folder")
    create(store, single_writer=single_writer)

    def in_order(job: Job, shards: int) -> Iterable[report.Totals]:
        return (encode_shard(job, number, progress) for number in range(shards))

    def finish(run: int) -> Manifest:
        job = Job(store.url, run, models.device, models.backbone, models.codec, models.child_env, store.token)
        plan = manifest.read(store, run)
        progress.begin(plan.images)
        finished.append((run, work_off(store, plan, job, shard_map or in_order)))
        return plan

    finished: list[tuple[int, report.Totals]] = []
    started = open_run(store)
    if resume is not None:
        _check_resume(store, resume, started, pictures, settings, models)
    if started is not None:
        LOGGER.info("%s: going on with the open run %d", archive, started)
        finish(started)
    again = _again(store, retry_failed=retry_failed, recheck=recheck)
    while resume is None:
        number = plan_run(pictures, store, settings, models, again=again, allow_shrink=allow_shrink)
        if number is None or not finish(number).truncated:
            break
    return Outcome([run for run, _ in finished], report.add([totals for _, totals in finished]))


def _again(archive: Store, *, retry_failed: bool, recheck: bool) -> Again:
    """What is to be taken again of the runs that are there now."""
    runs = report.runs(archive) if retry_failed or recheck else []
    if not recheck:
        return Again(tuple(runs))
    own = importlib.metadata.version("fdcodec")
    older = [run for run in runs if manifest.read(archive, run).package_version != own]
    return Again(tuple(older), every_row=True)


def open_run(archive: Store) -> int | None:
    """The run that has a manifest but no seal, if there is one."""
    return next((run for run in reversed(report.runs(archive)) if not report.sealed(archive, run)), None)


def plan_run(
    source: Source,
    archive: Store,
    settings: Settings,
    models: Models,
    *,
    again: Again = NOTHING,
    allow_shrink: bool = False,
) -> int | None:
    """Open the next run, for what the sealed ones do not hold, and return its number; None when that is nothing.

    Of several runners that plan at once, the one whose manifest is created first wins; the others adopt its plan. A run
    that another runner has opened meanwhile is adopted too: only one is open at a time.
    """
    if (opened := open_run(archive)) is not None:
        LOGGER.info("%s: run %d was opened by another runner; its plan is taken", archive, opened)
        return opened
    run, erased = max(report.runs(archive), default=0) + 1, erasures.last(archive)
    limits = sharding.Limits(settings.max_images_per_shard, settings.max_shard_bytes, listing.SHARDS_PER_RUN)
    with tempfile.TemporaryDirectory() as scratch:
        chosen = Filter(settings.include, settings.exclude, settings.non_images == "keep")
        planned = partial(listing.freeze, source, archive, run, limits, Path(scratch), again=again, chosen=chosen)
        frozen = planned(allow_shrink=allow_shrink)
        if not (frozen.shards or (allow_shrink and frozen.has_shrunk)):
            return None
        about = escrow.keep(archive, models)
        if settings.quality is None and settings.target_bpp is None:
            settings = replace(settings, quality=about["default_quality"])
        plan = Manifest(
            run=run,
            parent=run - 1 or None,
            source=source.url,
            listing=layout.listing(run, frozen.sha256),
            listing_sha256=frozen.sha256,
            gone=frozen.gone,
            excluded=frozen.excluded,
            erasures=erased,
            truncated=frozen.truncated,
            shards=tuple(frozen.shards),
            settings=settings,
            bundle_id=about["bundle_id"],
        )
        archive.publish(plan.listing, frozen.path)
    if not archive.publish(layout.manifest(run), plan.to_bytes()):
        LOGGER.info("%s: another runner opened run %d first; its plan is taken", archive, run)
    return run


def work_off(archive: Store, plan: Manifest, job: Job, shard_map: ShardMap) -> report.Totals:
    """Encode all shards of a run that are not done, and seal it; returns the run's totals."""
    erasures.refuse_unfinished(archive)
    if archive.sha256(plan.listing) != plan.listing_sha256:
        raise ArchiveError(f"{archive.uri(plan.listing)}: damaged; restore it from a mirror")
    totals = list(shard_map(job, len(plan.shards)))
    seal(archive, plan)
    return report.add(totals)


def seal(archive: Store, plan: Manifest, closed: str = "") -> list[int]:
    """Remove what no part names, then declare a run complete; returns the shards it goes without.

    Raises ArchiveError while a shard is missing, unless `closed` says why the run is to end without it.
    """
    run, parts, tars, missing = plan.run, [], set(), []
    there = archive.children(layout.shards(run))  # what is published from here on is not ours to remove
    for number in range(len(plan.shards)):
        name = layout.part(run, number)
        part = shard.committed(archive, run, number)
        if part is None:
            missing.append(number)
            continue
        data = archive.read(name)
        parts.append({"name": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()})
        tars.add(shard.tar_of(part))
    if missing and not closed:
        where = archive.uri(layout.part(run, missing[0]))
        raise ArchiveError(f"{where}: missing; run {run} cannot be sealed before it is done")
    opened = {"sha256": sha256_of(archive.read(layout.manifest(run)))}
    document: dict[str, Any] = {"format": manifest.FORMAT, "run": run, "manifest": opened, "parts": parts}
    if closed:
        document["closed"] = {"reason": closed, "missing": missing}
    orphans = [name for name in there if f"{layout.shards(run)}/{name}" not in tars]
    if not closed:
        _remove_orphans(archive, plan, orphans)
    if not archive.publish(layout.seal(run), manifest.to_json(document)):
        sealed = manifest.seal(archive, run)
        why = f"closed meanwhile ({sealed['closed']['reason']})" if "closed" in sealed else "sealed with other parts"
        raise ArchiveError(f"{archive.uri(layout.seal(run))}: run {run} was {why}; audit the archive")
    if closed:
        _remove_orphans(archive, plan, orphans)
    return missing


def close_run(archive: Store, run: int, reason: str) -> list[int]:
    """Seal the open run without the shards that are not done, and return those; their pictures return in the next run.

    Raises SettingsError without a reason, ArchiveError when that run is not open.
    """
    if not reason.strip():
        raise SettingsError("a run is closed for a reason: give one, it is kept in the archive")
    started = open_run(archive)
    if run != started:
        state = f"run {started} is" if started is not None else "no run is"
        raise ArchiveError(f"{archive}: run {run} cannot be closed, {state} open")
    return seal(archive, manifest.read(archive, run), reason.strip())


def _remove_orphans(archive: Store, plan: Manifest, tars: list[str]) -> None:
    """Delete what killed and losing runners left: tars that no part names, listings, temporary files, uploads."""
    for tar in tars:
        archive.remove(f"{layout.shards(plan.run)}/{tar}")
    for name in (f"{layout.run(plan.run)}/{name}" for name in archive.children(layout.run(plan.run))):
        if name.endswith(".parquet") and name != plan.listing:
            archive.remove(name)
    for place in (layout.run(plan.run), layout.ESCROW):
        archive.remove_unfinished(place)
        archive.abort_uploads(place)


def _check_resume(
    archive: Store, run: int, started: int | None, source: Source, settings: Settings, models: Models
) -> None:
    if run != started:
        state = f"run {started} is" if started is not None else "no run is"
        raise ArchiveError(f"{archive}: run {run} cannot be resumed, {state} open")
    plan = manifest.read(archive, run)
    if settings.quality is None and settings.target_bpp is None and plan.settings.target_bpp is None:
        settings = replace(settings, quality=plan.settings.quality)
    own, given = dataclasses.asdict(plan.settings), dataclasses.asdict(settings)
    own["source"], given["source"] = plan.source, source.url
    if models.bundle:
        with verifier(models) as child:
            own["bundle"], given["bundle"] = plan.bundle_id, child.greeting()["bundle_id"]
    if other := [f"{name} (given {given[name]}, here {own[name]})" for name in own if own[name] != given[name]]:
        raise SettingsError(
            f"run {run} was opened with other settings: {', '.join(other)}; leave resume out to keep its own"
        )
