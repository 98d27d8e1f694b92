"""Erasures that were begun: their numbers, and those that are not carried out yet."""

import re

from codec.errors import ArchiveError
from tasks.archive import layout
from tasks.storage.store import Store


def refuse_unfinished(archive: Store) -> None:
    """Raise ArchiveError while a plan is unfinished, since its parts and tars are about to change."""
    if unfinished(archive):
        raise ArchiveError(f"{archive}: an erasure was interrupted; run `forget` without keys to finish it")


def unfinished(archive: Store) -> list[int]:
    """The numbers of the plans that are not carried out yet."""
    there = archive.children(layout.FORGET)
    return [number for number in numbers(archive) if layout.forgotten(number).rpartition("/")[2] not in there]


def numbers(archive: Store) -> list[int]:
    """The numbers of all plans that were published."""
    found = (re.fullmatch(r"(\d{6})\.json", name) for name in archive.children(layout.FORGET))
    return [int(match[1]) for match in found if match]
