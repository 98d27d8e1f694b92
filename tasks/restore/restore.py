"""Restores all pictures of an archive, or some keys, as PNG or as their original bytes if those were kept."""

import collections
import dataclasses
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from codec.containers.writing import EXTENSIONS, parse_kind
from codec.errors import ArchiveError, SettingsError
from tasks.archive.decoders import Decoders
from tasks.archive.index_files import REMEDY
from tasks.archive.opening import existing
from tasks.processes.codec_process import Models, worker
from tasks.progress import SILENT, Progress
from tasks.restore import selection
from tasks.restore.bag import Bag
from tasks.restore.stored_file import FILM, StoredFile, copy_member, decoded, is_large, playable, read_member
from tasks.storage.store import NotFoundError, Store

Read = TypeVar("Read")


@dataclass(frozen=True)
class RestoreJob:
    """The selected members of one tar, all of one bundle, whose path is not yet set in `models`."""

    archive: str
    target: str
    members: tuple[StoredFile, ...]
    models: Models
    kind: str | None = None
    as_of: int | None = None


@dataclass(frozen=True)
class Failure:
    """A picture that could not be restored, with its location and the error."""

    key: str
    tar: str
    error: str


@dataclass(frozen=True)
class Restored:
    """The number of written pictures, the failures, and the parts left out.

    `left_behind` counts pictures by the parts that the requested file format cannot contain.
    """

    images: int = 0
    failures: list[Failure] = field(default_factory=list)
    left_behind: dict[str, int] = field(default_factory=dict)

    @property
    def errors(self) -> list[str]:
        """Returns one line for each failure."""
        return [f"{failure.key}: {failure.error}" for failure in self.failures]


JobMap = Callable[[Iterable[RestoreJob]], Iterable[Restored]]


def restore(
    archive: str,
    target: str,
    keys: Sequence[str] | None = None,
    *,
    as_of: int | None = None,
    as_of_source: int | None = None,
    kind: str | None = None,
    groups: bool = False,
    bagit: bool = False,
    models: Models = Models(""),  # noqa: B008  # frozen
    job_map: JobMap | None = None,
    progress: Progress = SILENT,
) -> Restored:
    """Writes the last kept version of all keys, or of the given keys, to a folder or URL; replaces existing files.

    `as_of` ignores runs after that run. `as_of_source` restores the source as that run listed it, without sources gone
    by then. `kind` is the format for .fdc files, such as png or jpeg:90; files kept whole are restored unchanged. With
    `groups`, pictures and their companions keep a common stem. With `bagit`, the target becomes a bag (RFC 8493) of the
    runs complete at its start: see tasks.restore.bag. Files in a local folder get the modification times of their
    sources. A damaged part of the report is a failure that affects only its own pictures. Bundles are the archive's own
    copies; `models` sets the rest. Raises ArchiveError, before anything is written, if there is no archive, no such
    run, or no picture for a key.
    """
    if as_of is not None and as_of_source is not None:
        raise SettingsError("as_of and as_of_source are mutually exclusive; set only one")
    store = existing(archive)
    extension = _extension(kind)
    as_listed = as_of_source is not None
    if as_listed:
        as_of = as_of_source
    bag: Bag | None = None
    if bagit:
        bag = Bag(store, target, keys, as_of=as_of, as_listed=as_listed, kind=kind, groups=groups)
        as_of = bag.as_of
    damaged: list[str] = []
    with selection.choose(store, keys, as_of, damaged, as_listed=as_listed) as chosen:
        if not damaged:  # else a key may be in a damaged part
            selection.refuse_missing(store, chosen, keys)
        [(pictures,)] = chosen.execute("SELECT count(*) FROM chosen").fetchall()
        progress.begin(pictures)
        if bag is not None:
            bag.begin()
        location = Store(target).url
        if bag is not None:
            location = bag.data

        def jobs() -> Iterator[RestoreJob]:
            for members in selection.by_tar(chosen, extension, groups=groups):
                if bag is not None:
                    members = bag.members(members)
                yield RestoreJob(store.url, location, members, models, kind, as_of)

        if job_map is None:
            done = [restore_members(job, progress) for job in jobs()]
        else:
            done = list(job_map(jobs()))
    restored = _total(done)
    for name in damaged:
        error = f"{name}: damaged, so its pictures are unknown; {REMEDY}"
        restored.failures.append(Failure("?", store.uri(name), error))
    if bag is not None:
        bag.finish(restored.errors)
    return restored


def _total(done: Sequence[Restored]) -> Restored:
    images = 0
    failures: list[Failure] = []
    left_behind: collections.Counter[str] = collections.Counter()
    for part in done:
        images += part.images
        failures += part.failures
        left_behind.update(part.left_behind)
    return Restored(images, failures, dict(sorted(left_behind.items())))


def _copy(archive: Store, member: StoredFile, target: Store) -> None:
    """Restores a file that does not fit into memory."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "member"
        copy_member(archive, member, path)
        target.replace(member.target, path)


def _extension(kind: str | None) -> str:
    file_format, _quality = parse_kind(kind or "png")
    return EXTENSIONS[file_format]


def _set_time(target: Store, member: StoredFile) -> None:
    """Sets the modification time of a restored file to that of its source, if the file is local and the time known."""
    if target.folder is not None and member.source_modified_at is not None:
        times = (member.source_modified_at, member.source_modified_at)
        os.utime(target.folder / member.target, ns=times)


def restore_members(job: RestoreJob, progress: Progress = SILENT) -> Restored:
    """Restores the members of one tar; a damaged member is a failure and does not stop the others."""
    archive = Store(job.archive)
    target = Store(job.target)
    failures: list[Failure] = []
    left_behind: collections.Counter[str] = collections.Counter()
    pictures = 0
    with Decoders(archive, job.models, worker) as decoders:
        for member in job.members:
            count = 0 if member.source_format == FILM else 1  # a video counts with its picture
            try:
                left_behind.update(_write(archive, target, member, job, decoders))
                pictures += count
            except ArchiveError as error:
                failures.append(Failure(member.key, archive.uri(member.tar), str(error)))
            finally:
                progress.advance(count)
    return Restored(pictures, failures, dict(left_behind))


def _write(archive: Store, target: Store, member: StoredFile, job: RestoreJob, decoders: Decoders) -> list[str]:
    """Restores one member; returns the parts that the file format cannot contain. Raises ArchiveError."""
    without: list[str] = []
    if is_large(member):
        _read(archive, member, job.as_of, partial(_copy, archive, target=target))
        _set_time(target, member)
        return without
    data = _read(archive, member, job.as_of, partial(read_member, archive))
    if member.source_format == FILM:
        data = playable(data)
    elif member.codec != "original":
        data, without = decoded(decoders.get(member.bundle_id), member, data, job.kind)
        if member.film and selection.rejoined(_extension(job.kind), member.source_format):
            data += _read(archive, member.film, job.as_of, partial(read_member, archive))
    target.replace(member.target, data)
    _set_time(target, member)
    return without


def _read(archive: Store, member: StoredFile, as_of: int | None, read: Callable[[StoredFile], Read]) -> Read:
    """Calls a function that reads a member; retries with the new tar if an erasure replaced its tar meanwhile."""
    try:
        return read(member)
    except NotFoundError:
        found = selection.find(archive, [member.key], as_of)
        wants_film = member.source_format == FILM
        for now in found:  # a picture and its video have one key
            is_film = now.source_format == FILM
            if is_film == wants_film and now.tar != member.tar:
                # under the name chosen before, which took all other keys into account
                return read(dataclasses.replace(now, target=member.target))
        raise
