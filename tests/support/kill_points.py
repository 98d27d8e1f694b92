"""Points of the protocol at which a process ends itself by SIGKILL."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks.archive import layout
from tasks.archive.tar import Tar
from tasks.storage.store import Store

POINTS = {
    "planning, before the archive is described": ("before", "archive.json"),
    "planning, half of a bundle's file copied": ("linking", "salt"),
    "planning, half of the escrow copied": ("after", "CARD.md"),
    "planning, listing published": ("after", "listing-"),
    "planning, manifest written but not linked": ("linking", "manifest-"),
    "planning, manifest published but not in force": ("after", "manifest-"),
    "planning, the run is open": ("after", layout.record(2)),
    "encoding, the tar half spooled": ("spooling", ""),
    "committing, tar written but not linked": ("linking", "000000-"),
    "committing, tar published without its part": ("after", ".tar"),
    "committing, part written but not linked": ("linking", "part-000000"),
    "committing, first part published, nobody told": ("after", "part-000000"),
    "committing, last part published": ("after", "part-000001"),
    "sealing, seal written but not linked": ("linking", "complete.json"),
    "sealing, seal published": ("after", "complete.json"),
    "sealing, half of its table published": ("after", "rows-000000"),
    "sealing, the seal is on record": ("after", layout.record(3)),
}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(when: str, pattern: str) -> None:
    """Make the process end at the first event that fits."""
    publish = Store.publish
    link = Path.hardlink_to
    add = Tar.add

    def published(self: Store, name: str, content: bytes | Path) -> bool:
        if when == "before" and pattern in name:
            die()
        stands = publish(self, name, content)
        if when == "after" and pattern in name:
            die()
        return stands

    def linked(self: Path, target: Any) -> None:
        if when == "linking" and pattern in self.name:
            die()
        link(self, target)

    def added(self: Tar, name: str, data: bytes) -> int:
        # The second member: half of the tar is in the spool.
        if when == "spooling" and name.startswith("000001"):
            die()
        return add(self, name, data)

    # Store.publish names the event, but a local file is complete under a temporary name before hardlink_to commits it.
    changes: list[tuple[Any, str, Callable[..., Any]]] = [
        (Store, "publish", published),
        (Path, "hardlink_to", linked),
        (Tar, "add", added),
    ]
    for owner, name, function in changes:
        setattr(owner, name, function)
