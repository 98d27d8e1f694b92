"""Archives of format 1, which have no log: what their objects say, for reading and for `upgrade`."""

import re
from typing import Any

from codec.errors import ArchiveError
from tasks.archive import layout, manifest
from tasks.storage.store import NotFoundError, Store

CURRENT = "tables/CURRENT.json"
"""Said which generation of the compacted report held."""
FORGET = "forget"
"""Held the erasures: <number>.json, -plan.json and -done.json."""


def state(archive: Store) -> dict[str, Any]:
    """The fields of a head: runs, opened, tables and erasures."""
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
    """The name of an erasure that was begun and not carried out, else empty."""
    there = set(archive.children(FORGET))
    return next((f"{FORGET}/{number}.json" for number in _erasures(archive) if f"{number}-done.json" not in there), "")


def erasures(archive: Store) -> list[str]:
    """The names of the erasures that were begun, in their order."""
    return [f"{FORGET}/{number}.json" for number in _erasures(archive)]


def _erasures(archive: Store) -> list[str]:
    found = (re.fullmatch(r"(\d{6})\.json", name) for name in archive.children(FORGET))
    return [match[1] for match in found if match]


def _tables(archive: Store, erasures: int) -> list[dict[str, Any]]:
    """The compacted report as one table, unless an erasure came after it; a damaged list of it is done without."""
    try:
        document = manifest.from_json(archive.read(CURRENT), archive.uri(CURRENT))
        if document.get("erasures") not in (None, erasures):
            return []
        return [{"first_run": 1, "last_run": document["runs"], "files": document["files"]}]
    except (NotFoundError, ArchiveError, KeyError, TypeError):
        return []
