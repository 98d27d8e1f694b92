"""python -m tests.tasks.killed POINT SOURCE ARCHIVE BUNDLE: compress, and end by SIGKILL at a point of the protocol."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks.storage import Store
from tasks.tar import Tar
from tests.tasks.pictures import pack

POINTS = {
    "planning, before the archive is described": ("before", "archive.json"),
    "planning, half of a bundle's file copied": ("linking", "salt"),
    "planning, half of the escrow copied": ("after", "CARD.md"),
    "planning, listing published": ("after", "listing-"),
    "planning, manifest written but not linked": ("linking", "manifest.json"),
    "planning, manifest published": ("after", "manifest.json"),
    "encoding, the tar half spooled": ("spooling", ""),
    "committing, tar written but not linked": ("linking", "000000-"),
    "committing, tar published": ("after", ".tar"),
    "committing, part written but not linked": ("linking", "part-000000"),
    "committing, first part published": ("after", "part-000000"),
    "committing, last part published": ("after", "part-000001"),
    "sealing, seal written but not linked": ("linking", "complete.json"),
    "sealing, seal published": ("after", "complete.json"),
}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(when: str, pattern: str) -> None:
    """Make the process end at the first event that fits."""
    publish, link, add = Store.publish, Path.hardlink_to, Tar.add

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
        if when == "spooling" and name.startswith("000001"):
            die()
        return add(self, name, data)

    changes: list[tuple[Any, str, Callable[..., Any]]] = [
        (Store, "publish", published),
        (Path, "hardlink_to", linked),
        (Tar, "add", added),
    ]
    for owner, name, function in changes:
        setattr(owner, name, function)


if __name__ == "__main__":
    arm(*POINTS[sys.argv[1]])
    pack(sys.argv[2], sys.argv[3], Path(sys.argv[4]))
