"""Processes with the models of a shard. Idle ones are reused, so a worker loads its models once."""

import atexit
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from codec.errors import ArchiveError
from tasks.archive import escrow, layout
from tasks.processes.child import Child
from tasks.processes.codec_process import Models, verifier, worker
from tasks.storage.store import Store

IDLE_SECONDS = 10.0
"""Seconds an idle pair is kept for the next shard."""


class ProcessPair:
    """An encoding process and a verifying process, both with the archive's own copy of a bundle.

    Both use the device of the models. If that is not the CPU, `checker` also decodes on the CPU.

    Raises ArchiveError if they cannot start, or load a different bundle than the run was planned with.
    """

    def __init__(self, archive: Store, bundle_id: str, models: Models, metrics: tuple[str, ...]) -> None:
        with ExitStack() as stack:
            copy = escrow.bundle(archive, bundle_id, with_backbone=not models.backbone)
            models = replace(models, bundle=stack.enter_context(copy))
            self.encoder = stack.enter_context(worker(models, metrics))
            self.decoder = stack.enter_context(verifier(models, on_card=True))
            self.checker: Child | None = None
            if models.device != "cpu":
                self.checker = stack.enter_context(verifier(models))
            if self.encoder.greeting()["bundle_id"] != bundle_id:
                raise ArchiveError(
                    f"{archive.uri(layout.escrow(bundle_id))}: the bundle has a different id; restore it from a mirror"
                )
            self._stack = stack.pop_all()  # from here on `close` ends the processes; an error above ends them at once

    def close(self) -> None:
        """Ends all processes."""
        self._stack.close()


_Key = tuple[str, str, Models, tuple[str, ...]]
_idle: dict[_Key, list[tuple[ProcessPair, threading.Timer]]] = defaultdict(list)
_lock = threading.Lock()


@contextmanager
def for_shard(archive: Store, bundle_id: str, models: Models, metrics: tuple[str, ...]) -> Iterator[ProcessPair]:
    """Yields a pair for one shard, idle or new. Ends it after an error."""
    key = (archive.url, bundle_id, models, metrics)
    with _lock:
        found = _idle[key].pop() if _idle[key] else None
    if found:
        pair, timer = found
        timer.cancel()  # if it has fired already, `_dismiss` finds the pair taken and leaves it
    else:
        pair = ProcessPair(archive, bundle_id, models, metrics)
    try:
        yield pair
    except BaseException:  # its processes may be in the middle of a request, so the next shard gets new ones
        pair.close()
        raise
    timer = threading.Timer(IDLE_SECONDS, _dismiss, [key, pair])
    timer.daemon = True
    with _lock:
        _idle[key].append((pair, timer))
    timer.start()


def _dismiss(key: _Key, pair: ProcessPair) -> None:
    """Ends a pair that is still idle."""
    with _lock:
        found = [entry for entry in _idle[key] if entry[0] is pair]  # none if a shard took it just now
        for entry in found:
            _idle[key].remove(entry)
    if found:  # outside the lock: ending processes takes time
        pair.close()


@atexit.register
def dismiss_all() -> None:
    """Ends all idle pairs."""
    for key, entries in list(_idle.items()):
        for pair, timer in list(entries):
            timer.cancel()
            _dismiss(key, pair)
