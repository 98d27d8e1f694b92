"""Files of a local folder: found through links, and put in place in one step."""

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.storage.keys import UNFINISHED

Closed = Callable[[str, OSError], None]
"""Told the relative name of what could not be looked into, a folder's with a slash at its end, and why."""


def walk(root: Path, prefix: str = "", closed: Closed | None = None) -> Iterator[tuple[str, os.stat_result]]:
    """The relative name and status of every regular file below root/prefix, links followed, in no order.

    Undecodable bytes in a name are surrogate escapes. A link that leads back to a folder above it, or nowhere, and
    whatever is neither file nor folder, are left out. What cannot be read raises OSError; below root/prefix it is told
    to `closed` instead where that is given.
    """
    start = root / prefix
    if start.is_dir():
        yield from _walk(str(start), prefix.rstrip("/") + "/" if prefix else "", (), closed)


def _walk(
    folder: str, prefix: str, above: tuple[tuple[int, int], ...], closed: Closed | None
) -> Iterator[tuple[str, os.stat_result]]:
    here = Path(folder).stat()
    identity = (here.st_dev, here.st_ino)
    if identity in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            name = f"{prefix}{entry.name}/"
            try:
                status = _status(entry)
                if status is not None and stat.S_ISDIR(status.st_mode):
                    yield from _walk(entry.path, name, (*above, identity), closed)
            except OSError as error:
                if closed is None:
                    raise
                closed(name if entry.is_dir(follow_symlinks=False) else name[:-1], error)
                continue
            if status is not None and stat.S_ISREG(status.st_mode):
                yield prefix + entry.name, status


def _status(entry: "os.DirEntry[str]") -> os.stat_result | None:
    try:
        return entry.stat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            return None
        raise


@contextmanager
def spooled(path: Path, content: bytes | Path) -> Iterator[Path]:
    """A synced temporary copy of the content beside `path`, to be linked or renamed to it; removed afterwards."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{secrets.token_hex(8)}{UNFINISHED}")
    try:
        with temporary.open("xb") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                with content.open("rb") as source:
                    shutil.copyfileobj(source, file, 1 << 20)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def sync(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_unfinished(folder: Path) -> None:
    """Delete the temporary copies that killed writers left below a folder."""
    for path in folder.rglob(f".*{UNFINISHED}"):
        path.unlink(missing_ok=True)
