"""Decoded pictures on disk, in a folder with a bound: those used longest ago are removed first.

A file is named by what determines its bytes, below the hash of the stored file that it was made from, so that pictures
which the archive no longer holds can be dropped. Nothing in it is ever executed or parsed: it is bytes and their hash.
"""

import hashlib
import os
import re
import secrets
import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from codec.errors import SettingsError

MARK = "fdcodec-gateway-cache"
"""The file that marks a folder as a cache, so that no other folder's files are ever removed."""
_SHA256 = re.compile("[0-9a-f]{64}")
HASH_BYTES = 32


class DiskCache:
    """A cache of at most `most` bytes, shared by threads. One process at a time uses a folder."""

    def __init__(self, folder: Path, most: int) -> None:
        self.folder = folder
        self.most = most
        self._lock = threading.Lock()
        self._sizes: OrderedDict[tuple[str, str], int] = OrderedDict()
        self.bytes = 0
        self._open()

    def _open(self) -> None:
        """Takes over the files of an earlier process, in the order of their last use."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        there = list(self.folder.iterdir())
        if there and not (self.folder / MARK).is_file():
            raise SettingsError(f"{self.folder}: has other files; name an empty folder for the cache")
        (self.folder / MARK).touch()
        found = []
        for path in self.folder.glob("*/*"):
            if _SHA256.fullmatch(path.parent.name) and _SHA256.fullmatch(path.name):
                found.append((path.stat().st_mtime_ns, path.stat().st_size, path))
            else:
                path.unlink(missing_ok=True)  # unfinished
        for _, size, path in sorted(found):
            self._sizes[path.parent.name, path.name] = size
            self.bytes += size
        with self._lock:
            self._shrink()

    def __len__(self) -> int:
        return len(self._sizes)

    def get(self, stored: str, *variant: object) -> bytes | None:
        """Returns what was put for a stored file's SHA-256 and a variant; None without it, or if it is damaged."""
        name = (stored, _name(variant))
        with self._lock:
            if name not in self._sizes:
                return None
            self._sizes.move_to_end(name)
        path = self.folder / name[0] / name[1]
        try:
            content = path.read_bytes()
            os.utime(path)
        except OSError:
            content = b""
        data = content[HASH_BYTES:]
        if hashlib.sha256(data).digest() != content[:HASH_BYTES]:
            with self._lock:
                self._remove(name)
            return None
        return data

    def put(self, data: bytes, stored: str, *variant: object) -> None:
        """Keeps bytes; does nothing if they alone exceed the bound, or the disk is full."""
        name = (stored, _name(variant))
        size = HASH_BYTES + len(data)
        if size > self.most:
            return
        folder = self.folder / stored
        unfinished = folder / f".{secrets.token_hex(8)}"
        try:
            folder.mkdir(exist_ok=True, mode=0o700)
            unfinished.write_bytes(hashlib.sha256(data).digest() + data)
            with self._lock:
                unfinished.replace(folder / name[1])
                self.bytes += size - self._sizes.pop(name, 0)
                self._sizes[name] = size
                self._shrink()
        except OSError:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)

    def keep_only(self, held: Callable[[set[str]], set[str]]) -> None:
        """Removes everything made from stored files that the archive no longer holds, of which `held` tells."""
        with self._lock:
            there = {stored for stored, _ in self._sizes}
        gone = there - held(there)
        with self._lock:
            for name in [name for name in self._sizes if name[0] in gone]:
                self._remove(name)
        for stored in gone:
            shutil.rmtree(self.folder / stored, ignore_errors=True)

    def _shrink(self) -> None:
        while self.bytes > self.most:
            self._remove(next(iter(self._sizes)))

    def _remove(self, name: tuple[str, str]) -> None:
        self.bytes -= self._sizes.pop(name, 0)
        path = self.folder / name[0] / name[1]
        path.unlink(missing_ok=True)
        with suppress(OSError):  # it has other variants
            path.parent.rmdir()


def _name(variant: tuple[object, ...]) -> str:
    return hashlib.sha256(repr(variant).encode()).hexdigest()
