"""A local working copy of a folder at a URL: downloaded at the start, uploaded as it changes."""

import hashlib
import shutil
import tempfile
from pathlib import Path

from tasks.storage.keys import UNFINISHED
from tasks.storage.store import Store

PARTIAL = (".spool", ".partial", UNFINISHED)
"""Suffixes of files that are still being written."""


class WorkingCopy:
    """A URL and its local folder, which is the same for the same URL and purpose.

    Hidden files and files below `local` are not uploaded. Files that match `vouching` list other files, so they are
    uploaded after them.
    """

    def __init__(self, url: str, purpose: str, *, local: str = "", vouching: str = "") -> None:
        self._store = Store(url)
        self._local = local
        self._pattern = vouching
        digest = hashlib.sha256(self._store.url.encode()).hexdigest()[:16]
        self.folder = Path(tempfile.gettempdir()) / f"fdcodec-{purpose}-{digest}"
        self._sent: dict[str, tuple[int, int] | bytes] = {}

    def fetch(self) -> None:
        """Makes the folder equal to the stored one: another machine may have worked on it last."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.iterdir():
            if path.name == self._local or path.name.startswith("."):
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        for item in list(self._store.list()):
            path = self.folder / item.name
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._store.open(item.name) as source, path.open("wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
        self._sent = {}
        for name, path in self._files().items():
            self._sent[name] = _state(path)
        # by their content, not their time: a list that was written again unchanged is not uploaded again
        self._sent |= self._vouching()

    def send(self) -> None:
        """Uploads changed files, the `vouching` ones last, and deletes files that were deleted locally.

        If a file changes during its upload, the call stops; the next one uploads the rest.
        """
        vouching = self._vouching()  # first: what they list is already on disk now
        files = {name: path for name, path in self._files().items() if name not in vouching}
        for name, path in files.items():
            try:
                state = _state(path)  # before the bytes, so that a write in between is uploaded next time
                content = path.read_bytes()
            except FileNotFoundError:  # the folder is changing right now
                return
            if self._sent.get(name) != state:
                self._store.replace(name, content)
                self._sent[name] = state
        if self._overtaken(vouching):
            return
        for name, content in vouching.items():
            if self._sent.get(name) != content:
                self._store.replace(name, content)
                self._sent[name] = content
        # last, so that a list never names a file that is gone
        for name in self._sent.keys() - files.keys() - vouching.keys():
            self._store.remove(name)
            del self._sent[name]

    def _overtaken(self, vouching: dict[str, bytes]) -> bool:
        """Whether uploaded files no longer match what these files list."""
        return False

    def _files(self) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            if self._local and name.startswith(f"{self._local}/"):
                continue
            if name.startswith(".") or name.endswith(PARTIAL):
                continue
            if path.is_file():
                found[name] = path
        return found

    def _vouching(self) -> dict[str, bytes]:
        if not self._pattern:
            return {}
        paths = sorted(self.folder.glob(self._pattern))
        return {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in paths}


def _state(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns
