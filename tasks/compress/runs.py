"""Creates archives and extends them by numbered runs. Each run is planned, encoded and sealed; only one is open."""

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
"""Calls encode_shard(job, shard) for each shard number below the given one."""


@dataclass(frozen=True)
class Outcome:
    """Result of one call: the runs it finished (none if nothing was new), and their totals."""

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
    """Updates an archive from a source: finishes the open run, then archives new and changed sources.

    An open run keeps its settings and bundle. With `resume`, the number of the open run, only that run is finished, and
    different settings are refused. With `retry_failed`, earlier sources that crashed, were killed, timed out or broke
    the encoder are retried once. With `recheck`, sources of earlier releases are encoded again if this release decides
    otherwise. A source that lists nothing, or less than half of the kept pictures, is refused without `allow_shrink`.
    With `single_writer`, the owner guarantees that there is only one writer, for stores without exclusive creation; the
    archive remembers it. The threads of `models` come from the settings. `shard_map` maps encode_shard over the shards
    of a run (default: sequentially).
    """
    pictures = open_source(source)
    store = Store(archive)
    pictures.check(store)
    if models.bundle and not Path(models.bundle).is_dir():
        raise SettingsError(f"{models.bundle}: no such bundle folder")
    create(store, single_writer=single_writer)
    finished: list[tuple[int, report.Totals]] = []

    def in_order(job: CompressionJob, shards: int) -> Iterable[report.Totals]:
        return (encode_shard(job, number, progress) for number in range(shards))

    def finish(run: int) -> Manifest:
        plan = log.plan(store, log.read(store), run)
        job = CompressionJob(
            store.url, run, models.device, models.backbone, models.codec, models.child_env, store.token
        )
        progress.begin(plan.images)
        totals = work_off(store, plan, job, shard_map or in_order)
        finished.append((run, totals))
        return plan

    started = settled(store).open_run
    if resume is not None:
        _check_resume(store, resume, started, pictures, settings, models)
    if started is not None:
        LOGGER.info("%s: continuing open run %d", archive, started)
        finish(started)
    # Chosen once, from the runs that exist now: the runs opened below must not be encoded again too.
    again = _again(store, retry_failed=retry_failed, recheck=recheck)
    # A run has a limit of shards, so a large source takes several, until a listing fits.
    while resume is None:
        number = plan_run(pictures, store, settings, models, again=again, allow_shrink=allow_shrink)
        if number is None or not finish(number).truncated:
            break
    return Outcome([run for run, _ in finished], report.add([totals for _, totals in finished]))


def _again(archive: Store, *, retry_failed: bool, recheck: bool) -> Again:
    """Selects the rows of existing runs to encode again."""
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
    """Finishes an interrupted erasure, or a seal without a record, and returns the head."""
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
    """Opens the next run for sources that sealed runs do not hold; returns its number, or None if nothing is new.

    If several runners plan at once, the first record wins, and the others adopt its plan. If an erasure begins
    meanwhile, the run is planned again: the plan may name keys to forget.
    """
    while True:
        head = settled(archive)
        if head.open_run is not None:
            LOGGER.info("%s: run %d was opened by another runner; using its plan", archive, head.open_run)
            return head.open_run
        plan = _planned(source, archive, head, settings, models, again=again, allow_shrink=allow_shrink)
        if plan is None:
            return None
        if _opened(archive, head, plan):
            return plan.run


def _opened(archive: Store, head: ArchiveHead, plan: Manifest) -> bool:
    """Tries to put a plan in force; returns whether it did. Gives up if the head it was made from has changed."""
    # Without a record of this run, the log has lost its end. Those parts would count as shards of the new run, which
    # has other sources.
    if archive.children(layout.parts(plan.run)):
        if log.read(archive).runs >= plan.run:  # another runner opened it, and has committed shards already
            return False
        raise ArchiveError(
            f"{archive.uri(layout.run(plan.run))}: has shards, but no record opened this run; {log.REMEDY}"
        )
    data = plan.to_bytes()
    name = layout.manifest(plan.run, sha256_of(data))
    archive.publish(name, data)
    erasures = head.erasures
    # A record that is neither a run nor an erasure, such as a compaction, does not change what the plan is based on.
    while head.runs == plan.run - 1 and head.erasures == erasures:
        if log.append(archive, head, "open", replace(head, runs=plan.run, opened=name), run=plan.run):
            return True
        head = log.read(archive)
    return head.opened == name  # another runner may have opened the same plan


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
    """Plans the next run and publishes its listing; returns None if nothing is new."""
    run = head.runs + 1
    limits = sharding.Limits(settings.max_images_per_shard, settings.max_shard_bytes, listing.SHARDS_PER_RUN)
    with tempfile.TemporaryDirectory() as scratch:
        chosen = Filter(settings.include, settings.exclude, settings.non_images == "keep")
        frozen = listing.freeze(
            source, archive, head, limits, Path(scratch), again=again, chosen=chosen, allow_shrink=allow_shrink
        )
        # A source that has shrunk, with the owner's consent, opens a run even without shards: it records what is gone.
        is_wanted = bool(frozen.shards) or (allow_shrink and frozen.has_shrunk)
        if not is_wanted:
            return None
        about = escrow.keep(archive, models)  # before the run opens: its files must never be without a decoder
        if settings.quality is None and settings.target_bpp is None:
            settings = replace(settings, quality=about["default_quality"])
        plan = Manifest(
            run=run,
            parent=run - 1 if run > 1 else None,
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
    """Encodes all unfinished shards of a run and seals it; returns the run's totals."""
    if archive.sha256(plan.listing) != plan.listing_sha256:
        raise ArchiveError(f"{archive.uri(plan.listing)}: damaged; restore it from a mirror")
    totals = list(shard_map(job, len(plan.shards)))
    seal(archive, plan)
    return report.add(totals)


def seal(archive: Store, plan: Manifest, closed: str = "") -> list[int]:
    """Seals a run; returns its missing shards.

    Raises ArchiveError if a shard is missing, unless `closed` gives the reason to end the run without it.
    """
    run = plan.run
    head = log.read(archive)
    if head.open_run != run:
        return _sealed_by_another(archive, head, plan, closed)
    parts, missing = _committed_parts(archive, plan)
    if missing and not closed:
        # A part may be missing because the run is sealed: an erasure replaces parts once no run is open.
        now = log.read(archive)
        if now.open_run != run:
            return _sealed_by_another(archive, now, plan, closed)
        where = archive.uri(layout.part(run, missing[0]))
        raise ArchiveError(
            f"{where}: missing, so run {run} cannot be sealed; run compress-archive again to encode this shard"
        )
    planned = {"name": head.opened, "sha256": sha256_of(archive.read(head.opened))}
    document: dict[str, Any] = {"format": manifest.FORMAT, "run": run, "manifest": planned, "parts": parts}
    if closed:
        document["closed"] = {"reason": closed, "missing": missing}
    stands = archive.publish(layout.seal(run), manifest.to_json(document))
    head = record_seal(archive, run)
    if head.seal(run) != layout.seal(run):  # another runner sealed the run, and an erasure has replaced that seal since
        archive.remove(layout.seal(run))
        stands = False
    if not stands:
        return _sealed_by_another(archive, head, plan, closed)
    _remove_unfinished(archive, run)
    return missing


def _committed_parts(archive: Store, plan: Manifest) -> tuple[list[dict[str, Any]], list[int]]:
    """Checks a run's parts; returns their entries for the seal, and the numbers of the shards without a part."""
    parts: list[dict[str, Any]] = []
    missing: list[int] = []
    for number in range(len(plan.shards)):
        name = layout.part(plan.run, number)
        try:
            data = archive.read(name)
        except NotFoundError:
            missing.append(number)
            continue
        shard.decoded(archive, name, data)  # a damaged part must not be sealed: its hash would vouch for it
        parts.append({"name": name, "size": len(data), "sha256": sha256_of(data)})
    return parts, missing


def _sealed_by_another(archive: Store, head: ArchiveHead, plan: Manifest, closed: str) -> list[int]:
    """Handles a run that another process has sealed: returns no missing shards, or raises ArchiveError.

    Removes shards that were committed too late: the seal does not list them, or an erasure has replaced them.
    """
    sealed = log.seal(archive, head, plan.run)
    named = [part["name"] for part in sealed["parts"]]
    for number in range(len(plan.shards)):
        name = layout.part(plan.run, number)
        if name in named:
            continue
        late_part = shard.committed(archive, plan.run, number)
        if late_part is not None:
            archive.remove(name)
            tar = tar_of(late_part)
            # The rewritten part of an erasure may still name a tar that had nothing to cut.
            if tar and not erasing.in_force(archive, head, tar):
                archive.remove(tar)
    where = f"{archive.uri(layout.seal(plan.run))}: run {plan.run} was"
    if "closed" in sealed:
        why = sealed["closed"]["reason"]
        raise ArchiveError(f"{where} closed meanwhile ({why}); its remaining pictures are part of the next run")
    if closed:
        raise ArchiveError(f"{where} sealed meanwhile; nothing is missing")
    return []


def record_seal(archive: Store, run: int) -> ArchiveHead:
    """Records the existing seal of a run, and puts its rows into a table; returns the head."""
    while True:
        head = log.read(archive)
        if head.open_run != run:
            return head
        sealed = replace(head, opened="")
        after = replace(sealed, tables=tables.with_run(archive, sealed, run))
        # If another record came first, this does nothing, and the next round computes the tables from the new head.
        tables.retire(archive, head, after, "seal", run=run)


def close_run(archive: Store, run: int, reason: str) -> list[int]:
    """Seals the open run without its unfinished shards, and returns them; the next run takes their pictures.

    Raises SettingsError without a reason, ArchiveError if the run is not open.
    """
    if not reason.strip():
        raise SettingsError("closing a run requires a reason, which the archive records; give one")
    started = settled(archive).open_run
    if run != started:
        state = f"the open run is {started}" if started is not None else "no run is open"
        raise ArchiveError(f"{archive}: run {run} cannot be closed: {state}")
    return seal(archive, log.plan(archive, log.read(archive), run), reason.strip())


def _remove_unfinished(archive: Store, run: int) -> None:
    """Removes temporary files and uploads of killed runners. The audit removes complete objects."""
    for folder in (layout.run(run), layout.ESCROW):
        archive.remove_unfinished(folder)
        archive.abort_uploads(folder)


def _check_resume(
    archive: Store, run: int, started: int | None, source: Source, settings: RunSettings, models: Models
) -> None:
    if run != started:
        state = f"the open run is {started}" if started is not None else "no run is open"
        raise ArchiveError(f"{archive}: run {run} cannot be resumed: {state}")
    plan = log.plan(archive, log.read(archive), run)
    # Without a rate the run got the bundle's default quality, which is what the same settings mean today.
    if settings.quality is None and settings.target_bpp is None and plan.settings.target_bpp is None:
        settings = replace(settings, quality=plan.settings.quality)
    own = dataclasses.asdict(plan.settings)
    given = dataclasses.asdict(settings)
    own["source"] = plan.source
    given["source"] = source.url
    if models.bundle:
        with verifier(models) as child:
            own["bundle"] = plan.bundle_id
            given["bundle"] = child.greeting()["bundle_id"]
    other = [f"{name} (given {given[name]}, run has {own[name]})" for name in own if own[name] != given[name]]
    if other:
        raise SettingsError(
            f"run {run} was opened with other settings: {', '.join(other)}; omit resume to use those of the run"
        )
