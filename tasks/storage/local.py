"""Files of a local folder: found through links, and put in place in one step."""

import ctypes
import errno
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.storage.keys import UNFINISHED

NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)
"""What the system says where there are no hard links."""
AT_FDCWD, RENAME_NOREPLACE, RENAME_EXCL = -100, 1, 4
"""Of renameat2(2), and of renamex_np(2) of macOS."""
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
    make(path.parent)
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


def make(folder: Path) -> None:
    """Make a folder and those above it; their names survive a power cut too."""
    missing = [new_folder for new_folder in (folder, *folder.parents) if not new_folder.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for new_folder in missing:
        sync(new_folder.parent)


def claim(spooled: Path, path: Path) -> None:
    """Give a file a name that nothing has, in one step; raises FileExistsError.

    By a hard link, or where the file system has none (exFAT, SMB, many in user space) by an exclusive rename.
    """
    try:
        path.hardlink_to(spooled)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        _rename(spooled, path)


def _rename(old: Path, new: Path) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(old), os.fsencode(new)
    if sys.platform == "darwin":
        failed = library.renamex_np(*names, RENAME_EXCL)
    elif hasattr(library, "renameat2"):
        failed = library.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_NOREPLACE)
    else:
        failed, _ = -1, ctypes.set_errno(errno.ENOSYS)
    if failed:
        number = ctypes.get_errno()
        if number in (*NO_LINKS, errno.EINVAL):
            raise OSError(
                number,
                "this file system has neither hard links nor renames that replace nothing, so two writers could both "
                "take one name; keep the archive on another one, or in an object store",
            )
        raise OSError(number, os.strerror(number), str(new))


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
