"""A read-only fsspec file system with the pictures of an archive, decoded when read.

    fsspec.open("fdc://2024/beach.jpg.png::s3://bucket/archive")

The paths are those that restore-archive writes: the key with `.png` appended (unless it already ends in it), the
unchanged key if the source's own bytes are restored, and the key with `.mp4` appended for the video of a motion photo.
Sizes are unknown before decoding, so `info` gives None. Keys with empty, `.` or `..` parts, and keys that are the
folder of another key, are not accessible; restore-archive writes them.
"""

import errno
import io
import os
import tempfile
import threading
import weakref
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO

from fsspec.spec import AbstractFileSystem

from tasks.archive import report
from tasks.archive.decoders import Decoders
from tasks.archive.opening import existing
from tasks.processes.codec_process import Models, worker
from tasks.restore import selection
from tasks.restore.stored_file import FILM, StoredFile, copy_member, decoded, is_large, playable, read_member
from tasks.storage import parquet
from tasks.storage.keys import key_of, name_of

_KEYS = "SELECT DISTINCT key FROM rows WHERE tar IS NOT NULL AND starts_with(key, $folder)"
_FILES = f"{_KEYS} AND NOT contains(substr(key, length($folder) + 1), '/')"
_FOLDERS = f"""
    SELECT DISTINCT split_part(substr(key, length($folder) + 1), '/', 1) AS name FROM ({_KEYS})
    WHERE contains(substr(key, length($folder) + 1), '/') ORDER BY name
"""


class ArchiveFileSystem(AbstractFileSystem):
    """The kept pictures of one archive, each in its last version. Each call reads the current state.

    `fo` and `target_protocol` locate the archive, as fsspec passes them for a chained URL. Credentials come from the
    environment, so `target_options` are refused. `as_of` shows the pictures kept up to that run. The other options are
    those of `Models`: device, backbone, threads, codec.
    """

    protocol = "fdc"
    cachable = False

    def __init__(
        self,
        fo: str,
        target_protocol: str = "file",
        target_options: dict[str, Any] | None = None,
        as_of: int | None = None,
        **options: Any,
    ) -> None:
        model_options = {}
        for name in ("device", "backbone", "threads", "codec"):
            if name in options:
                model_options[name] = options.pop(name)
        super().__init__(**options)
        if target_options:
            raise ValueError(
                f"{', '.join(target_options)}: not supported; set credentials and options in the environment"
            )
        location = fo if target_protocol == "file" else f"{target_protocol}://{fo}"
        self._archive = existing(location)
        self._as_of = as_of
        self._decoders = Decoders(self._archive, Models("", **model_options), worker)
        self._one_at_a_time = threading.Lock()
        # fsspec has no call that closes a file system
        weakref.finalize(self, self._decoders.close)

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """Lists the pictures and folders directly in a folder."""
        folder = self._strip_protocol(path)
        member = self._member(folder)
        if member is not None:  # fsspec: a file lists itself
            entries = [_file(member)]
        else:
            entries = self._children(folder)
        if not entries and folder:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        if not detail:
            return [entry["name"] for entry in entries]
        return entries

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Returns name and type and, for a picture, its key, width and height."""
        path = self._strip_protocol(path)
        member = self._member(path)
        if member is not None:
            return _file(member)
        if path and not self._children(path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return _folder(path)

    def _open(self, path: str, mode: str = "rb", **_: Any) -> BinaryIO:
        if mode != "rb":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        member = self._member(self._strip_protocol(path))
        if member is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        if is_large(member):
            with tempfile.TemporaryDirectory() as scratch:
                copy = Path(scratch) / "member"
                copy_member(self._archive, member, copy)
                return copy.open("rb")  # its bytes stay available until it is closed
        data = read_member(self._archive, member)
        if member.source_format == FILM:
            data = playable(data)
        elif member.codec != "original":
            with self._one_at_a_time:
                data, _left_behind = decoded(self._decoders.get(member.bundle_id), member, data)
        return io.BytesIO(data)

    def _member(self, path: str) -> StoredFile | None:
        """Finds the picture that restore-archive would write to a path: its key is the path without added `.png`."""
        keys = [key_of(path)]
        # the extension may be the key's own or an added one, and is repeated where names conflict
        while keys[-1].lower().endswith((".png", ".mp4")):
            keys.append(keys[-1][:-4])
        for member in selection.find(self._archive, keys, self._as_of):
            if member.target == path:
                return member
        return None

    def _children(self, path: str) -> list[dict[str, Any]]:
        folder = f"{key_of(path)}/" if path else ""
        with parquet.database(rows=report.rows(self._archive)) as connection:
            keys = [key for (key,) in connection.execute(_FILES, {"folder": folder}).fetchall()]
            inner = connection.execute(_FOLDERS, {"folder": folder}).fetchall()
        folders = [_folder(name_of(folder + name)) for (name,) in inner]
        # the database is closed: `find` opens one of its own, and asks for the keys of this folder only
        files = [_file(member) for member in selection.find(self._archive, keys, self._as_of)]
        return folders + sorted(files, key=itemgetter("name"))


def _folder(path: str) -> dict[str, Any]:
    return {"name": path, "size": 0, "type": "directory"}


def _file(member: StoredFile) -> dict[str, Any]:
    about = {"key": member.key, "width": member.width, "height": member.height}
    return {"name": member.target, "size": None, "type": "file", **about}
