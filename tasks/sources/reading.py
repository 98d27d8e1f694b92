"""Reads sources one after another, and distinguishes a lost picture from a source that is unavailable as a whole."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from codec.errors import ArchiveError
from tasks.sources.source import ChangedError, Source
from tasks.storage.store import NotFoundError, StorageError, UnreadableError

PATIENCE = 20
"""Lost pictures in a row after which the availability of the source is checked."""


class LostError(ArchiveError):
    """One picture could not be read; `reason` is one of tasks.archive.schema.FAILURES."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class SourceGoneError(StorageError):
    """The source as a whole is unavailable."""


class SourceReader:
    """Reads entries of a source. Its methods raise LostError for one entry, SourceGoneError for all that follow."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._lost = 0
        self._asked = False

    def fetch(self, entry: Mapping[str, Any]) -> bytes:
        """Reads an entry. Retries once after a failure of the store if the source is still available."""
        with self._noting(entry):
            try:
                return self._source.fetch(entry)
            except UnreadableError:  # of this file, such as a denied access: a second try would say the same
                raise
            except StorageError as error:
                self._ask(error)
                return self._source.fetch(entry)

    def pieces(self, entry: Mapping[str, Any]) -> Iterator[bytes]:
        """Yields an entry's bytes in pieces."""
        with self._noting(entry):
            yield from self._source.pieces(entry)

    @contextmanager
    def _noting(self, entry: Mapping[str, Any]) -> Iterator[None]:
        if entry.get("fault"):
            reason = "unreadable_folder" if entry["key"].endswith("/") else "source_unreadable"
            raise LostError(reason, f"could not be read: {entry['fault']}")
        try:
            yield
        except NotFoundError as error:
            self._lose(error)
            raise LostError("source_missing", "no longer exists") from error
        except ChangedError as error:
            self._lose(error)
            raise LostError("source_changed", "changed after it was listed") from error
        except SourceGoneError:
            raise
        except StorageError as error:
            self._lose(error)
            raise LostError("source_unreadable", str(error)) from error
        self._lost = 0
        self._asked = False

    def _lose(self, error: ArchiveError) -> None:
        """Counts a lost picture; raises SourceGoneError if it is lost with the whole source."""
        self._lost += 1
        is_of_this_file = isinstance(error, (NotFoundError, ChangedError, UnreadableError))
        if self._lost == PATIENCE:
            # An unmounted disk says "not found" of each file. And the source may have gone since it was last asked.
            self._asked = False
            self._ask(error)
        elif not is_of_this_file:
            self._ask(error)

    def _ask(self, error: ArchiveError) -> None:
        """Raises SourceGoneError if the source is unavailable; checked once per series of failures."""
        if not self._asked and not self._source.lists():
            raise SourceGoneError(
                f"{self._source}: is unavailable, so this shard was not committed; run again when it is back, "
                f"or close the run ({error})"
            ) from error
        self._asked = True
