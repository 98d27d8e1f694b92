"""Pictures out of an archive again: all of them or some keys, as PNG, or as their own bytes where those were kept."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from codec.errors import ArchiveError
from tasks import escrow, names, report
from tasks.archive import existing
from tasks.channel import Child, ChildDied
from tasks.models import Models, worker
from tasks.progress import SILENT, Progress
from tasks.storage import Store

SECONDS = 1800.0

_LAST_KEPT = """
    SELECT key, tar, "offset", length, sha256, codec, width, height, bundle_id
    FROM rows WHERE tar IS NOT NULL {chosen}
    QUALIFY row_number() OVER (PARTITION BY key ORDER BY run DESC) = 1
    ORDER BY bundle_id, tar, "offset", key
"""


@dataclass(frozen=True)
class Member:
    """A stored file and the name, relative to the target, that its picture gets."""

    key: str
    target: str
    tar: str
    offset: int
    length: int
    sha256: str
    codec: str
    width: int
    height: int


@dataclass(frozen=True)
class Job:
    """The wanted members of one tar, all written with one bundle, whose path `models` still lacks."""

    archive: str
    target: str
    bundle_id: str
    members: tuple[Member, ...]
    models: Models


@dataclass(frozen=True)
class Restored:
    """How many pictures were written, and one line for each that could not be."""

    images: int = 0
    errors: list[str] = field(default_factory=list)


JobMap = Callable[[Sequence[Job]], Iterable[Restored]]


def restore(
    archive: str,
    target: str,
    keys: Sequence[str] | None = None,
    *,
    models: Models = Models(""),  # noqa: B008  # frozen
    job_map: JobMap | None = None,
    progress: Progress = SILENT,
) -> Restored:
    """Write the last kept version of all keys, or of those given, into a folder or URL; existing files are replaced.

    Bundles are the archive's own copies; `models` says the rest. Raises ArchiveError, before anything is written, for a
    place without an archive or a key without a picture.
    """
    store = existing(archive)
    jobs = plan(store, Store(target), keys, models)
    progress.begin(sum(len(job.members) for job in jobs))
    done = list((job_map or (lambda jobs: (restore_members(job, progress) for job in jobs)))(jobs))
    return Restored(sum(part.images for part in done), [error for part in done for error in part.errors])


def plan(archive: Store, target: Store, keys: Sequence[str] | None, models: Models) -> list[Job]:
    """The jobs that restore the keys, one a tar."""
    found = _last_kept(archive, keys)
    missing = sorted(set(keys or ()) - {row["key"] for row in found})
    if missing:
        more = f", nor under {len(missing) - 1} others given" if len(missing) > 1 else ""
        raise ArchiveError(f"{archive}: holds no picture under the key {missing[0]!r}{more}; query the report for keys")
    targets = _targets(found)
    grouped: dict[tuple[str, str], list[Member]] = {}
    for row in found:
        place = (row.pop("bundle_id"), row["tar"])
        grouped.setdefault(place, []).append(Member(target=targets[row["key"]], **row))
    return [
        Job(archive.url, target.url, bundle_id, tuple(members), models) for (bundle_id, _), members in grouped.items()
    ]


def _last_kept(archive: Store, keys: Sequence[str] | None) -> list[dict[str, Any]]:
    sql = _LAST_KEPT.format(chosen="" if keys is None else "AND list_contains($keys, key)")
    with report.database(rows=report.rows(archive)) as connection:
        found = connection.sql(sql, params={} if keys is None else {"keys": list(keys)})
        return list(found.to_arrow_table().to_pylist())


def _targets(rows: list[dict[str, Any]]) -> dict[str, str]:
    """A name of its own for each key: `a.jpg` becomes `a.jpg.png`, and makes way for a key of that very name."""
    taken: dict[str, str] = {}
    originals_first = sorted(rows, key=lambda row: (row["codec"] != "original", row["key"]))
    for row in originals_first:
        name = names.restored(row["key"], None if row["codec"] == "original" else "png")
        while name in taken:
            name += ".png"
        taken[name] = row["key"]
    return {key: name for name, key in taken.items()}


def restore_members(job: Job, progress: Progress = SILENT) -> Restored:
    """Restore the members of one tar; a damaged one is an error line and does not stop the others."""
    archive, target = Store(job.archive), Store(job.target)
    errors: list[str] = []
    with ExitStack() as stack:
        decoder: Child | None = None
        for member in job.members:
            try:
                data = read_member(archive, member)
                if member.codec == "fdc":
                    if decoder is None:
                        bundle = stack.enter_context(escrow.bundle(archive, job.bundle_id))
                        decoder = stack.enter_context(worker(replace(job.models, bundle=bundle)))
                    data = _decoded(decoder, member, data)
                target.replace(member.target, data)
            except ArchiveError as error:
                errors.append(f"{member.key}: {error}")
            progress.advance(1)
    return Restored(len(job.members) - len(errors), errors)


def read_member(archive: Store, member: Member) -> bytes:
    """A stored file by one range request, checked against its hash; raises ArchiveError."""
    data = archive.read_range(member.tar, member.offset, member.length)
    if hashlib.sha256(data).hexdigest() != member.sha256:
        raise ArchiveError(f"{archive.uri(member.tar)}: damaged at byte {member.offset}; restore it from a mirror")
    return data


def _decoded(decoder: Child, member: Member, data: bytes) -> bytes:
    try:
        answer, png = decoder.ask({"do": "decode"}, data, seconds=SECONDS)
    except ChildDied as death:
        raise ArchiveError(f"cannot be decoded: {death}") from death
    if "failed" in answer:
        raise ArchiveError(f"cannot be decoded: {answer['error']}")
    if (answer["width"], answer["height"]) != (member.width, member.height):
        raise ArchiveError(f"decodes to {answer['width']}x{answer['height']}, not {member.width}x{member.height}")
    return png
