"""The output of a training at a URL: worked on in a local folder that starts as what is stored, and sent back to it."""

import hashlib
import shutil
import tempfile
from pathlib import Path

from tasks.storage.keys import UNFINISHED
from tasks.storage.store import Store

DATA = "data"
"""Copies of the shards, which stay local."""
CHECKPOINTS = "checkpoints"


class RemoteOutput:
    """A URL and the folder that stands for it: the same one for the same URL, so that shards are copied once."""

    def __init__(self, url: str) -> None:
        self._store = Store(url)
        digest = hashlib.sha256(self._store.url.encode()).hexdigest()[:16]
        self.folder = Path(tempfile.gettempdir()) / f"fdcodec-training-{digest}"
        self._sent: dict[str, tuple[int, int] | bytes] = {}

    def fetch(self) -> None:
        """Make the folder what is stored: another machine may have trained last."""
        for path in self.folder.iterdir():
            if path.name == DATA or path.name.startswith("."):
                continue
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for item in list(self._store.list()):
            path = self.folder / item.name
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._store.open(item.name) as source, path.open("wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
        self._sent = {name: _state(path) for name, path in self._files().items()} | self._indexes()

    def checkpoint_is_new(self) -> bool:
        """Whether a checkpoint was written since the last one was sent."""
        return any(self._sent.get(name) != content for name, content in self._indexes().items())

    def send(self) -> None:
        """Store what has changed, the index of a checkpoint after its pieces, and remove pieces that it replaced.

        While a newer checkpoint takes the place of the one that is being sent, nothing more is sent: it follows.
        """
        indexes = self._indexes()
        files = {name: path for name, path in self._files().items() if name not in indexes}
        for name, path in files.items():
            try:
                state, content = _state(path), path.read_bytes()
            except FileNotFoundError:
                return
            if self._sent.get(name) != state:
                self._store.replace(name, content)
                self._sent[name] = state
        if indexes != self._indexes():
            return
        for name, index in indexes.items():
            if self._sent.get(name) != index:
                self._store.replace(name, index)
                self._sent[name] = index
        for name in self._sent.keys() - files.keys() - indexes.keys():
            self._store.remove(name)
            del self._sent[name]

    def _files(self) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            if path.is_file() and not name.startswith((f"{DATA}/", ".")) and not name.endswith((".spool", UNFINISHED)):
                found[name] = path
        return found

    def _indexes(self) -> dict[str, bytes]:
        folder = self.folder / CHECKPOINTS
        return {f"{CHECKPOINTS}/{path.name}": path.read_bytes() for path in sorted(folder.glob("*.json"))}


def _state(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns
