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
    # The manifest opened a run; a folder without one is left over from a command that was killed before.
    opened = [run for run in numbers if archive.exists(layout.manifest_of_format_1(run))]
    runs = max(opened, default=0)
    open_manifest = ""
    if runs > 0 and not archive.exists(layout.seal(runs)):
        open_manifest = layout.manifest_of_format_1(runs)
    erasures = max(map(int, _erasures(archive)), default=0)
    tables = _tables(archive, erasures) if runs else []
    return {"runs": runs, "opened": open_manifest, "erasures": erasures, "tables": tables}


def unfinished_erasure(archive: Store) -> str:
    """Returns the name of an unfinished erasure; empty if there is none."""
    there = set(archive.children(FORGET))
    for number in _erasures(archive):
        if f"{number}-done.json" not in there:
            return f"{FORGET}/{number}.json"
    return ""


def erasures(archive: Store) -> list[str]:
    """Returns the names of all erasures, in order."""
    return [f"{FORGET}/{number}.json" for number in _erasures(archive)]


def _erasures(archive: Store) -> list[str]:
    numbers = []
    for name in archive.children(FORGET):
        match = re.fullmatch(r"(\d{6})\.json", name)
        if match:
            numbers.append(match[1])
    return numbers


def _tables(archive: Store, erasures: int) -> list[dict[str, Any]]:
    """Returns the compacted report as one table; none if an erasure followed it or its list is damaged."""
    try:
        document = manifest.from_json(archive.read(CURRENT), archive.uri(CURRENT))
        # Tables of the first releases do not state how many erasures they include.
        if document.get("erasures") not in (None, erasures):
            return []
        return [{"first_run": 1, "last_run": document["runs"], "files": document["files"]}]
    except (NotFoundError, ArchiveError, KeyError, TypeError):
        return []  # parts have the same rows
