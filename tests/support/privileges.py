"""File permissions that hold for the tests even where root runs them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65534


@contextmanager
def without_privileges(home: Path) -> Iterator[None]:
    """Act as a user without privileges who owns everything below `home`, which must be a folder anybody can reach.

    The modes of files then decide what may be read and written.
    """
    # Only root passes over modes, and only root can become somebody else.
    if os.geteuid() != 0:
        yield
        return
    for path in (home, *home.rglob("*")):
        os.chown(path, NOBODY, -1, follow_symlinks=False)
    os.seteuid(NOBODY)  # the effective user only, so that root can come back
    try:
        yield
    finally:
        os.seteuid(0)
