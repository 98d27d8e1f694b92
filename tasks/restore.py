"""Pictures out of an archive again: all of them or some keys, as PNG, or as their own bytes where those were kept."""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import duckdb

from codec.errors import ArchiveError
from tasks import names, report
from tasks.archive import existing
from tasks.channel import Child, ChildDied
from tasks.decoders import Decoders
from tasks.models import Models, worker
from tasks.progress import SILENT, Progress
from tasks.storage import Store

SECONDS = 1800.0
BATCH = 10_000
LAST_RUN = 2**31 - 1
JPEGS = ("JPEG", "MPO")

_CHOSEN = """
    CREATE TEMP TABLE chosen AS
    SELECT key, tar, "offset", length, sha256, codec, source_format, width, height, bundle_id
    FROM rows WHERE tar IS NOT NULL AND run <= $as_of AND ($keys IS NULL OR list_contains($keys, key))
    QUALIFY row_number() OVER (PARTITION BY key ORDER BY run DESC) = 1
"""
_MAY_SHARE_A_NAME = r"""
    SELECT key, codec, source_format FROM chosen
    QUALIFY count(*) OVER (PARTITION BY regexp_replace(lower(key), '(\.png)+$', '')) > 1
            OR regexp_matches(key, '%|\x00|(^|/)\.{0,2}(/|$)')
"""
_BY_TAR = 'SELECT * FROM chosen ORDER BY bundle_id, tar, "offset", key'


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
    source_format: str | None
    width: int | None
    height: int | None
    bundle_id: str


@dataclass(frozen=True)
class Job:
    """The wanted members of one tar, all written with one bundle, whose path `models` still lacks."""

    archive: str
    target: str
    members: tuple[Member, ...]
    models: Models


@dataclass(frozen=True)
class Restored:
    """How many pictures were written, and one line for each that could not be."""

    images: int = 0
    errors: list[str] = field(default_factory=list)


JobMap = Callable[[Iterable[Job]], Iterable[Restored]]


def restore(
    archive: str,
    target: str,
    keys: Sequence[str] | None = None,
    *,
    as_of: int | None = None,
    models: Models = Models(""),  # noqa: B008  # frozen
    job_map: JobMap | None = None,
    progress: Progress = SILENT,
) -> Restored:
    """Write the last kept version of all keys, or of those given, into a folder or URL; existing files are replaced.

    `as_of` a run leaves out what later runs kept. Bundles are the archive's own copies; `models` says the rest. Raises
    ArchiveError, before anything is written, for a place without an archive, a run that is not there, or a key without
    a picture.
    """
    store = existing(archive)
    with _chosen(store, keys, as_of) as chosen:
        _refuse_missing(store, chosen, keys)
        progress.begin(chosen.execute("SELECT count(*) FROM chosen").fetchall()[0][0])
        jobs = _jobs(store, Store(target), chosen, models)
        done = list((job_map or (lambda jobs: (restore_members(job, progress) for job in jobs)))(jobs))
    return Restored(sum(part.images for part in done), [error for part in done for error in part.errors])


def find(archive: Store, keys: Sequence[str], as_of: int | None = None) -> list[Member]:
    """The members that hold the last kept version of some keys, those that are none left out, and their targets."""
    with _chosen(archive, keys, as_of) as chosen:
        return [member for members in _by_tar(chosen) for member in members]


@contextmanager
def _chosen(archive: Store, keys: Sequence[str] | None, as_of: int | None) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database with the table `chosen`: where the wanted version of each wanted key lies."""
    if as_of is not None and not archive.exists(names.manifest(as_of)):
        raise ArchiveError(f"{archive}: holds no run {as_of}; status names its runs")
    rows = report.rows(archive) if keys is None else report.lookup(archive, keys)
    parameters = {"as_of": LAST_RUN if as_of is None else as_of, "keys": keys if keys is None else list(keys)}
    with report.database(rows=rows) as connection:
        connection.execute(_CHOSEN, parameters)
        yield connection


def _refuse_missing(archive: Store, chosen: duckdb.DuckDBPyConnection, keys: Sequence[str] | None) -> None:
    if keys is None:
        return
    found = {key for (key,) in chosen.execute("SELECT key FROM chosen").fetchall()}
    if missing := sorted(set(keys) - found):
        more = f", nor under {len(missing) - 1} others given" if len(missing) > 1 else ""
        raise ArchiveError(f"{archive}: holds no picture under the key {missing[0]!r}{more}; query the report for keys")


def _jobs(archive: Store, target: Store, chosen: duckdb.DuckDBPyConnection, models: Models) -> Iterator[Job]:
    """The jobs that restore what was chosen, one a tar."""
    for members in _by_tar(chosen):
        yield Job(archive.url, target.url, members, models)


def _by_tar(chosen: duckdb.DuckDBPyConnection) -> Iterator[tuple[Member, ...]]:
    targets = _targets(chosen.sql(_MAY_SHARE_A_NAME).to_arrow_table().to_pylist())
    rows = (row for batch in chosen.sql(_BY_TAR).to_arrow_reader(BATCH) for row in batch.to_pylist())
    for _, group in itertools.groupby(rows, key=lambda row: (row["bundle_id"], row["tar"])):
        yield tuple(Member(target=targets.get(row["key"]) or _target(row), **row) for row in group)


def _target(row: dict[str, Any]) -> str:
    return names.restored(row["key"], None if _as_it_was(row["codec"], row["source_format"]) else "png")


def _as_it_was(codec: str, source_format: str | None) -> bool:
    """Whether the source's own bytes come back: kept as they were, or what a lossless transcode of a JPEG gives."""
    return codec == "original" or (codec == "jxl" and source_format in JPEGS)


def _targets(rows: list[dict[str, Any]]) -> dict[str, str]:
    """A name of its own for each key: `a.jpg` becomes `a.jpg.png`, and makes way for a key of that very name."""
    taken: dict[str, str] = {}
    originals_first = sorted(rows, key=lambda row: (not _as_it_was(row["codec"], row["source_format"]), row["key"]))
    for row in originals_first:
        name = _target(row)
        while name in taken:
            name += ".png"
        taken[name] = row["key"]
    return {key: name for name, key in taken.items()}


def restore_members(job: Job, progress: Progress = SILENT) -> Restored:
    """Restore the members of one tar; a damaged one is an error line and does not stop the others."""
    archive, target = Store(job.archive), Store(job.target)
    errors: list[str] = []
    with Decoders(archive, job.models, worker) as decoders:
        for member in job.members:
            try:
                data = read_member(archive, member)
                if member.codec != "original":
                    data = decoded(decoders.get(member.bundle_id), member, data)
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


def decoded(decoder: Child, member: Member, data: bytes) -> bytes:
    """The file that a member's bytes decode to, of the size that was encoded; raises ArchiveError."""
    try:
        answer, png = decoder.ask({"do": "decode"}, data, seconds=SECONDS)
    except ChildDied as death:
        raise ArchiveError(f"cannot be decoded: {death}") from death
    if "failed" in answer:
        raise ArchiveError(f"cannot be decoded: {answer['error']}")
    if (answer["width"], answer["height"]) != (member.width, member.height):
        raise ArchiveError(f"decodes to {answer['width']}x{answer['height']}, not {member.width}x{member.height}")
    return png
