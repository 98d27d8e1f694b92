"""Erasures that were begun: their numbers, those that are not carried out yet, and what they erase."""

import re
from contextlib import suppress

from codec.errors import ArchiveError
from tasks.archive import layout, manifest
from tasks.storage.store import NotFoundError, Store


def refuse_unfinished(archive: Store) -> None:
    """Raise ArchiveError while a plan is unfinished, since its parts and tars are about to change."""
    if unfinished(archive):
        raise ArchiveError(f"{archive}: an erasure was interrupted; run `forget` without keys to finish it")


def unfinished(archive: Store) -> list[int]:
    """The numbers of the plans that are not carried out yet."""
    there = archive.children(layout.FORGET)
    return [number for number in numbers(archive) if layout.forgotten(number).rpartition("/")[2] not in there]


def keys(archive: Store, after: int = 0) -> set[str]:
    """The keys that erasures with a higher number erase."""
    found: set[str] = set()
    for number in numbers(archive):
        if number > after:
            name = layout.forgetting(number)
            with suppress(NotFoundError):  # taken back meanwhile
                found |= set(manifest.from_json(archive.read(name), archive.uri(name))["keys"])
    return found


def last(archive: Store) -> int:
    """The highest number, 0 where nothing was ever erased."""
    return max(numbers(archive), default=0)


def numbers(archive: Store) -> list[int]:
    """The numbers of all plans that were published."""
    found = (re.fullmatch(r"(\d{6})\.json", name) for name in archive.children(layout.FORGET))
    return [int(match[1]) for match in found if match]
