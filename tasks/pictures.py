"""The two pictures of a row of the report: the source, where it is still there, and what the archive keeps of it."""

import hashlib
import threading
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Self

from codec.errors import ArchiveError, FdcError
from codec.images import Picture, read_image
from tasks import escrow, names
from tasks.channel import Child, ChildDied
from tasks.models import Models, worker
from tasks.storage import Store

SECONDS = 1800.0

Row = dict[str, Any]


class Pictures:
    """Reads pictures of an archive; a context, in which each bundle's decoder is started once, when first needed.

    Threads may share it: one picture is decoded at a time. Both methods raise ArchiveError, of one line, for a picture
    that cannot be had.
    """

    def __init__(self, archive: Store, models: Models = Models("")) -> None:  # noqa: B008  # frozen
        self._archive, self._models = archive, models
        self._stack, self._decoders, self._lock = ExitStack(), dict[str, Child](), threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def original(self, row: Row) -> Picture:
        """The source that a row describes, only if it still has the content that was compressed."""
        folder, _, name = names.name_of(row["source_uri"]).rpartition("/")
        data = Store(folder).read(name)
        if hashlib.sha256(data).hexdigest() != row["source_sha256"]:
            raise ArchiveError(f"{row['source_uri']}: changed since it was compressed")
        return _read(data)  # with this very content it was read before, in a process of its own

    def kept(self, row: Row) -> Picture:
        """The picture that the archive gives back for a row with a stored file."""
        data = self._archive.read_range(row["tar"], row["offset"], row["length"])
        if hashlib.sha256(data).hexdigest() != row["sha256"]:
            raise ArchiveError(f"{self._archive.uri(row['tar'])}: damaged at byte {row['offset']}")
        if row["codec"] == "original":
            return _read(data)
        with self._lock:
            try:
                answer, decoded = self._decoder(row["bundle_id"]).ask({"do": "decode"}, data, seconds=SECONDS)
            except ChildDied as death:
                raise ArchiveError(f"{row['key']}: cannot be decoded: {death}") from death
        if "failed" in answer:
            raise ArchiveError(f"{row['key']}: cannot be decoded: {answer['error']}")
        return _read(decoded)

    def _decoder(self, bundle_id: str) -> Child:
        if bundle_id not in self._decoders:
            bundle = self._stack.enter_context(escrow.bundle(self._archive, bundle_id))
            self._decoders[bundle_id] = self._stack.enter_context(worker(replace(self._models, bundle=bundle)))
        return self._decoders[bundle_id]


def _read(data: bytes) -> Picture:
    try:
        return read_image(data)
    except FdcError as error:
        raise ArchiveError(str(error)) from error
