"""Reads both pictures of a report row: the source, if it still exists, and the picture from the archive."""

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
    """Reads pictures of an archive. A context manager that starts each bundle's decoder once, on first use.

    Thread-safe: one picture is decoded at a time. Both methods raise ArchiveError, with a message of one line, for an
    unavailable picture.
    """

    def __init__(self, archive: Store, models: Models = Models("")) -> None:  # noqa: B008  # frozen
        self._archive = archive
        self._lock = threading.Lock()  # a decoder answers one request at a time
        self._decoders = Decoders(archive, models, worker)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._decoders.close()

    def original(self, row: Row) -> Picture:
        """Reads the source of a row; raises ArchiveError if its content has changed since."""
        address, start = part_of(row["source_uri"])
        root, name = root_and_name(name_of(address))
        store = Store(root)
        size = row["source_bytes"]
        if start is not None:
            data = store.read_range(name, start, size)
        else:
            store.item(name)  # raises if an empty source is gone, of which nothing is read
            # one byte more than the row says: a source that grew has another hash, and is read no further
            data = b"".join(store.pieces(name, size + 1)) if size else b""
        if hashlib.sha256(data).hexdigest() != row["source_sha256"]:
            raise ArchiveError(f"{row['source_uri']}: changed since it was compressed")
        return _read(data)  # equal content was read before, in a separate process

    def stored(self, row: Row) -> Picture:
        """Decodes the stored file of a row."""
        fields: dict[str, Any] = {name: value for name, value in row.items() if name in _OF_ROW}
        member = StoredFile(target="", **fields)
        data = read_member(self._archive, member)
        if member.codec != "original":
            with self._lock:
                data, _ = decoded(self._decoders.get(member.bundle_id), member, data)
        return _read(data)


def _read(data: bytes) -> Picture:
    """Converts a picture for display: upright, in sRGB, without metadata."""
    try:
        picture = read_source(data).picture or read_image(data)
        shown = upright(dataclasses.replace(picture, blocks=()))
        if shown.icc is None:
            return shown
        pixels = np.asarray(spaces.to_srgb(Image.fromarray(shown.pixels), shown.icc))
        return dataclasses.replace(shown, pixels=pixels, icc=None)
    except FdcError as error:
        raise ArchiveError(str(error)) from error
