"""Processes that decode with the archive's own bundles."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Self

from codec.errors import ArchiveError
from tasks.archive import escrow, layout
from tasks.processes.child import Child
from tasks.processes.codec_process import Models
from tasks.storage.store import Store


class Decoders:
    """Starts one process per bundle with `start`, on first use, and ends all of them when the context exits."""

    def __init__(self, archive: Store, models: Models, start: Callable[[Models], Child]) -> None:
        self._archive = archive
        self._models = models
        self._start = start
        self._stack = ExitStack()
        self._started: dict[str, Child] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all processes; `get` starts new ones."""
        self._started.clear()
        self._stack.close()

    def get(self, bundle_id: str) -> Child:
        """Returns the process for the archive's copy of a bundle; raises ArchiveError if the copy is invalid."""
        if bundle_id not in self._started:
            copy = escrow.bundle(self._archive, bundle_id, with_backbone=not self._models.backbone)
            bundle = self._stack.enter_context(copy)
            models = replace(self._models, bundle=bundle)
            child = self._stack.enter_context(self._start(models))
            # The id is a hash of the bundle's content, so a bundle that was exchanged in the escrow shows here.
            if child.greeting()["bundle_id"] != bundle_id:
                where = self._archive.uri(layout.escrow(bundle_id))
                raise ArchiveError(f"{where}: the bundle has a different id; restore it from a mirror")
            self._started[bundle_id] = child
        return self._started[bundle_id]
