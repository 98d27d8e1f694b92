"""Sources read one after another: what one of them is to blame for, told from a source that is gone as a whole."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from codec.errors import ArchiveError
from tasks.sources.source import ChangedError, Source
from tasks.storage.store import NotFoundError, StorageError, UnreadableError

PATIENCE = 20
"""So many in a row may be lost until the source is asked whether it is there at all."""


class LostError(ArchiveError):
    """The bytes of one source could not be had, for a reason of tasks.archive.schema.FAILURES."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class SourceGoneError(StorageError):
    """A source shows nothing any more."""


class SourceReader:
    """Reads entries of a source. Its methods raise LostError for one entry, SourceGoneError for all that follow."""

    def __init__(self, source: Source) -> None:
        self._source, self._lost, self._asked = source, 0, False

    def fetch(self, entry: Mapping[str, Any]) -> bytes:
        """An entry's bytes. What is not the entry's own fault is tried once more if the source is still there."""
        with self._noting(entry):
            try:
                return self._source.fetch(entry)
            except UnreadableError:
                raise
            except StorageError as error:
                self._ask(error)
                return self._source.fetch(entry)

    def pieces(self, entry: Mapping[str, Any]) -> Iterator[bytes]:
        """An entry's bytes piece by piece."""
        with self._noting(entry):
            yield from self._source.pieces(entry)

    @contextmanager
    def _noting(self, entry: Mapping[str, Any]) -> Iterator[None]:
        if entry.get("fault"):
            reason = "unreadable_folder" if entry["key"].endswith("/") else "source_unreadable"
            raise LostError(reason, f"could not be looked into: {entry['fault']}")
        try:
            yield
        except NotFoundError as error:
            self._lose(error)
            raise LostError("source_missing", "not there any more") from error
        except ChangedError as error:
            self._lose(error)
            raise LostError("source_changed", "changed after it was listed") from error
        except SourceGoneError:
            raise
        except StorageError as error:
            self._lose(error)
            raise LostError("source_unreadable", str(error)) from error
        self._lost, self._asked = 0, False

    def _lose(self, error: ArchiveError) -> None:
        self._lost += 1
        if self._lost == PATIENCE:
            self._asked = False
        if self._lost == PATIENCE or not isinstance(error, (NotFoundError, ChangedError, UnreadableError)):
            self._ask(error)

    def _ask(self, error: ArchiveError) -> None:
        """Raise SourceGoneError when the source shows nothing any more; it is asked once in a row of failures."""
        if not self._asked and not self._source.lists():
            raise SourceGoneError(
                f"{self._source}: shows nothing any more, so nothing of this shard was committed; run again when it is "
                f"back, or close the run ({error})"
            ) from error
        self._asked = True
