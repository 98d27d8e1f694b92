"""Archives: created, grown by numbered runs, one open at a time, each planned once, worked off and sealed."""

import dataclasses
import importlib.metadata
import logging
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from codec.errors import ArchiveError, SettingsError
from tasks.archive import erasing, escrow, layout, log, manifest, report, tables
from tasks.archive.erasing import tar_of
from tasks.archive.log import ArchiveHead
from tasks.archive.manifest import Manifest, RunSettings
from tasks.archive.opening import create
from tasks.compress import listing, shard
from tasks.compress.listing import NOTHING, Again
from tasks.compress.shard import CompressionJob, encode_shard
from tasks.processes.codec_process import Models, verifier
from tasks.progress import SILENT, Progress
from tasks.sources import sharding
from tasks.sources.filters import Filter
from tasks.sources.source import Source, open_source
from tasks.storage.store import NotFoundError, Store, sha256_of

LOGGER = logging.getLogger(__name__)
ShardMap = Callable[[CompressionJob, int], Iterable[report.Totals]]
"""Calls encode_shard(job, shard) for every shard below the number."""


@dataclass(frozen=True)
class Outcome:
    """What one call did: the runs it finished, none when nothing was new, and their totals."""

    runs: list[int] = field(default_factory=list)
    totals: report.Totals = field(default_factory=lambda: report.add([]))


def compress(
    source: str,
    archive: str,
    settings: RunSettings = RunSettings(),  # noqa: B008  # frozen
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

    def in_order(job: CompressionJob, shards: int) -> Iterable[report.Totals]:
        return (encode_shard(job, number, progress) for number in range(shards))

    def finish(run: int) -> Manifest:
        plan = log.plan(store, log.read(store), run)
        job = CompressionJob(
            store.url, run, models.device, models.backbone, models.codec, models.child_env, store.token
        )
        progress.begin(plan.images)
        finished.append((run, work_off(store, plan, job, shard_map or in_order)))
        return plan

    finished: list[tuple[int, report.Totals]] = []
    started = settled(store).open_run
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
    if not (retry_failed or recheck):
        return NOTHING
    head = log.read(archive)
    runs = range(1, head.runs + 1)
    if not recheck:
        return Again(tuple(runs))
    own = importlib.metadata.version("fdcodec")
    older = [run for run in runs if log.plan(archive, head, run).package_version != own]
    return Again(tuple(older), every_row=True)


def settled(archive: Store) -> ArchiveHead:
    """The head, after what others began and did not end is ended: an erasure, or a seal that is not on record."""
    head = erasing.finish(archive)
    if head.open_run is not None and archive.exists(layout.seal(head.open_run)):
        head = record_seal(archive, head.open_run)
    return head


def plan_run(
    source: Source,
    archive: Store,
    settings: RunSettings,
    models: Models,
    *,
    again: Again = NOTHING,
    allow_shrink: bool = False,
) -> int | None:
    """Open the next run, for what the sealed ones do not hold, and return its number; None when that is nothing.

    Of several runners that plan at once, the one whose record comes first wins; the others adopt its plan. A plan that
    an erasure overtook is made anew: it may name what is to be forgotten.
    """
    while True:
        head = settled(archive)
        if head.open_run is not None:
            LOGGER.info("%s: run %d was opened by another runner; its plan is taken", archive, head.open_run)
            return head.open_run
        plan = _planned(source, archive, head, settings, models, again=again, allow_shrink=allow_shrink)
        if plan is None:
            return None
        if _opened(archive, head, plan):
            return plan.run


def _opened(archive: Store, head: ArchiveHead, plan: Manifest) -> bool:
    """Whether a plan was put in force: as long as what it was made from stands."""
    if archive.children(layout.parts(plan.run)):
        if log.read(archive).runs >= plan.run:
            return False
        raise ArchiveError(
            f"{archive.uri(layout.run(plan.run))}: has shards, but no record opens this run; {log.REMEDY}"
        )
    data = plan.to_bytes()
    name = layout.manifest(plan.run, sha256_of(data))
    archive.publish(name, data)
    erasures = head.erasures
    while head.runs == plan.run - 1 and head.erasures == erasures:
        if log.append(archive, head, "open", replace(head, runs=plan.run, opened=name), run=plan.run):
            return True
        head = log.read(archive)
    return head.opened == name


def _planned(
    source: Source,
    archive: Store,
    head: ArchiveHead,
    settings: RunSettings,
    models: Models,
    *,
    again: Again,
    allow_shrink: bool,
) -> Manifest | None:
    """The plan of the next run, its listing published; None when nothing is new."""
    run = head.runs + 1
    limits = sharding.Limits(settings.max_images_per_shard, settings.max_shard_bytes, listing.SHARDS_PER_RUN)
    with tempfile.TemporaryDirectory() as scratch:
        chosen = Filter(settings.include, settings.exclude, settings.non_images == "keep")
        frozen = listing.freeze(
            source, archive, head, limits, Path(scratch), again=again, chosen=chosen, allow_shrink=allow_shrink
        )
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
            truncated=frozen.truncated,
            shards=tuple(frozen.shards),
            settings=settings,
            bundle_id=about["bundle_id"],
        )
        archive.publish(plan.listing, frozen.path)
    return plan


def work_off(archive: Store, plan: Manifest, job: CompressionJob, shard_map: ShardMap) -> report.Totals:
    """Encode all shards of a run that are not done, and seal it; returns the run's totals."""
    if archive.sha256(plan.listing) != plan.listing_sha256:
        raise ArchiveError(f"{archive.uri(plan.listing)}: damaged; restore it from a mirror")
    totals = list(shard_map(job, len(plan.shards)))
    seal(archive, plan)
    return report.add(totals)


def seal(archive: Store, plan: Manifest, closed: str = "") -> list[int]:
    """Declare a run complete; returns the shards it goes without.

    Raises ArchiveError while a shard is missing, unless `closed` says why the run is to end without it.
    """
    run, head = plan.run, log.read(archive)
    if head.open_run != run:
        return _sealed_by_another(archive, head, plan, closed)
    parts, missing = list[dict[str, Any]](), list[int]()
    for number in range(len(plan.shards)):
        name = layout.part(run, number)
        try:
            data = archive.read(name)
        except NotFoundError:
            missing.append(number)
            continue
        shard.decoded(archive, name, data)
        parts.append({"name": name, "size": len(data), "sha256": sha256_of(data)})
    if missing and not closed:
        if (now := log.read(archive)).open_run != run:
            return _sealed_by_another(archive, now, plan, closed)
        where = archive.uri(layout.part(run, missing[0]))
        raise ArchiveError(f"{where}: missing; run {run} cannot be sealed before it is done")
    planned = {"name": head.opened, "sha256": sha256_of(archive.read(head.opened))}
    document: dict[str, Any] = {"format": manifest.FORMAT, "run": run, "manifest": planned, "parts": parts}
    if closed:
        document["closed"] = {"reason": closed, "missing": missing}
    stands = archive.publish(layout.seal(run), manifest.to_json(document))
    head = record_seal(archive, run)
    if head.seal(run) != layout.seal(run):  # another runner sealed it, and an erasure has replaced that seal since
        archive.remove(layout.seal(run))
        stands = False
    if not stands:
        return _sealed_by_another(archive, head, plan, closed)
    _remove_unfinished(archive, run)
    return missing


def _sealed_by_another(archive: Store, head: ArchiveHead, plan: Manifest, closed: str) -> list[int]:
    """What sealing means for whoever comes late: nothing is missing, or a line that says what the run became.

    Removes what was committed too late: the seal goes without it, or an erasure has replaced it.
    """
    sealed = log.seal(archive, head, plan.run)
    named = [part["name"] for part in sealed["parts"]]
    for number in range(len(plan.shards)):
        name = layout.part(plan.run, number)
        if name not in named and (part := shard.committed(archive, plan.run, number)) is not None:
            archive.remove(name)
            if (tar := tar_of(part)) and not erasing.in_force(archive, head, tar):
                archive.remove(tar)
    where = f"{archive.uri(layout.seal(plan.run))}: run {plan.run} was"
    if "closed" in sealed:
        why = sealed["closed"]["reason"]
        raise ArchiveError(f"{where} closed meanwhile ({why}); its pictures return in the next")
    if closed:
        raise ArchiveError(f"{where} sealed meanwhile; nothing is missing")
    return []


def record_seal(archive: Store, run: int) -> ArchiveHead:
    """Put the seal of a run, which stands, in force, its rows in a table; returns the head."""
    while (head := log.read(archive)).open_run == run:
        sealed = replace(head, opened="")
        after = replace(sealed, tables=tables.with_run(archive, sealed, run))
        tables.retire(archive, head, after, "seal", run=run)
    return head


def close_run(archive: Store, run: int, reason: str) -> list[int]:
    """Seal the open run without the shards that are not done, and return those; their pictures return in the next run.

    Raises SettingsError without a reason, ArchiveError when that run is not open.
    """
    if not reason.strip():
        raise SettingsError("a run is closed for a reason: give one, it is kept in the archive")
    started = settled(archive).open_run
    if run != started:
        state = f"run {started} is" if started is not None else "no run is"
        raise ArchiveError(f"{archive}: run {run} cannot be closed, {state} open")
    return seal(archive, log.plan(archive, log.read(archive), run), reason.strip())


def _remove_unfinished(archive: Store, run: int) -> None:
    """Delete the temporary files and uploads that killed runners left. Whole objects are the audit's to sweep."""
    for folder in (layout.run(run), layout.ESCROW):
        archive.remove_unfinished(folder)
        archive.abort_uploads(folder)


def _check_resume(
    archive: Store, run: int, started: int | None, source: Source, settings: RunSettings, models: Models
) -> None:
    if run != started:
        state = f"run {started} is" if started is not None else "no run is"
        raise ArchiveError(f"{archive}: run {run} cannot be resumed, {state} open")
    plan = log.plan(archive, log.read(archive), run)
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
