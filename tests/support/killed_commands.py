"""python -m tests.support.killed_commands VERB ARCHIVE FOLDER: a verb, each time killed one change to the store later.

FOLDER/<n> is a copy of the archive in which the verb ended by SIGKILL just before its n-th change, for every n that it
gets to. One process forks them all, before any library has threads: starting each anew would take seconds.
"""

import functools
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks.maintenance import compaction
from tasks.maintenance.forget import forget
from tasks.maintenance.upgrade import upgrade
from tasks.storage.store import Store

CHANGES = ("publish", "replace", "remove", "remove_folder")
VERBS: dict[str, Callable[[Store], object]] = {
    "compact": compaction.compact,
    "redact": functools.partial(forget, keys=["b", "c"], redact=True),
    "forget": functools.partial(forget, keys=["b", "c"]),
    "upgrade": upgrade,
}


def arm(survive: int) -> None:
    """End this process at the change that follows `survive` others."""
    left = survive

    def counted(change: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Store, *arguments: Any) -> Any:
            nonlocal left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return change(self, *arguments)

        return call

    for name in CHANGES:
        setattr(Store, name, counted(getattr(Store, name)))


def main(verb: str, archive: Path, folder: Path) -> None:
    for survive in range(1000):
        copy = folder / str(survive)
        shutil.copytree(archive, copy)
        child = os.fork()
        if child == 0:
            arm(survive)
            VERBS[verb](Store(str(copy)))
            os._exit(0)  # the child must not go on with this loop, nor run what the parent does at its exit
        # A verb that came to its end has no further change to be killed at.
        if os.waitpid(child, 0)[1] != signal.SIGKILL:
            shutil.rmtree(copy)
            return


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
