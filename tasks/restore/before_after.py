"""The two pictures of a row of the report: the source, where it is still there, and what the archive keeps of it."""

import dataclasses
import hashlib
import threading
from typing import Any, Self

import numpy as np
from PIL import Image

from codec.color import spaces
from codec.containers.reading import read_source
from codec.containers.writing import upright
from codec.errors import ArchiveError, FdcError
from codec.images import Picture, read_image
from tasks.archive.decoders import Decoders
from tasks.archive.schema import Row
from tasks.processes.codec_process import Models, worker
from tasks.restore.stored_file import StoredFile, decoded, read_member
from tasks.storage.keys import name_of, part_of, root_and_name
from tasks.storage.store import Store

_OF_ROW = [field.name for field in dataclasses.fields(StoredFile) if field.name != "target"]


class Pictures:
    """Reads pictures of an archive; a context, in which each bundle's decoder is started once, when first needed.

    Threads may share it: one picture is decoded at a time. Both methods raise ArchiveError, of one line, for a picture
    that cannot be had.
    """

    def __init__(self, archive: Store, models: Models = Models("")) -> None:  # noqa: B008  # frozen
        self._archive, self._lock = archive, threading.Lock()
        self._decoders = Decoders(archive, models, worker)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._decoders.close()

    def original(self, row: Row) -> Picture:
        """The source that a row describes, only if it still has the content that was compressed."""
        address, start = part_of(row["source_uri"])
        root, name = root_and_name(name_of(address))
        store, size = Store(root), row["source_bytes"]
        if start is not None:
            data = store.read_range(name, start, size)
        else:
            store.item(name)
            data = b"".join(store.pieces(name, size + 1)) if size else b""
        if hashlib.sha256(data).hexdigest() != row["source_sha256"]:
            raise ArchiveError(f"{row['source_uri']}: changed since it was compressed")
        return _read(data)  # with this very content it was read before, in a process of its own

    def stored(self, row: Row) -> Picture:
        """The picture that the archive gives back for a row with a stored file."""
        fields: dict[str, Any] = {name: value for name, value in row.items() if name in _OF_ROW}
        member = StoredFile(target="", **fields)
        data = read_member(self._archive, member)
        if member.codec != "original":
            with self._lock:
                data, _ = decoded(self._decoders.get(member.bundle_id), member, data)
        return _read(data)


def _read(data: bytes) -> Picture:
    """A picture as a viewer shows it, in sRGB and without what it says beside its pixels."""
    try:
        picture = read_source(data).picture or read_image(data)
        shown = upright(dataclasses.replace(picture, blocks=()))
        if shown.icc is None:
            return shown
        pixels = np.asarray(spaces.to_srgb(Image.fromarray(shown.pixels), shown.icc))
        return dataclasses.replace(shown, pixels=pixels, icc=None)
    except FdcError as error:
        raise ArchiveError(str(error)) from error
