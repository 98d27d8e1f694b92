"""Points of the protocol at which a process ends itself by SIGKILL."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks.archive.tar import Tar
from tasks.storage.store import Store

ORPHAN = "runs/000001/shards/000000-ffffffffffffffff.tar"

POINTS = {
    "planning, before the archive is described": ("before", "archive.json"),
    "planning, half of a bundle's file copied": ("linking", "salt"),
    "planning, half of the escrow copied": ("after", "CARD.md"),
    "planning, listing published": ("after", "listing-"),
    "planning, manifest written but not linked": ("linking", "manifest.json"),
    "planning, manifest published": ("after", "manifest.json"),
    "encoding, the tar half spooled": ("spooling", ""),
    "committing, tar written but not linked": ("linking", "000000-"),
    "committing, tar published without its part": ("after", ".tar"),
    "committing, part written but not linked": ("linking", "part-000000"),
    "committing, first part published, nobody told": ("after", "part-000000"),
    "committing, last part published": ("after", "part-000001"),
    "sealing, before an orphan is removed": ("removing", ORPHAN),
    "sealing, orphan removed": ("removed", ORPHAN),
    "sealing, seal written but not linked": ("linking", "complete.json"),
    "sealing, seal published": ("after", "complete.json"),
}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(when: str, pattern: str) -> None:
    """Make the process end at the first event that fits."""
    publish, remove, link, add = Store.publish, Store.remove, Path.hardlink_to, Tar.add

    def published(self: Store, name: str, content: bytes | Path) -> bool:
        if when == "before" and pattern in name:
            die()
        stands = publish(self, name, content)
        if pattern == ORPHAN and name.endswith("manifest.json"):
            publish(self, ORPHAN, b"left by a runner that died")
        if when == "after" and pattern in name:
            die()
        return stands

    def removed(self: Store, name: str) -> None:
        if when == "removing" and name == pattern:
            die()
        remove(self, name)
        if when == "removed" and name == pattern:
            die()

    def linked(self: Path, target: Any) -> None:
        if when == "linking" and pattern in self.name:
            die()
        link(self, target)

    def added(self: Tar, name: str, data: bytes) -> int:
        if when == "spooling" and name.startswith("000001"):
            die()
        return add(self, name, data)

    changes: list[tuple[Any, str, Callable[..., Any]]] = [
        (Store, "publish", published),
        (Store, "remove", removed),
        (Path, "hardlink_to", linked),
        (Tar, "add", added),
    ]
    for owner, name, function in changes:
        setattr(owner, name, function)
