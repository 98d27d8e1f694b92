"""Permissions that hold for the tests too, also where root runs them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65534


@contextmanager
def without_privileges(home: Path, *others: Path) -> Iterator[None]:
    """As a user who owns all below a folder, where modes hold; that one and the other folders can be reached."""
    if os.geteuid() != 0:
        yield
        return
    for path in (home, *home.rglob("*")):
        os.chown(path, NOBODY, -1, follow_symlinks=False)
    way = {*home.parents, *(folder for place in others for folder in (place, *place.parents))}
    modes = {folder: folder.stat().st_mode for folder in way}
    closed = [(folder, mode) for folder, mode in modes.items() if mode & 0o55 != 0o55]
    try:
        for folder, mode in closed:
            folder.chmod(mode | 0o55)
        os.seteuid(NOBODY)
        yield
    finally:
        os.seteuid(0)
        for folder, mode in closed:
            folder.chmod(mode)
