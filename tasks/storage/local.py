"""Local files: walks folders through links, and publishes files atomically."""

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
"""Errno values of a file system without hard links."""
# Python has no exclusive rename; these are from <fcntl.h>, <linux/fs.h>, and <sys/stdio.h> of macOS
AT_FDCWD = -100
"""renameat2(2): paths are relative to the current folder."""
RENAME_NOREPLACE = 1
"""renameat2(2): fails if the new name exists."""
RENAME_EXCL = 4
"""renamex_np(2) on macOS: fails if the new name exists."""
Closed = Callable[[str, OSError], None]
"""Called with the relative name of an entry that cannot be read (a folder's ends in a slash) and the error."""


def walk(root: Path, prefix: str = "", closed: Closed | None = None) -> Iterator[tuple[str, os.stat_result]]:
    """Yields the relative name and status of every regular file below root/prefix in no order, following links.

    Undecodable bytes in a name become surrogate escapes. Links to a parent folder, broken links, and entries that are
    neither files nor folders are skipped. An entry that cannot be read raises OSError; below root/prefix it is reported
    to `closed` instead, if given.
    """
    start = root / prefix
    if not start.is_dir():
        return
    folder_name = ""
    if prefix:
        folder_name = prefix.rstrip("/") + "/"
    yield from _walk(str(start), folder_name, (), closed)


def _walk(
    folder: str, prefix: str, above: tuple[tuple[int, int], ...], closed: Closed | None
) -> Iterator[tuple[str, os.stat_result]]:
    here = Path(folder).stat()
    identity = (here.st_dev, here.st_ino)
    # a link that leads back would be followed forever; two links to one folder both yield its files, so only the
    # folders above count
    if identity in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            name = prefix + entry.name
            try:
                status = _status(entry)
                if status is not None and stat.S_ISDIR(status.st_mode):
                    yield from _walk(entry.path, f"{name}/", (*above, identity), closed)
            except OSError as error:
                if closed is None:
                    raise
                is_folder = entry.is_dir(follow_symlinks=False)
                closed(f"{name}/" if is_folder else name, error)
                continue
            if status is not None and stat.S_ISREG(status.st_mode):
                yield name, status


def _status(entry: "os.DirEntry[str]") -> os.stat_result | None:
    try:
        return entry.stat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):  # a broken link, or one that leads to itself
            return None
        raise


@contextmanager
def spooled(path: Path, content: bytes | Path) -> Iterator[Path]:
    """Writes the content to a synced temporary file next to `path`, for a link or rename; deletes it afterwards."""
    make(path.parent)
    # in the same folder, since links and renames do not cross file systems
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
    """Creates a folder and its parents durably: they survive a power failure."""
    missing = [new_folder for new_folder in (folder, *folder.parents) if not new_folder.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    # an entry is durable once the folder that holds it is synced
    for new_folder in missing:
        sync(new_folder.parent)


def claim(spooled: Path, path: Path) -> None:
    """Gives a file a new name atomically. Raises FileExistsError if the name is taken.

    Uses a hard link, or an exclusive rename on file systems without hard links (exFAT, SMB, many FUSE file systems).
    """
    try:
        path.hardlink_to(spooled)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        _rename(spooled, path)


def _rename(old: Path, new: Path) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    old_name = os.fsencode(old)
    new_name = os.fsencode(new)
    if sys.platform == "darwin":
        failed = library.renamex_np(old_name, new_name, RENAME_EXCL)
    elif hasattr(library, "renameat2"):
        failed = library.renameat2(AT_FDCWD, old_name, AT_FDCWD, new_name, RENAME_NOREPLACE)
    else:
        failed = -1
        ctypes.set_errno(errno.ENOSYS)
    if not failed:
        return
    number = ctypes.get_errno()
    if number in (*NO_LINKS, errno.EINVAL):  # Linux: EINVAL if the file system does not know the flag
        raise OSError(
            number,
            "this file system has neither hard links nor exclusive renames, so two writers could both create "
            "one name; keep the archive on another one, or in an object store",
        )
    raise OSError(number, os.strerror(number), str(new))


def sync(folder: Path) -> None:
    """Syncs a folder, so that its entries survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_unfinished(folder: Path) -> None:
    """Deletes the temporary files that killed writers left below a folder."""
    for path in folder.rglob(f".*{UNFINISHED}"):
        # its writer, or another cleaner, may be faster
        path.unlink(missing_ok=True)
