"""The output of a training at a URL: worked on in a local folder that starts as what is stored, and sent back to it."""

from tasks.storage.working_copy import WorkingCopy

DATA = "data"
"""Copies of the shards, which stay local: the folder is the same one for the same URL, so they are made once."""


class RemoteOutput(WorkingCopy):
    """A training's output. The index of a checkpoint vouches for its pieces."""

    def __init__(self, url: str) -> None:
        super().__init__(url, "training", local=DATA, vouching="checkpoints/*.json")

    def checkpoint_is_new(self) -> bool:
        """Whether a checkpoint was written since the last one was sent."""
        return any(self._sent.get(name) != content for name, content in self._vouching().items())

    def _overtaken(self, vouching: dict[str, bytes]) -> bool:
        return vouching != self._vouching()
