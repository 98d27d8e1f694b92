"""Training output at a URL: downloaded to a local folder at the start, uploaded as it changes."""

from tasks.storage.working_copy import WorkingCopy

DATA = "data"
"""Copies of the shards, which are not uploaded. The folder is the same for the same URL, so they are copied once."""


class RemoteOutput(WorkingCopy):
    """A training's output. The index of a checkpoint lists its files, so it is uploaded after them."""

    def __init__(self, url: str) -> None:
        super().__init__(url, "training", local=DATA, vouching="checkpoints/*.json")

    def checkpoint_is_new(self) -> bool:
        """Whether a checkpoint was written since the last upload."""
        return any(self._sent.get(name) != content for name, content in self._vouching().items())

    def _overtaken(self, vouching: dict[str, bytes]) -> bool:
        # a newer index: the training has deleted pieces that the older one lists
        return vouching != self._vouching()
