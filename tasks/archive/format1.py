"""Archives of format 1, which have no log: reads their state from their objects, for readers and for `upgrade`."""

import re
from typing import Any

from codec.errors import ArchiveError
from tasks.archive import layout, manifest
from tasks.storage.store import NotFoundError, Store

CURRENT = "tables/CURRENT.json"
"""Names the valid generation of the compacted report."""
FORGET = "forget"
"""Folder of the erasures: <number>.json, -plan.json and -done.json."""


def state(archive: Store) -> dict[str, Any]:
    """Returns the fields of a head: runs, opened, tables and erasures."""
    numbers = [int(name) for name in archive.children(layout.RUNS) if name.isdecimal()]
    runs = max((run for run in numbers if archive.exists(layout.manifest_of_format_1(run))), default=0)
    is_open = runs > 0 and not archive.exists(layout.seal(runs))
    erasures = max(map(int, _erasures(archive)), default=0)
    return {
        "runs": runs,
        "opened": layout.manifest_of_format_1(runs) if is_open else "",
        "erasures": erasures,
        "tables": _tables(archive, erasures) if runs else [],
    }


def unfinished_erasure(archive: Store) -> str:
    """Returns the name of an unfinished erasure; empty if there is none."""
    there = set(archive.children(FORGET))
    return next((f"{FORGET}/{number}.json" for number in _erasures(archive) if f"{number}-done.json" not in there), "")


def erasures(archive: Store) -> list[str]:
    """Returns the names of all erasures, in order."""
    return [f"{FORGET}/{number}.json" for number in _erasures(archive)]


def _erasures(archive: Store) -> list[str]:
    found = (re.fullmatch(r"(\d{6})\.json", name) for name in archive.children(FORGET))
    return [match[1] for match in found if match]


def _tables(archive: Store, erasures: int) -> list[dict[str, Any]]:
    """Returns the compacted report as one table; none if an erasure followed it or its list is damaged."""
    try:
        document = manifest.from_json(archive.read(CURRENT), archive.uri(CURRENT))
        if document.get("erasures") not in (None, erasures):
            return []
        return [{"first_run": 1, "last_run": document["runs"], "files": document["files"]}]
    except (NotFoundError, ArchiveError, KeyError, TypeError):
        return []
